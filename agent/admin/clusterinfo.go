package admin

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd/api/v1"
	"k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

const (
	// signingPatience is how long the bootstrap signer may need; most often it is a fraction of a second.
	signingPatience = 5 * time.Second
	lookEvery       = 100 * time.Millisecond
)

// StartSigner is what to do where nothing signs cluster-info.
const StartSigner = "see that kube-controller-manager runs with --controllers=*,bootstrap-signer-controller"

// ErrUnsigned says that cluster-info was not signed in time.
var ErrUnsigned = errors.New("cluster-info is not signed")

func clusterInfo() *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Namespace: meta.NamespacePublic, Name: api.ConfigMapClusterInfo}}
}

// ClusterInfo returns the cluster as kube-public/cluster-info tells it to nodes. The error wraps [ErrNotFound] where there is
// none.
func (c *Client) ClusterInfo(ctx context.Context) (*bootstrap.Cluster, error) {
	info := clusterInfo()
	if err := c.Get(ctx, info); err != nil {
		return nil, err
	}
	cluster, err := bootstrap.ParseClusterInfo(info.Data[api.KubeConfigKey], time.Now())
	if err != nil {
		return nil, fault.New(fault.Usage, "publish it anew: nodejoin cluster-info publish", "the cluster's kube-public/cluster-info cannot be used: %w", err)
	}
	return cluster, nil
}

// WaitSigned waits a few seconds until cluster-info is signed with a token's secret, as it is for any token that may sign. The
// error wraps [ErrUnsigned] where it is not.
func (c *Client) WaitSigned(ctx context.Context, token bootstrap.Token) error {
	return c.waitForSignature(ctx, func(data map[string]string) bool {
		signature := data[api.JWSSignatureKeyPrefix+token.ID]
		return signature != "" && jws.DetachedTokenIsValid(signature, data[api.KubeConfigKey], token.ID, token.Secret.Reveal())
	})
}

func (c *Client) waitForSignature(ctx context.Context, signed func(data map[string]string) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, signingPatience, ErrUnsigned)
	defer cancel()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		info := clusterInfo()
		err := c.Get(ctx, info)
		if ctx.Err() == nil && err != nil {
			return err
		}
		if err == nil && signed(info.Data) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Published is what became of cluster-info.
type Published struct {
	Server  string   `json:"server"`
	Pins    []string `json:"caCertHashes"` // of every CA certificate in it
	Changed bool     `json:"changed"`      // whether it was another, or none, before
	Signed  *bool    `json:"signed"`       // whether it is signed for a token; null where there is no token that could sign
}

// NodeCluster returns the cluster that is to be published: the kubeconfig's, with another server and CA bundle (PEM) where
// they are given. A server of the kubeconfig that leads to the machine itself is refused: it is no other machine's.
func (c *Client) NodeCluster(server string, ca []byte) (*bootstrap.Cluster, error) {
	told := c.cluster
	told.ProxyURL = "" // the way of the administrator's machine
	if len(ca) != 0 {
		told.CA = ca
	}
	if server != "" {
		endpoint, err := bootstrap.ParseEndpoint(server)
		if err != nil {
			return nil, err
		}
		told.Server, told.TLSServerName = endpoint.URL(), ""
	} else if isLoopback(told.Server) {
		return nil, fault.New(fault.Usage, "give the address that nodes reach it at: --server https://HOST:PORT", "the kubeconfig's server %s is this machine alone: no node could reach it", told.Server)
	}
	return told.ForNodes(time.Now())
}

func isLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := u.Hostname()
	address, err := netip.ParseAddr(host)
	return err == nil && (address.IsLoopback() || address.IsUnspecified()) || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// kubeconfigOf returns the text of cluster-info for a cluster, the same for the same cluster.
