package rotate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd/api/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"
)

// Names in the kubeconfig, as the kubelet has them (writeKubeconfigFromBootstrapping in
// k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap).
const (
	clusterName = "default-cluster"
	userName    = "default-auth"
	contextName = "default-context"
)

// ErrUnmanaged says that a kubeconfig is in order and its user is something else than a client certificate (an exec
// plugin, a token): somebody else keeps that identity.
var ErrUnmanaged = errors.New("its user has something else than a client certificate")

// Kubeconfig is what the node's kubeconfig says about its cluster and its identity.
type Kubeconfig struct {
	Server        string // https URL
	TLSServerName string // "" for the server's own name
	ProxyURL      string // "" for none
	CA            []byte // PEM
	Pair          *KeyPair
}

// marshalKubeconfig returns a kubeconfig that names CA, certificate and key by path, so that a client reads them again
// when they change.
func marshalKubeconfig(k *Kubeconfig, caFile, pairFile string) ([]byte, error) {
	return yaml.Marshal(v1.Config{
		APIVersion: "v1",
		Kind:       "Config",
		Clusters: []v1.NamedCluster{{Name: clusterName, Cluster: v1.Cluster{
			Server: k.Server, TLSServerName: k.TLSServerName, ProxyURL: k.ProxyURL, CertificateAuthority: caFile,
		}}},
		AuthInfos:      []v1.NamedAuthInfo{{Name: userName, AuthInfo: v1.AuthInfo{ClientCertificate: pairFile, ClientKey: pairFile}}},
		Contexts:       []v1.NamedContext{{Name: contextName, Context: v1.Context{Cluster: clusterName, AuthInfo: userName, Namespace: "default"}}},
		CurrentContext: contextName,
	})
}

// readKubeconfig reads the node's kubeconfig, whoever wrote it: this program, a kubelet or kubeadm; inline data and
// paths are both followed. root is put before absolute paths.
func readKubeconfig(path, root string) (*Kubeconfig, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var config v1.Config
	if err := yaml.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	cluster, user := resolve(&config)
	if cluster == nil || user == nil {
		return nil, fmt.Errorf("%s has no usable current context", path)
	}
	follow := func(inline []byte, name string) ([]byte, error) {
		switch {
		case len(inline) != 0:
			return inline, nil
		case name == "":
			return nil, nil
		case !filepath.IsAbs(name):
			name = filepath.Join(filepath.Dir(path), name)
		default:
			name = filepath.Join(root, name)
		}
		return readBelow(root, name)
	}
	if user.Exec != nil || user.AuthProvider != nil || user.Token != "" || user.TokenFile != "" || user.Username != "" {
		return nil, fmt.Errorf("%s: %w", path, ErrUnmanaged)
	}
	ca, err := follow(cluster.CertificateAuthorityData, cluster.CertificateAuthority)
	if err != nil {
		return nil, err
	}
	if len(ca) != 0 || cluster.CertificateAuthority != "" {
		if _, err := cert.ParseCertsPEM(ca); err != nil {
			return nil, fmt.Errorf("%s: its CA bundle is damaged: %w", path, err)
		}
	}
	chain, err := follow(user.ClientCertificateData, user.ClientCertificate)
	if err != nil {
		return nil, err
	}
	key := chain // in one file it is read at once: between two readings the file could be swapped for another
	if len(user.ClientCertificateData)+len(user.ClientKeyData) != 0 || user.ClientKey != user.ClientCertificate {
		if key, err = follow(user.ClientKeyData, user.ClientKey); err != nil {
			return nil, err
		}
	}
	if len(chain) == 0 || len(key) == 0 {
		return nil, fmt.Errorf("%s: %w", path, errors.New("its user has no client certificate"))
	}
	pair, err := NewKeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Kubeconfig{Server: cluster.Server, TLSServerName: cluster.TLSServerName, ProxyURL: cluster.ProxyURL, CA: ca, Pair: pair}, nil
}

// resolve follows current-context.
func resolve(config *v1.Config) (cluster *v1.Cluster, user *v1.AuthInfo) {
	for _, c := range config.Contexts {
		if c.Name != config.CurrentContext {
			continue
		}
		for i := range config.Clusters {
			if config.Clusters[i].Name == c.Context.Cluster {
				cluster = &config.Clusters[i].Cluster
			}
		}
		for i := range config.AuthInfos {
			if config.AuthInfos[i].Name == c.Context.AuthInfo {
				user = &config.AuthInfos[i].AuthInfo
			}
		}
	}
	return cluster, user
}
