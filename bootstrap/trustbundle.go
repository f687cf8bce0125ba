package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"k8s.io/cluster-bootstrap/token/api"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var (
	// ErrNoTrustBundle is wrapped in the error of a source that has no CA bundle for this node: the cluster does not
	// publish one there, or nodes may not read it. Another source may have one; waiting is of no use.
	ErrNoTrustBundle = errors.New("the cluster has no CA bundle that this node may read")
	// ErrRefused is wrapped in the error of a read that was answered with 401: the API server does not know the
	// credential any more. Seen once it may be a balancer's answer.
	ErrRefused = errors.New("the API server does not know the credential (401)")
)

const (
	// trustSigner is the signer under which a cluster publishes the CA of its API servers
	// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#cluster-trust-bundles).
	trustSigner    = "kubernetes.io/kube-apiserver-serving"
	maxTrustAnswer = 1 << 20 // a real one is a few kilobytes
)

// trustVersions are the versions of the API, newest first: v1 is on by default since Kubernetes 1.37, v1beta1 may be
// switched on since 1.33. (v1alpha1 came and went before any cluster had it on by default.)
var trustVersions = []string{"v1", "v1beta1"}

// FetchTrustBundle reads the CA bundle that the cluster publishes for its API servers, from the ClusterTrustBundles of
// the signer kubernetes.io/kube-apiserver-serving, over a connection that is verified and authenticated as the node;
// the host of the request is the connection's affair (see [Connection.RoundTrip]). Of several objects the union is
// returned, since one takes the other's place when the CA is rotated; of its certificates, those that have not expired.
//
// The error wraps [ErrNoTrustBundle] or [ErrRefused] where the answer is that. It is final (see package fault) if what
// is published cannot be used as a whole: no part of it is taken then, and whoever has a bundle goes on with it.
func FetchTrustBundle(ctx context.Context, rt http.RoundTripper, userAgent string, now time.Time) (Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for _, version := range trustVersions {
		status, body, err := listTrustBundles(ctx, rt, version, userAgent)
		if err != nil {
			return Bundle{}, fmt.Errorf("cannot read the cluster's trust bundles: %w", err)
		}
		switch status {
		case http.StatusOK:
			return parseTrustBundles(body, now)
		case http.StatusNotFound: // this version is not served
		case http.StatusUnauthorized:
			return Bundle{}, fmt.Errorf("cannot read the cluster's trust bundles: %w", ErrRefused)
		case http.StatusForbidden:
			return Bundle{}, fmt.Errorf("%w: it may not list ClusterTrustBundles (403)", ErrNoTrustBundle)
		default:
			return Bundle{}, fmt.Errorf("cannot read the cluster's trust bundles: the API server answered %d %s", status, http.StatusText(status))
		}
	}
	return Bundle{}, fmt.Errorf("%w: its API server does not know ClusterTrustBundles (404)", ErrNoTrustBundle)
}

// listTrustBundles makes one request and reads the answer, whatever its status.
func listTrustBundles(ctx context.Context, rt http.RoundTripper, version, userAgent string) (status int, body []byte, err error) {
	// Neither a limit nor a resource version: the whole list, and the newest. A bundle of yesterday would undo today's.
	query := url.Values{"fieldSelector": {"spec.signerName=" + trustSigner}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api-server/apis/certificates.k8s.io/"+version+"/clustertrustbundles?"+query.Encode(), nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or given up
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxTrustAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if len(body) > maxTrustAnswer {
		return 0, nil, fmt.Errorf("the answer is larger than %d bytes", maxTrustAnswer)
	}
	return resp.StatusCode, body, nil
}

// trustBundleList has the fields that matter of a ClusterTrustBundleList, which are the same in all versions.
type trustBundleList struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec struct {
			SignerName  string `json:"signerName"`
			TrustBundle string `json:"trustBundle"`
		} `json:"spec"`
	} `json:"items"`
}