func kubeconfigOf(cluster *bootstrap.Cluster) (string, error) {
	text, err := yaml.Marshal(v1.Config{
		APIVersion: "v1", Kind: "Config",
		Clusters: []v1.NamedCluster{{Cluster: v1.Cluster{
			Server: cluster.Endpoints[0].URL(), TLSServerName: cluster.TLSServerName, CertificateAuthorityData: cluster.CA.PEM(),
		}}},
		AuthInfos: []v1.NamedAuthInfo{}, Contexts: []v1.NamedContext{},
	})
	return string(text), err
}

// mostConflicts is how often cluster-info is put in its place while somebody else changes it.
const mostConflicts = 5

// PublishClusterInfo makes the cluster known to everybody who can reach it, as kubeadm init does: the ConfigMap
// kube-public/cluster-info, and the right to read it. The signatures of what it said before are taken out with it: a node that
// met one would take the cluster for an impostor. The bootstrap signer makes new ones, for which this waits a moment.
func (c *Client) PublishClusterInfo(ctx context.Context, cluster *bootstrap.Cluster) (*Published, error) {
	for _, object := range (Ways{ClusterInfo: true}).Objects() {
		if err := c.Apply(ctx, object); err != nil {
			return nil, err
		}
	}
	published := &Published{Server: cluster.Endpoints[0].URL(), Pins: pinsOf(cluster)}
	var err error
	for attempt := 1; ; attempt++ { // the signer may write at the same moment
		if published.Changed, err = c.putClusterInfo(ctx, cluster); !errors.Is(err, ErrConflict) || attempt == mostConflicts {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	tokens, err := c.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	signers := slices.DeleteFunc(tokens, func(t TokenInfo) bool { return t.Problem != "" || !slices.Contains(t.Usages, UsageSigning) })
	if len(signers) == 0 {
		return published, nil
	}
	err = c.waitForSignature(ctx, func(data map[string]string) bool {
		return slices.ContainsFunc(signers, func(t TokenInfo) bool { return data[api.JWSSignatureKeyPrefix+t.ID] != "" })
	})
	if err != nil && !errors.Is(err, ErrUnsigned) {
		return nil, err
	}
	published.Signed = new(err == nil)
	return published, nil
}

// putClusterInfo makes the ConfigMap tell of the cluster, and reports whether it did not before.
func (c *Client) putClusterInfo(ctx context.Context, cluster *bootstrap.Cluster) (bool, error) {
	text, err := kubeconfigOf(cluster)
	if err != nil {
		return false, err
	}
	info := clusterInfo()
	err = c.Get(ctx, info)
	if errors.Is(err, ErrNotFound) {
		info.Data = map[string]string{api.KubeConfigKey: text}
		return true, c.Create(ctx, info)
	}
	if err != nil || tells(info.Data[api.KubeConfigKey], cluster) {
		return false, err
	}
	if info.Data == nil {
		info.Data = map[string]string{}
	}
	maps.DeleteFunc(info.Data, func(key, _ string) bool { return strings.HasPrefix(key, api.JWSSignatureKeyPrefix) })
	info.Data[api.KubeConfigKey] = text
	if err := c.Update(ctx, info); err != nil {
		return false, err
	}
	return true, nil
}

// tells reports whether cluster-info says what it is to say, in whatever words: kubeadm's differ.
func tells(text string, cluster *bootstrap.Cluster) bool {
	told, err := bootstrap.ParseClusterInfo(text, time.Now())
	return err == nil && told.Endpoints[0] == cluster.Endpoints[0] && told.CA.Equal(cluster.CA) && told.TLSServerName == cluster.TLSServerName
}

// pinsOf returns the pin of each CA certificate of a cluster.
func pinsOf(cluster *bootstrap.Cluster) []string {
	var pins []string
	for _, cert := range cluster.CA.Certificates() {
		if pin := bootstrap.PinOf(cert).String(); !slices.Contains(pins, pin) {
			pins = append(pins, pin)
		}
	}
	return pins
}
