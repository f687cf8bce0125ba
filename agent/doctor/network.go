package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
)

// Limits of one step. Where a step fails, what comes after it is skipped.
const (
	resolveLimit = 3 * time.Second
	connectLimit = 3 * time.Second
	greetLimit   = 5 * time.Second // handshake and one answer
	askLimit     = 6 * time.Second // questions over a connection that works
)

// lateCertificate is when an API server's certificate is about to expire.
const lateCertificate = 7 * 24 * time.Hour

// cluster returns the cluster as far as it is known: the CA may be missing. nil if nothing is known.
func (e *examination) cluster() *bootstrap.Cluster {
	if e.Cluster != nil && (!e.Cluster.CA.IsZero() || len(e.Accesses) == 0) {
		return e.Cluster
	}
	for _, d := range e.discovered() {
		if d.cluster == nil {
			continue
		}
		cluster := *d.cluster
		if e.Cluster != nil {
			cluster.Endpoints, cluster.TLSServerName, cluster.ProxyURL = e.Cluster.Endpoints, e.Cluster.TLSServerName, e.Cluster.ProxyURL
		}
		return &cluster
	}
	return e.Cluster
}

// site returns where the API servers are, without a word from the network if that can be.
func (e *examination) site() *bootstrap.Cluster {
	if e.Cluster != nil {
		return e.Cluster
	}
	return e.cluster()
}

// path is the way to an API server, or to the proxy that all ways lead through.
type path struct {
	endpoint bootstrap.Endpoint // zero for the proxy
	name     string             // HOST:PORT
	host     string

	addresses  []netip.Addr
	resolveErr error
	connectErr error // nil too where the name was not resolved
	took       time.Duration
}

// tryPaths goes every way as far as a TCP connection.
func (e *examination) tryPaths(ctx context.Context) []path {
	site := e.site()
	if site == nil {
		return nil
	}
	var paths []path
	if site.ProxyURL != nil {
		port := site.ProxyURL.Port()
		if port == "" {
			port = map[string]string{"http": "80", "socks5": "1080"}[site.ProxyURL.Scheme]
		}
		paths = []path{{name: net.JoinHostPort(site.ProxyURL.Hostname(), port)}}
	} else {
		for _, endpoint := range site.Endpoints {
			paths = append(paths, path{endpoint: endpoint, name: endpoint.String()})
		}
	}
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() { paths[i].try(ctx, e.host.resolver) })
	}
	all.Wait()
	return paths
}

func (p *path) try(ctx context.Context, resolver *net.Resolver) {
	var err error
	if p.host, _, err = net.SplitHostPort(p.name); err != nil {
		p.resolveErr = err
		return
	}
	if ip, err := netip.ParseAddr(p.host); err == nil {
		p.addresses = []netip.Addr{ip}
	} else {
		resolving, cancel := context.WithTimeout(ctx, resolveLimit)
		defer cancel()
		if p.addresses, p.resolveErr = resolver.LookupNetIP(resolving, "ip", p.host); p.resolveErr != nil {
			return
		}
	}
	connecting, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	started := time.Now()
	conn, err := new(net.Dialer).DialContext(connecting, "tcp", p.name)
	p.took = time.Since(started)
	if p.connectErr = err; err == nil {
		_ = conn.Close() // it was only to be opened
	}
}

func (p *path) works() bool { return p.resolveErr == nil && p.connectErr == nil }

// what names the other end for a person.
func (p *path) what() string {
	if p.endpoint.IsZero() {
		return "the proxy " + p.name
	}
	return p.name
}

// oneOf returns how bad it is that one of several ways cannot be gone: a warning while another one can.
func oneOf(anyWorks bool) Level {
	if anyWorks {
		return Warning
	}
	return Failure
}

func anyWorks(paths []path, works func(*path) bool) bool {
	for i := range paths {
		if works(&paths[i]) {
			return true
		}
	}
	return false
}

const noServer = "no API server is known"

func (e *examination) checkDNS(f *findings) {
	paths := e.paths()
	if len(paths) == 0 {
		f.skip(noServer)
	}
	bad := oneOf(anyWorks(paths, func(p *path) bool { return p.resolveErr == nil }))
	for _, p := range paths {
		switch {
		case p.resolveErr != nil:
			f.add(bad, "check the name, and how this machine resolves it: getent hosts "+p.host+"; cat /etc/resolv.conf", "the name of %s cannot be resolved: %s", p.what(), cause(p.resolveErr, resolveLimit))
		case len(p.addresses) == 1 && p.addresses[0].String() == p.host:
			f.ok("%s is an address", p.what())
		default:
			texts := make([]string, len(p.addresses))
			for i, a := range p.addresses {
				texts[i] = a.Unmap().String()
			}
			f.ok("%s has the address %s", p.what(), strings.Join(texts, ", "))
		}
	}
}

