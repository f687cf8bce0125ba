package bootstrap

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// maxKubeconfig bounds a discovery kubeconfig; a real one is a few kilobytes.
const maxKubeconfig = 1 << 20

// documentMarker matches what ends a YAML document or begins another below the first line, after each of the line
// breaks that YAML 1.1 knows. The decoder would read the first document and pass over the rest.
var documentMarker = regexp.MustCompile(`[\n\r\x{85}\x{2028}\x{2029}](---|\.\.\.)`)

// discovered is what a discovery kubeconfig says: a cluster, and the bearer token beside it, which only a local file
// may carry.
type discovered struct {
	cluster Cluster
	bearer  Secret
}

// parseKubeconfig reads the kubeconfig of a cluster, strictly: unknown and duplicate keys, a second cluster, a context
// that leads nowhere and an unverified server are errors. dir is the directory that relative paths of a local file
// start from; "" means that the text came over the network, and then paths and credentials of every kind are refused:
// whoever wrote it must not make this machine read a file or run a program.
func parseKubeconfig(data []byte, dir string, now time.Time) (*discovered, error) {
	if len(data) > maxKubeconfig {
		return nil, fmt.Errorf("it is larger than %d bytes", maxKubeconfig)
	}
	if documentMarker.Match(data) {
		return nil, errors.New("it holds more than one YAML document")
	}
	var config v1.Config
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return nil, fmt.Errorf("it is not a kubeconfig: %s", strings.Join(strings.Fields(err.Error()), " ")) // on one line
	}
	if config.Kind != "" && config.Kind != "Config" {
		return nil, fmt.Errorf("its kind is %q, not Config", config.Kind)
	}
	if len(config.Clusters) != 1 {
		return nil, fmt.Errorf("it has %d clusters instead of one", len(config.Clusters))
	}
	if err := checkContext(&config); err != nil {
		return nil, err
	}
	cluster, err := clusterOf(&config.Clusters[0].Cluster, dir, now)
	if err != nil {
		return nil, err
	}
	bearer, err := bearerOf(config.AuthInfos, dir)
	if err != nil {
		return nil, err
	}
	return &discovered{cluster: *cluster, bearer: bearer}, nil
}

func checkContext(config *v1.Config) error {
	if config.CurrentContext == "" {
		return nil
	}
	for _, c := range config.Contexts {
		if c.Name != config.CurrentContext {
			continue
		}
		if c.Context.Cluster != config.Clusters[0].Name {
			return fmt.Errorf("its context %q names the cluster %q, which is not there", c.Name, c.Context.Cluster)
		}
		return nil
	}
	return fmt.Errorf("its current-context %q is not there", config.CurrentContext)
}

func clusterOf(entry *v1.Cluster, dir string, now time.Time) (*Cluster, error) {
	if entry.InsecureSkipTLSVerify {
		return nil, errors.New("it says insecure-skip-tls-verify, which would send the credential to anyone")
	}
	endpoint, err := ParseEndpoint(entry.Server)
	if err != nil {
		return nil, err
	}
	if err := CheckServerName(entry.TLSServerName); err != nil {
		return nil, err
	}
	proxy, err := ParseProxyURL(entry.ProxyURL)
	if err != nil {
		return nil, err
	}
	ca := entry.CertificateAuthorityData
	if entry.CertificateAuthority != "" && (len(ca) == 0 || dir == "") { // the data wins, as everywhere in client-go
		if ca, err = readNamed(entry.CertificateAuthority, dir, "certificate-authority"); err != nil {
			return nil, err
		}
	}
	if len(ca) == 0 {
		return nil, errors.New("it has no certificate-authority-data: nothing would verify the API server")
	}
	bundle, err := ParseBundle(ca, now)
	if err != nil {
		return nil, err
	}
	return &Cluster{Endpoints: []Endpoint{endpoint}, CA: bundle, TLSServerName: entry.TLSServerName, ProxyURL: proxy}, nil
}

// bearerOf returns the bearer token of the only user, if there is one.
func bearerOf(users []v1.NamedAuthInfo, dir string) (Secret, error) {
	if len(users) == 0 {
		return Secret{}, nil
	}
	if dir == "" {
		return Secret{}, errors.New("it has users: a kubeconfig that came over the network must not bring credentials")
	}
	if len(users) > 1 {
		return Secret{}, fmt.Errorf("it has %d users instead of one", len(users))
	}
	user := users[0].AuthInfo
	switch {
	case user.Exec != nil:
		return Secret{}, errors.New("its user has an exec plugin, which is not supported")
	case user.AuthProvider != nil:
		return Secret{}, errors.New("its user has an auth-provider, which is not supported")
	case user.Username != "" || user.Password != "":
		return Secret{}, errors.New("its user has a password, which Kubernetes does not know any more")
	case user.ClientCertificate != "" || len(user.ClientCertificateData) != 0 || user.ClientKey != "" || len(user.ClientKeyData) != 0:
		return Secret{}, errors.New("its user has a client certificate, which is not supported")
	case user.Impersonate != "" || user.ImpersonateUID != "" || len(user.ImpersonateGroups) != 0:
		return Secret{}, errors.New("its user impersonates another")
	case user.TokenFile != "":
		data, err := readNamed(user.TokenFile, dir, "tokenFile")
		return NewSecret(string(bytes.TrimSuffix(data, []byte("\n")))), err
	}
	return NewSecret(user.Token), nil
}

// readNamed reads a file that a local kubeconfig names.
func readNamed(path, dir, field string) ([]byte, error) {
	if dir == "" {
		return nil, fmt.Errorf("its %s is a path: a kubeconfig that came over the network must not make this machine read its files", field)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	data, _, err := readFile(path, maxKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("its %s: %w", field, err)
	}
	return data, nil
}
