package issue

import (
	"k8s.io/client-go/tools/clientcmd/api/v1"

	"github.com/nodejoin/nodejoin/csr"
)

// clusterName is what a cluster is called in the kubeconfigs that are made here, as kubeadm has it.
const clusterName = "kubernetes"

// Kubeconfig is what a kubeconfig says of a cluster and of one user.
type Kubeconfig struct {
	Server        string // https URL
	TLSServerName string // "" for the server's own name
	ProxyURL      string // "" for none
	CA            []byte // PEM
	User          string
	Namespace     string // "" for the default one
	Chain         []byte // PEM
	Key           Key
}

// Key is a private key in a kubeconfig: in it, or in a file beside it.
type Key struct {
	Inline *csr.Request // whose key it is
	Path   string       // if Inline is nil
}

// Config returns the kubeconfig. There is a secret in it: it goes into a file, or where somebody asked for it.
func (k *Kubeconfig) Config() (*v1.Config, error) {
	user := v1.AuthInfo{ClientCertificateData: k.Chain, ClientKey: k.Key.Path}
	if k.Key.Inline != nil {
		key, err := csr.MarshalKey(k.Key.Inline.Key)
		if err != nil {
			return nil, err
		}
		user.ClientKeyData = key
	}
	context := k.User + "@" + clusterName
	return &v1.Config{
		APIVersion: "v1",
		Kind:       "Config",
		Clusters: []v1.NamedCluster{{Name: clusterName, Cluster: v1.Cluster{
			Server: k.Server, TLSServerName: k.TLSServerName, ProxyURL: k.ProxyURL, CertificateAuthorityData: k.CA,
		}}},
		AuthInfos:      []v1.NamedAuthInfo{{Name: k.User, AuthInfo: user}},
		Contexts:       []v1.NamedContext{{Name: context, Context: v1.Context{Cluster: clusterName, AuthInfo: k.User, Namespace: k.Namespace}}},
		CurrentContext: context,
	}, nil
}