func (e *examination) checkConnect(f *findings) {
	paths := e.paths()
	if len(paths) == 0 {
		f.skip(noServer)
	}
	bad := oneOf(anyWorks(paths, (*path).works))
	for _, p := range paths {
		switch {
		case p.resolveErr != nil:
			f.skip("the name of %s cannot be resolved", p.what())
		case p.connectErr != nil:
			f.add(bad, connectRemedy(&p), "cannot connect to %s: %s", p.what(), cause(p.connectErr, connectLimit))
		default:
			f.ok("%s accepts connections (after %s)", p.what(), p.took.Round(100*time.Microsecond))
		}
	}
}

func connectRemedy(p *path) string {
	switch {
	case errors.Is(p.connectErr, errRefused):
		return "check the port, and on that machine that the server runs: ss -ltn"
	case errors.Is(p.connectErr, errNoNetwork), errors.Is(p.connectErr, errNoHost):
		return "check this machine's routes: ip route get " + p.addresses[0].Unmap().String()
	}
	return "check the route (ip route get " + p.addresses[0].Unmap().String() + ") and every firewall on the way: something drops the packets"
}

// cause shortens an error of the network to what a person wants to know of it.
func cause(err error, limit time.Duration) string {
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", limit)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok {
		return dnsErr.Err
	}
	return err.Error()
}

// server is what became of an API server that can be connected to.
type server struct {
	endpoint bootstrap.Endpoint
	trustErr error // why it is not to be trusted or cannot be used; nil if it is the cluster's

	greeted bool                // the rest is known, which nobody vouches for
	leaf    *x509.Certificate   // that it presented
	chain   []*x509.Certificate // the same and what came with it
	skew    time.Duration       // of this machine's clock against its own; positive if this one is ahead
	dated   bool
}

// tryServers makes a handshake with every API server that can be connected to, as the agent would, and asks it for the
// time. The time is asked for without a look at its certificate, which a wrong clock might find bad; nothing is sent that
// anyone must not see.
func (e *examination) tryServers(ctx context.Context) []server {
	site := e.site()
	if site == nil {
		return nil
	}
	live := *site
	live.Endpoints = nil
	paths := e.paths()
	for _, p := range paths {
		switch {
		case !p.works():
		case p.endpoint.IsZero():
			live.Endpoints = site.Endpoints
		default:
			live.Endpoints = append(live.Endpoints, p.endpoint)
		}
	}
	servers := make([]server, len(live.Endpoints))
	var all sync.WaitGroup
	for i, endpoint := range live.Endpoints {
		servers[i].endpoint = endpoint
		all.Go(func() { servers[i].greet(ctx, &live, e.UserAgent) })
	}
	if cluster := e.cluster(); cluster != nil && !cluster.CA.IsZero() && len(servers) != 0 {
		live.CA = cluster.CA
		reaching, cancel := context.WithTimeoutCause(ctx, greetLimit, fmt.Errorf("no TLS handshake within %s", greetLimit))
		defer cancel()
		for i, reached := range bootstrap.Reach(reaching, &live) {
			servers[i].trustErr = reached.Err
		}
	} else {
		for i := range servers {
			servers[i].trustErr = errNoCA
		}
	}
	all.Wait()
	return servers
}

var errNoCA = errors.New("no CA is known that could vouch for it")

// greet asks the server whether it is ready and looks at what comes with the answer.
func (s *server) greet(ctx context.Context, site *bootstrap.Cluster, userAgent string) {
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	name := site.TLSServerName
	if name == "" {
		name, _, _ = net.SplitHostPort(s.endpoint.String())
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: name,
			InsecureSkipVerify: true, //nolint:gosec // no credential is sent; the answer is a hint, and bootstrap.Reach judges the server
		},
	}
	if site.ProxyURL != nil {
		transport.Proxy = http.ProxyURL(site.ProxyURL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoint.URL()+"/readyz", nil)
	if err != nil {
		return
	}
	req.Header.Set("User-Agent", userAgent)
	sent := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return
	}
	_ = resp.Body.Close() // of no interest
	received := time.Now()
	s.greeted = true
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) != 0 {
		s.chain = resp.TLS.PeerCertificates
		s.leaf = s.chain[0]
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// Written somewhere between the two, with the fraction of the second cut off.
		middle := sent.Add(received.Sub(sent) / 2)
		s.skew, s.dated = middle.Sub(date.Add(time.Second/2)).Round(time.Second), true
	}
}

