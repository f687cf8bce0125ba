package bootstrap

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// defaultPort is kubeadm's for an API server that is named without one.
const defaultPort = "6443"

// Endpoint is the address of an API server. The zero value is no endpoint.
type Endpoint struct{ host, port string }

// ParseEndpoint reads HOST:PORT as kubeadm join takes it, HOST alone (port 6443), or the https URL of a kubeconfig
// (without a port: 443). HOST is a DNS name or an IP address, IPv6 in brackets.
func ParseEndpoint(text string) (Endpoint, error) {
	refuse := func(format string, args ...any) (Endpoint, error) {
		return Endpoint{}, fault.New(fault.Usage, "give the API server as HOST:PORT, for example api.example.com:6443", format, args...)
	}
	if LooksLikeToken(text) {
		return refuse("a bootstrap token stands in the place of the API server")
	}
	hostport, port := text, defaultPort
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			return refuse("the API server's URL cannot be parsed") // url.Error quotes the text, which may hold a password
		case u.User != nil:
			return refuse("the API server's URL has user information in it")
		case u.Scheme != "https":
			return refuse("the API server %q is not an https URL", text)
		case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			return refuse("the API server %q has a path, which is not supported", text)
		}
		hostport, port = u.Host, "443"
	}
	if strings.Contains(hostport, "@") {
		return refuse("the API server has user information in it")
	}
	host := hostport
	if h, p, err := net.SplitHostPort(hostport); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return refuse("the API server %q has the port %q: it is not between 1 and 65535", text, port)
	}
	host = strings.ToLower(host)
	// An address with a zone is refused: a zone may be any text, and no certificate can name it.
	if addr, err := netip.ParseAddr(host); (err != nil || addr.Zone() != "") && len(validation.IsDNS1123Subdomain(host)) != 0 {
		return refuse("the API server %q has no valid host name or IP address", text)
	}
	return Endpoint{host: host, port: strconv.FormatUint(number, 10)}, nil
}

// String returns HOST:PORT.
func (e Endpoint) String() string { return net.JoinHostPort(e.host, e.port) }

// URL returns the endpoint as a kubeconfig's server.
func (e Endpoint) URL() string { return "https://" + e.String() }

// IsZero reports whether there is no endpoint.
func (e Endpoint) IsZero() bool { return e.host == "" }
