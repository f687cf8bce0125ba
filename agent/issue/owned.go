package issue

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/tools/clientcmd/api/v1"
	sigs "sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Owned is a person's kubeconfig, of which the user of the current context is to get a new certificate.
type Owned struct {
	Leaf    *x509.Certificate // the certificate that is in it
	CA      []byte            // of its cluster, in PEM; empty where it has none
	KeyPath string            // where its key is, if that is not in the file itself; absolute

	path string
	user string // its name in the file
	tree yaml.Node
}

// ReadOwned reads a kubeconfig whose user has a client certificate.
func ReadOwned(path string) (*Owned, error) {
	o := &Owned{path: path}
	if err := o.read(); err != nil {
		return nil, fault.New(fault.Usage, "give the kubeconfig of a person that has a client certificate, with --renew", "the kubeconfig %s cannot be renewed: %w", path, err)
	}
	return o, nil
}

func (o *Owned) read() error {
	data, err := ReadSmall(o.path)
	if err != nil {
		return err
	}
	var config v1.Config
	if err := sigs.Unmarshal(data, &config); err != nil {
		return errors.New("it is not a kubeconfig") // the parser's words repeat what is in it
	}
	if err := yaml.Unmarshal(data, &o.tree); err != nil {
		return errors.New("it is not YAML")
	}
	for _, c := range config.Contexts {
		if c.Name == config.CurrentContext {
			o.user = c.Context.AuthInfo
			o.lookAtCluster(&config, c.Context.Cluster)
		}
	}
	for i := range config.AuthInfos {
		if config.AuthInfos[i].Name == o.user && o.user != "" {
			return o.look(&config.AuthInfos[i].AuthInfo)
		}
	}
	return errors.New("its current context has no user")
}

// lookAtCluster finds the CA. One that cannot be read is none.
func (o *Owned) lookAtCluster(config *v1.Config, name string) {
	for i := range config.Clusters {
		entry := &config.Clusters[i]
		if entry.Name != name {
			continue
		}
		if o.CA = entry.Cluster.CertificateAuthorityData; len(o.CA) == 0 && entry.Cluster.CertificateAuthority != "" {
			o.CA, _ = ReadSmall(o.beside(entry.Cluster.CertificateAuthority))
		}
	}
}

// look finds the certificate and the key of the user.
func (o *Owned) look(user *v1.AuthInfo) error {
	if user.Exec != nil || user.AuthProvider != nil || user.Token != "" || user.TokenFile != "" || user.Username != "" {
		return fmt.Errorf("its user %q has something else than a client certificate", o.user)
	}
	chain := user.ClientCertificateData
	if len(chain) == 0 && user.ClientCertificate != "" {
		var err error
		if chain, err = ReadSmall(o.beside(user.ClientCertificate)); err != nil {
			return fmt.Errorf("its certificate: %w", err)
		}
	}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("its certificate: %w", err)
		}
		o.Leaf = leaf
		break
	}
	switch {
	case o.Leaf == nil:
		return fmt.Errorf("its user %q has no client certificate", o.user)
	case len(user.ClientKeyData) == 0 && user.ClientKey == "":
		return fmt.Errorf("its user %q has no key", o.user)
	case len(user.ClientKeyData) == 0:
		o.KeyPath = o.beside(user.ClientKey)
	}
	return nil
}

// beside returns where a file is that the kubeconfig names.
func (o *Owned) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(o.path), name)
}

// With returns the file's new content: the user's certificate, and the key unless that is in a file of its own, in the
// place of the old ones. Everything else stays, comments and the order of things included.
func (o *Owned) With(chain, key []byte) ([]byte, error) {
	users := valueOf(&o.tree, "users")
	if users == nil {
		return nil, errors.New("the kubeconfig has no users")
	}
	for _, entry := range users.Content {
		name, user := valueOf(entry, "name"), valueOf(entry, "user")
		if name == nil || user == nil || name.Value != o.user {
			continue
		}
		set(user, "client-certificate", "client-certificate-data", chain)
		if len(key) != 0 {
			set(user, "client-key", "client-key-data", key)
		}
		var out bytes.Buffer
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		encoder.CompactSeqIndent()
		if err := errors.Join(encoder.Encode(&o.tree), encoder.Close()); err != nil {
			return nil, err
		}
		return out.Bytes(), nil
	}
	return nil, fmt.Errorf("the kubeconfig has no user %q", o.user)
}