// verified returns the cluster with those API servers alone that the CA vouches for; nil if there are none.
func (e *examination) verified() *bootstrap.Cluster {
	var live []bootstrap.Endpoint
	for _, s := range e.servers() {
		if s.trustErr == nil {
			live = append(live, s.endpoint)
		}
	}
	if len(live) == 0 {
		return nil
	}
	cluster := *e.cluster()
	cluster.Endpoints = live
	return &cluster
}

const notVerified = "there is no API server that is reached and verified"

func (e *examination) checkTLS(f *findings) {
	servers := e.servers()
	if len(servers) == 0 {
		f.skip("there is no API server that can be connected to")
		return
	}
	bad := oneOf(e.verified() != nil)
	for _, s := range servers {
		switch {
		case errors.Is(s.trustErr, errNoCA):
			f.skip("of %s %s", s.endpoint, errNoCA)
		case s.trustErr != nil:
			f.fail(bad, s.trustErr, "see what it says: openssl s_client -connect "+s.endpoint.String()+" </dev/null")
		case s.leaf == nil:
			f.ok("%s is verified", s.endpoint)
		case e.Now().Add(lateCertificate).After(s.leaf.NotAfter):
			f.add(Warning, "on that control-plane node: kubeadm certs renew apiserver, and restart the API server", "%s is verified, but its certificate expires at %s", s.endpoint, stamp(s.leaf.NotAfter))
		default:
			f.ok("%s is verified; its certificate is valid until %s", s.endpoint, stamp(s.leaf.NotAfter))
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// lateCA is when a CA is about to expire: its successor must reach every node before.
const lateCA = 30 * 24 * time.Hour

func (e *examination) checkCA(f *findings) {
	cluster := e.cluster()
	if cluster == nil || cluster.CA.IsZero() {
		f.skip("no CA is known")
		return
	}
	now := e.Now()
	for _, cert := range cluster.CA.Certificates() {
		pin := bootstrap.PinOf(cert)
		switch {
		case !now.Before(cert.NotAfter):
			f.add(Failure, "check this machine's clock (timedatectl); rotate the cluster's CA if it is right", "the CA certificate %q expired at %s (%s)", cert.Subject, stamp(cert.NotAfter), pin)
		case now.Add(lateCA).After(cert.NotAfter):
			f.add(Warning, "rotate the cluster's CA: https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/", "the CA certificate %q expires at %s (%s)", cert.Subject, stamp(cert.NotAfter), pin)
		default:
			f.ok("the CA certificate %q is valid until %s (%s)", cert.Subject, stamp(cert.NotAfter), pin)
		}
	}
	if len(e.Pins) != 0 && cluster.CA.Pinned(e.Pins).IsZero() {
		f.add(e.toJoin(), "if the cluster's CA was rotated, put the hash of the new one into the configuration (caCertHashes); if not, find out whose CA this is",
			"none of these CA certificates has a pinned key: joining again with a token would fail")
	}
}

// Bounds of a clock's difference: the API server backdates certificates by five minutes.
const (
	someSkew = 30 * time.Second
	muchSkew = 5 * time.Minute
)

// firstYear is before this program was made: a clock that says an earlier year was never set.
const firstYear = 2026

func (e *examination) checkClock(f *findings) {
	const remedy = "set the clock and have it kept right: timedatectl set-ntp true; timedatectl status"
	if now := e.Now(); now.Year() < firstYear {
		f.add(Failure, remedy, "this machine's clock says %s: it was never set", stamp(now))
	}
	switch synchronised, known := e.host.clock(); {
	case !known:
		f.skip("whether this machine's clock is synchronised cannot be found out here")
	case synchronised:
		f.ok("this machine's clock is synchronised")
	default:
		f.add(Warning, remedy, "nothing tells the kernel that this machine's clock is synchronised")
	}
	for _, s := range e.servers() {
		if !s.dated {
			continue
		}
		switch {
		case s.skew.Abs() >= muchSkew:
			f.add(Failure, remedy, "%s: certificates are valid at other times than this machine thinks", skewText(&s))
		case s.skew.Abs() >= someSkew:
			f.add(Warning, remedy, "%s", skewText(&s))
		default:
			f.ok("this machine's clock agrees with that of %s", s.endpoint)
		}
		return // of one API server it is enough to know
	}
	f.skip("no API server told its time")
}

func skewText(s *server) string {
	way := "ahead of"
	if s.skew < 0 {
		way = "behind"
	}
	return fmt.Sprintf("this machine's clock is %s %s that of %s", s.skew.Abs(), way, s.endpoint)
}
