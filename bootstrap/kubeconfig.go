package bootstrap

import (
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

// parseKubeconfig reads the kubeconfig of a cluster, strictly: unknown and duplicate keys, a second cluster, a context
// that leads nowhere and an unverified server are errors. dir is the directory that relative paths of a local file
// start from; "" means that the text came over the network, and then paths and credentials of every kind are refused:
// whoever wrote it must not make this machine read a file or run a program. What a local file's users are is not looked
// at: the whole is returned for that.
func parseKubeconfig(data []byte, dir string, now time.Time) (*Cluster, *v1.Config, error) {
	if len(data) > maxKubeconfig {
		return nil, nil, fmt.Errorf("it is larger than %d bytes", maxKubeconfig)
	}
	if documentMarker.Match(data) {
		return nil, nil, errors.New("it holds more than one YAML document")
	}
	var config v1.Config
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return nil, nil, fmt.Errorf("it is not a kubeconfig: %s", strings.Join(strings.Fields(err.Error()), " ")) // on one line
	}
	if config.Kind != "" && config.Kind != "Config" {
		return nil, nil, fmt.Errorf("its kind is %q, not Config", config.Kind)
	}
	if len(config.Clusters) != 1 {
		return nil, nil, fmt.Errorf("it has %d clusters instead of one", len(config.Clusters))
	}
	if _, err := contextOf(&config); err != nil {
		return nil, nil, err
	}
	cluster, err := clusterOf(&config.Clusters[0].Cluster, dir, now)
	if err != nil {
		return nil, nil, err
	}
	if dir == "" && len(config.AuthInfos) != 0 {
		return nil, nil, errors.New("it has users: a kubeconfig that came over the network must not bring credentials")
	}
	return cluster, &config, nil
}

// ParseClusterInfo reads the kubeconfig in cluster-info for somebody who trusts the server that it came from.
func ParseClusterInfo(text string, now time.Time) (*Cluster, error) {
	cluster, _, err := parseKubeconfig([]byte(text), "", now)
	return cluster, err
}

// contextOf returns the current context, which is that of the only cluster; the zero value where there is none.
func contextOf(config *v1.Config) (v1.Context, error) {
	if config.CurrentContext == "" {
		return v1.Context{}, nil
	}
	for _, c := range config.Contexts {
		if c.Name != config.CurrentContext {
			continue
		}
		if c.Context.Cluster != config.Clusters[0].Name {
			return v1.Context{}, fmt.Errorf("its context %q names the cluster %q, which is not there", c.Name, c.Context.Cluster)
		}
		return c.Context, nil
	}
	return v1.Context{}, fmt.Errorf("its current-context %q is not there", config.CurrentContext)
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
	if entry.CertificateAuthority != "" && dir == "" {
		return nil, errors.New("its certificate-authority is a path: a kubeconfig that came over the network must not make this machine read its files")
	}
	if entry.CertificateAuthority != "" && len(ca) == 0 { // the data wins, as everywhere in client-go
		if ca, _, err = readFile(resolve(entry.CertificateAuthority, dir), maxBundleBytes); err != nil {
			return nil, fmt.Errorf("its certificate-authority: %w", err)
		}
	}
	if len(ca) == 0 {
		return nil, errors.New("it has no certificate-authority-data: nothing would verify the API server")
	}
	bundle, err := ParseBundle(ca, now)
	if err != nil {
		return nil, err
	}
	return &Cluster{Endpoints: []Endpoint{endpoint}, CA: bundle, TLSServerName: entry.TLSServerName, ProxyURL: proxy, Named: true}, nil
}

// resolve returns the place of a file that a kubeconfig in dir names.
func resolve(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
