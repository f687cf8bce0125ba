package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

const (
	proveTimeout = 30 * time.Second
	maxAnswer    = 1 << 20
)

// rotationBinding is what a cluster needs so that its nodes may have their certificates approved when they rotate.
const rotationBinding = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: kubeadm:node-autoapprove-certificate-rotation
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:nodes
`

// proveOverNetwork authenticates with the files on disk, as a kubelet would.
func (a *Agent) proveOverNetwork(ctx context.Context, disk *rotate.Disk) error {
	cluster, err := clusterOf(disk.Kubeconfig)
	if err != nil {
		return err
	}
	proof, err := a.authenticate(ctx, cluster, disk.Pair)
	if err != nil {
		a.markDead(disk.Pair, err)
		return err
	}
	switch {
	case proof.accessErr != nil:
		a.tell(Notice{Text: fmt.Sprintf("could not find out whether this node may rotate its certificate: %v", proof.accessErr)})
	case !proof.mayRotate:
		a.tell(Notice{
			Text:   "this node may not rotate its certificate: a ClusterRoleBinding is missing, and without it the certificate will expire",
			Remedy: "kubectl apply -f - <<'EOF'\n" + rotationBinding + "EOF",
		})
	}
	return nil
}

// markDead remembers a certificate that the API server does not know any more: the next pass asks for another.
func (a *Agent) markDead(pair *rotate.KeyPair, err error) {
	if errors.Is(err, csr.ErrUnauthorized) {
		a.dead = pair.Fingerprint()
	}
}

// clusterOf returns the cluster that the node's own kubeconfig names.
func clusterOf(k *rotate.Kubeconfig) (*bootstrap.Cluster, error) {
	damaged := func(err error) error {
		return fault.New(fault.Files, "remove it and join again, with --force", "the node's kubeconfig cannot be used: %w", err)
	}
	endpoint, err := bootstrap.ParseEndpoint(k.Server)
	if err != nil {
		return nil, damaged(err)
	}
	ca, err := bootstrap.ParseBundle(k.CA, time.Now())
	if err != nil {
		return nil, damaged(err)
	}
	proxy, err := bootstrap.ParseProxyURL(k.ProxyURL)
	if err != nil {
		return nil, damaged(err)
	}
	return &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: ca, TLSServerName: k.TLSServerName, ProxyURL: proxy}, nil
}

// proof is what an API server answered to a node that authenticated.
type proof struct {
	mayRotate bool  // it may have its next certificate approved
	accessErr error // why that is not known
}

// errForbidden is wrapped in the error of a request that the API server forbids.
var errForbidden = errors.New("forbidden")

// authenticate connects as the node and asks the API server who that is (SelfSubjectReview) and whether it may have
// its next certificate approved (SelfSubjectAccessReview). A refusal is believed when it was repeated over distinct
// connections.
func (a *Agent) authenticate(ctx context.Context, cluster *bootstrap.Cluster, pair *rotate.KeyPair) (*proof, error) {
	conn := bootstrap.ConnectionTo(cluster, a.log)
	conn.Certificate = pair.TLS()
	defer conn.Close()
	var pause backoff
	for attempt := 1; ; attempt++ {
		proof, err := a.askAsNode(ctx, conn)
		if refused := errors.Is(err, csr.ErrUnauthorized) || errors.Is(err, errForbidden); !refused || attempt == refusalLimit {
			return proof, err
		}
		conn.Next()
		if err := pause.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (a *Agent) askAsNode(ctx context.Context, conn *bootstrap.Connection) (*proof, error) {
	ctx, cancel := context.WithTimeout(ctx, proveTimeout)
	defer cancel()
	var access authorization.SelfSubjectAccessReview
	asked := make(chan error, 1)
	go func() {
		asked <- a.post(ctx, conn, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", authorization.SelfSubjectAccessReview{
			Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorization.ResourceAttributes{
				Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: "selfnodeclient",
			}},
		}, &access)
	}()
	var review authentication.SelfSubjectReview
	err := a.post(ctx, conn, "/apis/authentication.k8s.io/v1/selfsubjectreviews", authentication.SelfSubjectReview{}, &review)
	accessErr := <-asked
	if errors.Is(accessErr, csr.ErrUnauthorized) {
		err = accessErr // with 401 the API server ends the connection, and the other request may see no more than that
	}
	if err != nil {
		return nil, err
	}
	user := review.Status.UserInfo
	if user.Username != "system:node:"+a.node || !slices.Contains(user.Groups, "system:nodes") {
		return nil, fault.New(fault.Denied, "look at the API server's authentication configuration: something maps the certificate to another user",
			"the API server takes this node for %q in %q instead of %q in system:nodes", user.Username, user.Groups, "system:node:"+a.node)
	}
	return &proof{mayRotate: access.Status.Allowed, accessErr: accessErr}, nil
}

// post creates an object of the API and reads the answer into out.
func (a *Agent) post(ctx context.Context, transport http.RoundTripper, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api-server"+path, bytes.NewReader(body)) // the host is the connection's
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", a.config.userAgent)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("cannot authenticate as the node: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("cannot read the API server's answer: %w", err)
	}
	return nil
}

// refusal returns the error of an answer that is not what was asked for.
func refusal(resp *http.Response) error {
	var status struct{ Message string } // of meta/v1, if it is an API server that answers
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&status)
	answer := fmt.Sprintf("the API server answered %d %s: %s", resp.StatusCode, http.StatusText(resp.StatusCode), status.Message)
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("as the node: %w", csr.ErrUnauthorized)
	case http.StatusForbidden:
		return fault.New(fault.Unexpected, "give every user what every cluster gives: kubectl create clusterrolebinding system:basic-user --clusterrole=system:basic-user --group=system:authenticated",
			"this node may not ask who it is (%w): %s", errForbidden, answer)
	case http.StatusNotFound:
		return fault.New(fault.Unexpected, "the cluster must run Kubernetes 1.28 or later", "the API server does not tell users who they are: %s", answer)
	}
	return fmt.Errorf("cannot authenticate as the node: %s", answer)
}