// parseTrustBundles returns the union of the signer's bundles. Expired certificates are left out of the whole and not
// of each object: one that holds nothing else is no reason to refuse another. What is no CA certificate is one: an API
// server lets nobody write that into a ClusterTrustBundle, and a part of a bundle may lack the CA that is in use.
func parseTrustBundles(body []byte, now time.Time) (Bundle, error) {
	const remedy = "look at them: kubectl get clustertrustbundles --field-selector spec.signerName=" + trustSigner + " --output yaml"
	var list trustBundleList
	if err := json.Unmarshal(body, &list); err != nil || list.Kind != "ClusterTrustBundleList" {
		return Bundle{}, errors.New("the answer is no list of ClusterTrustBundles: is it an API server's?")
	}
	if list.Metadata.Continue != "" {
		return Bundle{}, errors.New("the list of ClusterTrustBundles is not whole")
	}
	var union Bundle
	for _, item := range list.Items {
		if item.Spec.SignerName != trustSigner { // anyone may be allowed to write those of other signers, and of none
			continue
		}
		bundle, err := parseCAs([]byte(item.Spec.TrustBundle))
		if err != nil {
			return Bundle{}, fault.New(fault.Untrusted, remedy, "the ClusterTrustBundle %q cannot be used: %w", item.Metadata.Name, err)
		}
		union = union.Union(bundle)
	}
	if union.IsZero() {
		return Bundle{}, fmt.Errorf("%w: there is no ClusterTrustBundle of %s", ErrNoTrustBundle, trustSigner)
	}
	live, err := union.live(now)
	if err != nil {
		return Bundle{}, fault.New(fault.Untrusted, "check this machine's clock (timedatectl), and "+remedy, "the cluster's trust bundles cannot be used: %w", err)
	}
	if len(live.certs) > maxBundleCerts { // on disk, nobody would read them again
		return Bundle{}, fault.New(fault.Untrusted, remedy, "the cluster's trust bundles hold %d certificates: more than %d", len(live.certs), maxBundleCerts)
	}
	return live, nil
}

// FetchClusterInfoCA reads the CA bundle in kube-public/cluster-info: the way to follow a cluster that has no
// [FetchTrustBundle]. The endpoints are asked in turn until one has it, without a credential (a node may not read
// cluster-info, everybody may) and over HTTP/1.1 (see the package's documentation).
//
// No signature is checked, because there is nothing to check: every server is verified with the CA bundle in use before
// it is asked, so that this is the cluster's own word, and the token that could prove it again is gone once a node has
// joined. What it says is as strictly read as at the discovery.
//
// The error wraps [ErrNoTrustBundle] if that is what one endpoint answered and no other had better news. It is final if
// what is published cannot be used, or no server is to be trusted.
func FetchClusterInfoCA(ctx context.Context, cluster *Cluster, now time.Time) (Bundle, error) {
	conn := ConnectionTo(cluster, nil)
	var none error
	var failures []error
	for _, server := range cluster.Endpoints {
		ca, err := conn.clusterInfoCA(ctx, server, now)
		if err == nil {
			return ca, nil
		}
		if ctx.Err() != nil {
			return Bundle{}, context.Cause(ctx)
		}
		if errors.Is(err, ErrNoTrustBundle) {
			none = err
		}
		failures = append(failures, err)
	}
	if none != nil {
		return Bundle{}, none
	}
	return Bundle{}, allFailed(failures)
}

// clusterInfoCA asks one server, over a connection of its own.
func (c *Connection) clusterInfoCA(ctx context.Context, server Endpoint, now time.Time) (Bundle, error) {
	transport := c.transport(ctx, server)
	transport.ForceAttemptHTTP2 = false
	answer, err := get(ctx, transport, server.URL()+clusterInfoPath, maxKubeconfig)
	if err != nil {
		return Bundle{}, err
	}
	switch answer.status {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return Bundle{}, fmt.Errorf("%w: asked for cluster-info, %w", ErrNoTrustBundle, answer.failure(server.String()))
	default:
		return Bundle{}, answer.failure(server.String())
	}
	data, err := configMapData(server, answer.body)
	if err != nil {
		return Bundle{}, err
	}
	text := data[api.KubeConfigKey]
	if text == "" {
		return Bundle{}, fmt.Errorf("%w: cluster-info of %s has no kubeconfig in it", ErrNoTrustBundle, server)
	}
	published, err := parseClusterInfo(server, text, now)
	if err != nil {
		return Bundle{}, err
	}
	return published.CA, nil
}
