package bootstrap

import (
	"net/url"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Cluster is what discovery yields: API servers and the CA bundle that vouches for them.
type Cluster struct {
	Endpoints     []Endpoint // tried in turn; never empty
	CA            Bundle     // never empty
	TLSServerName string     // the name that the servers' certificates carry; "" for the endpoint's own
	ProxyURL      *url.URL   // the proxy on the way to the endpoints; nil for none
	// Named says that Endpoints[0] is the cluster's own word, from cluster-info or a discovery file: a kubeconfig is to
	// name it even where another endpoint was used meanwhile. It is false where the operator listed the servers.
	Named bool
	// Source is where the CA came from, for a person: "the discovery file PATH". "" leaves it out of what is said of a
	// server that is not trusted.
	Source string
}

// Override puts what site says about the way to the servers in the place of what the cluster says itself.
func (c *Cluster) Override(site Cluster) {
	if site.TLSServerName != "" {
		c.TLSServerName = site.TLSServerName
	}
	if site.ProxyURL != nil {
		c.ProxyURL = site.ProxyURL
	}
}

// addEndpoints appends the endpoints that the cluster does not have yet.
func (c *Cluster) addEndpoints(more []Endpoint) {
	for _, e := range more {
		if !slices.Contains(c.Endpoints, e) {
			c.Endpoints = append(c.Endpoints, e)
		}
	}
}

// ParseProxyURL reads the URL of an HTTP or SOCKS5 proxy; "" is no proxy. One that speaks TLS is refused: net/http would
// greet it with what is meant for the API server, its name, its verification and the client's certificate.
func ParseProxyURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no proxy is an answer
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "socks5"}, u.Scheme) {
		return nil, fault.New(fault.Usage, "give it as http://HOST:PORT or socks5://HOST:PORT", "the proxy's URL is not one")
	}
	return u, nil
}

// CheckServerName refuses what cannot stand in a certificate as a DNS name.
func CheckServerName(name string) error {
	if name != "" && len(validation.IsDNS1123Subdomain(name)) != 0 {
		return fault.New(fault.Usage, "give the DNS name that the API server's certificate carries", "the TLS server name %q is not a DNS name", name)
	}
	return nil
}
