package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// kubeadmConfig is where kubeadm puts the administrator's kubeconfig on a control-plane node.
const kubeadmConfig = "/etc/kubernetes/admin.conf"

const giveKubeconfig = "give the administrator's kubeconfig with --kubeconfig or in KUBECONFIG; on a control-plane node it is " + kubeadmConfig

// UserAgent is what the audit log shows of an administrator's commands.
const UserAgent = "nodejoin-admin"

// Client acts on a cluster as the user of a kubeconfig. It is made by [Connect].
type Client struct {
	kubeconfig string // where it came from, for a person
	base       *url.URL
	cluster    Cluster
	transport  http.RoundTripper
}

// Cluster is what a kubeconfig says of the cluster of its current context.
type Cluster struct {
	Server        string // the URL of the API server
	CA            []byte // PEM; empty where this machine's own trust store verifies the server, or nothing does
	TLSServerName string // the name that the server's certificate carries; "" for the server's own
	ProxyURL      string // "" for none, or what the environment says
}

// Connect reads a kubeconfig: the one at path, else those that KUBECONFIG lists, else ~/.kube/config, else kubeadm's
// /etc/kubernetes/admin.conf. Nothing is sent yet.
func Connect(path string) (*Client, error) {
	files := candidates(path)
	source := strings.Join(files, string(filepath.ListSeparator))
	raw, err := load(files)
	if err != nil {
		return nil, err
	}
	if err := checkContext(raw, source); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*raw, "", &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, unusable(source, err)
	}
	config.UserAgent = UserAgent
	base, _, err := rest.DefaultServerURL(config.Host, "", schema.GroupVersion{}, true)
	if err != nil {
		return nil, unusable(source, err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, unusable(source, err)
	}
	cluster, err := clusterOf(raw, base)
	if err != nil {
		return nil, unusable(source, err)
	}
	return &Client{kubeconfig: source, base: base, cluster: cluster, transport: transport}, nil
}

// candidates returns the files that make up the kubeconfig; none of them need be there.
func candidates(path string) []string {
	if path != "" {
		return []string{path}
	}
	var files []string
	for _, file := range filepath.SplitList(os.Getenv(clientcmd.RecommendedConfigPathEnvVar)) {
		if file != "" {
			files = append(files, file)
		}
	}
	if len(files) != 0 {
		return files
	}
	if home, err := os.UserHomeDir(); err == nil {
		file := filepath.Join(home, clientcmd.RecommendedHomeDir, clientcmd.RecommendedFileName)
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return []string{file}
		}
	}
	return []string{kubeadmConfig}
}

// load reads and merges the files as kubectl does: the first to say something wins, and of several some may be missing.
func load(files []string) (*api.Config, error) {
	there := false
	for _, file := range files {
		_, err := os.Stat(file)
		there = there || !errors.Is(err, fs.ErrNotExist)
	}
	source := strings.Join(files, string(filepath.ListSeparator))
	if !there {
		return nil, fault.New(fault.Usage, giveKubeconfig, "there is no kubeconfig: %s is not there", source)
	}
	raw, err := (&clientcmd.ClientConfigLoadingRules{Precedence: files, Warner: func(error) {}}).Load()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fault.New(fault.Usage, "run as a user who may read it (sudo), or "+giveKubeconfig, "the kubeconfig cannot be read: %w", err)
	case err != nil:
		return nil, fault.New(fault.Usage, giveKubeconfig, "the kubeconfig %s cannot be read: %s", source, line(err.Error()))
	}
	return raw, nil
}

// checkContext says what is missing in a kubeconfig between the current context and its cluster and user.
func checkContext(raw *api.Config, source string) error {
	const remedy = "kubectl config get-contexts shows the contexts, kubectl config use-context NAME chooses one"
	name := raw.CurrentContext
	if name == "" {
		return fault.New(fault.Usage, remedy, "the kubeconfig %s has no current context", source)
	}
	current, there := raw.Contexts[name]
	if !there {
		return fault.New(fault.Usage, remedy, "the current context %q of the kubeconfig %s is not there", name, source)
	}
	if _, there := raw.Clusters[current.Cluster]; !there {
		return fault.New(fault.Usage, remedy, "the context %q of the kubeconfig %s names the cluster %q, which is not there", name, source, current.Cluster)
	}
	if _, there := raw.AuthInfos[current.AuthInfo]; !there {
		return fault.New(fault.Usage, remedy, "the context %q of the kubeconfig %s names the user %q, who is not there", name, source, current.AuthInfo)
	}
	return nil
}

func unusable(source string, err error) error {
	return fault.New(fault.Usage, giveKubeconfig, "the kubeconfig %s cannot be used: %s", source, line(err.Error()))
}

func clusterOf(raw *api.Config, base *url.URL) (Cluster, error) {
	entry := raw.Clusters[raw.Contexts[raw.CurrentContext].Cluster]
	cluster := Cluster{Server: base.String(), CA: entry.CertificateAuthorityData, TLSServerName: entry.TLSServerName, ProxyURL: entry.ProxyURL}
	if len(cluster.CA) == 0 && entry.CertificateAuthority != "" {
		var err error
		if cluster.CA, err = os.ReadFile(entry.CertificateAuthority); err != nil {
			return Cluster{}, err
		}
	}
	return cluster, nil
}

// Kubeconfig returns where the kubeconfig came from, for a person: a path, or those of KUBECONFIG.
func (c *Client) Kubeconfig() string { return c.kubeconfig }

// Cluster returns what the kubeconfig says of the cluster.
func (c *Client) Cluster() Cluster { return c.cluster }

// Server returns the URL of the API server.
func (c *Client) Server() string { return c.base.String() }

// Transport returns what sends a request to the API server, as the user of the kubeconfig.
func (c *Client) Transport() http.RoundTripper { return c.transport }

// ForNodes returns the cluster as a node can be told of it: with a CA, a server without a path, and a proxy that a node can
// use.
func (c Cluster) ForNodes(now time.Time) (*bootstrap.Cluster, error) {
	endpoint, err := bootstrap.ParseEndpoint(c.Server)
	if err != nil {
		return nil, err
	}
	if len(c.CA) == 0 {
		return nil, fault.New(fault.Usage, "give a kubeconfig that has certificate-authority-data: on a control-plane node it is "+kubeadmConfig,
			"the kubeconfig has no CA for %s: nothing would vouch for it to a node", c.Server)
	}
	ca, err := bootstrap.ParseBundle(c.CA, now)
	if err != nil {
		return nil, fault.New(fault.Usage, "give a kubeconfig with the cluster's CA: on a control-plane node it is "+kubeadmConfig, "the CA in the kubeconfig: %w", err)
	}
	if err := bootstrap.CheckServerName(c.TLSServerName); err != nil {
		return nil, err
	}
	proxy, err := bootstrap.ParseProxyURL(c.ProxyURL)
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig's proxy-url: %w", err)
	}
	return &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: ca, TLSServerName: c.TLSServerName, ProxyURL: proxy, Named: true}, nil
}
