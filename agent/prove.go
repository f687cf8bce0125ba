package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

const proveTimeout = 30 * time.Second

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

// proveOverNetwork authenticates with the files on disk, as a kubelet would. With replaced, the CA bundle is not the one
// that was last seen to work: if it does not work and that one does, that one is put back.
func (a *Agent) proveOverNetwork(ctx context.Context, disk *rotate.Disk, replaced bool) error {
	cluster, err := clusterOf(disk.Kubeconfig)
	if err != nil {
		return err
	}
	cluster.Endpoints = a.clusterJoined(disk).Endpoints
	proof, err := a.authenticate(ctx, cluster, disk.Pair)
	if replaced && fault.Is(err, fault.Untrusted) {
		if ca, unusable := bootstrap.ParseBundle([]byte(disk.Cluster.CA), a.now()); unusable == nil {
			before := *cluster
			before.CA = ca
			if proof, err = a.authenticate(ctx, &before, disk.Pair); err == nil {
				a.log.Warn("the CA bundle was replaced by one that does not vouch for the cluster, and has been put back", "path", a.config.paths.CAFile)
				disk.Kubeconfig.CA = ca.PEM()
				err = a.store.CommitCA(disk.Kubeconfig.CA)
			}
		}
	}
	if err != nil {
		a.identity.markDead(disk.Pair, err)
		return err
	}
	switch {
	case proof.accessErr != nil && ctx.Err() == nil:
		a.tell(Notice{Text: fmt.Sprintf("could not find out whether this node may rotate its certificate: %v", proof.accessErr)})
	case !proof.mayRotate:
		a.tell(Notice{
			Text:   "this node may not rotate its certificate: a ClusterRoleBinding is missing, and without it the certificate will expire",
			Remedy: "kubectl apply -f - <<'EOF'\n" + rotationBinding + "EOF",
		})
	}
	return nil
}

// proof is what an API server answered to a node that authenticated.
type proof struct {
	mayRotate bool  // it may have its next certificate approved
	accessErr error // why that is not known
}

// authenticate connects as the node and asks the API server who that is (SelfSubjectReview) and whether it may have
// its next certificate approved (SelfSubjectAccessReview). A refusal is believed when it was repeated over distinct
// connections.
func (a *Agent) authenticate(ctx context.Context, cluster *bootstrap.Cluster, pair *rotate.KeyPair) (*proof, error) {
	a.works()
	conn := a.connectionTo(cluster, pair)
	defer conn.Close()
	defer func() { a.notesSkew(conn) }()
	var pause backoff
	for attempt := 1; ; attempt++ {
		bootstrap.Progress(ctx)
		proof, err := a.askAsNode(ctx, conn)
		if refused := errors.Is(err, csr.ErrUnauthorized) || errors.Is(err, review.ErrForbidden); !refused || attempt == refusalLimit {
			return proof, err
		}
		conn.Next()
		if err := pause.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (a *Agent) askAsNode(ctx context.Context, conn *bootstrap.Connection) (*proof, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proveTimeout, fmt.Errorf("no answer within %s", proveTimeout))
	defer cancel()
	asker := review.Asker{Transport: conn, UserAgent: a.config.userAgent}
	user, err := asker.Ask(ctx, review.Rotate)
	switch {
	case err != nil && !fault.IsFinal(err):
		return nil, fmt.Errorf("cannot authenticate as the node: %w", err)
	case err != nil:
		return nil, err
	case user.Username != csr.NodeUser+a.node() || !slices.Contains(user.Groups, csr.NodesGroup):
		return nil, fault.New(fault.Denied, "look at the API server's authentication configuration: something maps the certificate to another user",
			"the API server takes this node for %q in %q instead of %q in %s", user.Username, user.Groups, csr.NodeUser+a.node(), csr.NodesGroup)
	}
	return &proof{mayRotate: user.May(review.Rotate), accessErr: user.MayErr()}, nil
}
