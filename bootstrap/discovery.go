package bootstrap

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Discovery is how an untrusted machine obtains a verified Cluster.
type Discovery interface {
	// Discover makes one attempt. A final error (see package fault) says that no other attempt will do better.
	Discover(ctx context.Context) (*Cluster, error)
	// Candidate is the cluster as it stands before it is verified, without a CA: a connection to it may be opened while
	// Discover runs, and is kept from being used until the result has verified it. nil where Discover takes no round
	// trip to the cluster.
	Candidate() *Cluster
}

// Connect runs a discovery and returns the cluster with a connection to it that is open and verified. Where discovery
// takes round trips of its own, none is spent on the connection: the handshake of the connection that will carry the
// credential runs at the same time as the discovery, and stops short of its end until the discovery has told whom to
// trust (see [Trust]). On that connection the client certificate of show, if it has one, is presented; show may be nil. The
// caller closes the connection.
func Connect(ctx context.Context, d Discovery, show Credential, log *slog.Logger) (*Cluster, *Connection, error) {
	candidate := d.Candidate()
	if candidate == nil {
		cluster, err := d.Discover(ctx)
		if err != nil {
			return nil, nil, err
		}
		return open(ctx, cluster, show, log)
	}
	early := newConnection(candidate, NewTrust(), nil) // its failures are told by Discover, which meets the same servers
	early.show(show)
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := make(chan error, 1)
	go func() { opened <- early.Open(opening) }()
	cluster, err := d.Discover(ctx)
	if err != nil {
		cancel()
		if <-opened == nil {
			early.Close()
		}
		return nil, nil, err
	}
	early.Trust.Settle(cluster.CA, nil)
	if <-opened == nil && early.leadsTo(cluster) {
		early.Endpoints, early.current, early.Log = cluster.Endpoints, 0, log
		return cluster, early, nil
	}
	early.Close() // cluster-info names another server, or the handshake failed
	return open(ctx, cluster, show, log)
}

// leadsTo reports whether the connection is to the first of the cluster's endpoints, made as the cluster wants it.
func (c *Connection) leadsTo(cluster *Cluster) bool {
	return c.Endpoint() == cluster.Endpoints[0] && c.TLSServerName == cluster.TLSServerName && sameURL(c.ProxyURL, cluster.ProxyURL)
}

func sameURL(a, b *url.URL) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.String() == b.String()
}

func open(ctx context.Context, cluster *Cluster, show Credential, log *slog.Logger) (*Cluster, *Connection, error) {
	conn := ConnectionTo(cluster, log)
	conn.show(show)
	if err := conn.Open(ctx); err != nil {
		return nil, nil, err
	}
	return cluster, conn, nil
}

// Via is a server in front of the cluster that one credential is for: an authenticating proxy. Without a CA of its own the
// cluster's vouches for it.
type Via struct{ Server Cluster }

// To returns the server as something to connect to, for a cluster that it is in front of.
func (p *Via) To(cluster *Cluster) *Cluster {
	server := p.Server
	if server.CA.IsZero() {
		server.CA = cluster.CA
	}
	return &server
}

// Connect is [Connect] with the connection to that server. What is returned beside it is the cluster.
func (p *Via) Connect(ctx context.Context, d Discovery, show Credential, log *slog.Logger) (*Cluster, *Connection, error) {
	found, err := d.Discover(ctx)
	if err != nil {
		return nil, nil, err
	}
	_, conn, err := open(ctx, p.To(found), show, log)
	if fault.Is(err, fault.Untrusted) {
		err = fault.New(fault.Untrusted, "look who answers there, and give the CA that issued its certificate under endpoint.certificateAuthority", "%w", err)
	}
	if err != nil {
		return nil, nil, err
	}
	cluster := *found
	cluster.Named = true // the proxy's address is not for a kubeconfig
	return &cluster, conn, nil
}

// Known is the discovery of a cluster whose CA is known beforehand: by a CA file or a [DiscoveryFile] of
// this machine.
type Known struct{ Cluster Cluster }

// Discover implements [Discovery].
func (k *Known) Discover(context.Context) (*Cluster, error) { return &k.Cluster, nil }

// Candidate implements [Discovery].
func (k *Known) Candidate() *Cluster { return nil }

// ReadBundle reads a CA file. Every mistake is one of the operator's input.
func ReadBundle(path string, now time.Time) (Bundle, error) {
	const remedy = "copy the cluster's CA certificate from a control-plane node: /etc/kubernetes/pki/ca.crt"
	data, _, err := readFile(path, maxBundleBytes)
	if err != nil {
		return Bundle{}, fault.New(fault.Usage, remedy, "cannot read the CA file: %w", err)
	}
	bundle, err := ParseBundle(data, now)
	if err != nil {
		return Bundle{}, fault.New(fault.Usage, remedy, "%s: %w", path, err)
	}
	return bundle, nil
}

// IsURL reports whether a --discovery-file names something to fetch.
func IsURL(file string) bool { return strings.Contains(file, "://") }

// FromURL is the discovery by a kubeconfig that an https server hands out. The server is verified against this
// machine's own trust store, redirects are not followed, and what it hands out may name a cluster and nothing else.
type FromURL struct {
	url  *url.URL
	site Cluster // proxy and server name that the operator gave, over those in the file; the proxy is used for the file too
}

// ParseDiscoveryURL checks the URL of a discovery file.
func ParseDiscoveryURL(text string, site Cluster) (*FromURL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return nil, fault.New(fault.Usage, "give it as https://HOST/PATH", "the URL of the discovery file is not one")
	case u.Scheme != "https":
		return nil, fault.New(fault.Usage, "serve the file over https", "the discovery file would come over %s, where anyone on the way can change it", u.Scheme)
	case u.User != nil:
		return nil, fault.New(fault.Usage, "leave the user information out of the URL", "the URL of the discovery file has user information in it")
	}
	return &FromURL{url: u, site: site}, nil
}

// Candidate implements [Discovery].
func (f *FromURL) Candidate() *Cluster { return nil }

// String returns the URL without its query, in which a secret may stand.
func (f *FromURL) String() string { return f.url.Scheme + "://" + f.url.Host + f.url.Path }

// Discover implements [Discovery].
func (f *FromURL) Discover(ctx context.Context) (*Cluster, error) {
	const remedy = "serve a kubeconfig with one cluster (server and certificate-authority-data) and no users"
	answer, err := get(ctx, NewTransport(nil, f.site.ProxyURL), f.url.String(), maxKubeconfig)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, fault.New(fault.Untrusted, "install the CA of that server on this machine (update-ca-certificates), or copy the file here", "the server of the discovery file is not to be trusted: %w", err)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case answer.status >= 500 || answer.status == http.StatusTooManyRequests:
		return nil, answer.failure(f.String())
	case answer.status != http.StatusOK:
		return nil, fault.New(fault.Untrusted, remedy+"; redirects are not followed", "%w", answer.failure(f.String()))
	}
	cluster, _, err := parseKubeconfig(answer.body, "", time.Now())
	if err != nil {
		return nil, fault.New(fault.Untrusted, remedy, "the discovery file at %s cannot be used: %w", f, err)
	}
	cluster.Override(f.site)
	return cluster, nil
}

// orderedEndpoints returns the endpoints beginning with the one at index first.
func orderedEndpoints(endpoints []Endpoint, first int) []Endpoint {
	return slices.Concat(endpoints[first:], endpoints[:first])
}
