package bootstrap

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Deadlines of one connection. A server that accepts and says nothing is given up after them, and a peer that went
// away without a word is noticed within pingAfter+pingTimeout. connectTimeout is for all that it takes to open one: what
// is said to a proxy in between has no deadline of its own in net/http (SOCKS), or one of a minute (CONNECT).
const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	connectTimeout   = dialTimeout + handshakeTimeout
	pingAfter        = 30 * time.Second
	pingTimeout      = 15 * time.Second
)

// keepAlive is for HTTP/1.1, which has no PING: a peer that went away without a word is noticed within Idle+Count*Interval,
// the same time.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3}

// Connection is an [http.RoundTripper] to one API server at a time, over as few connections as the protocol allows:
// one with HTTP/2, and one per request in flight with HTTP/1.1. It is opened on demand, tries its endpoints in turn, and
// sends nothing to a server that its Trust has not verified. It is safe for concurrent use.
//
// [http.Transport]'s own pool would open a connection for each of two requests that start together, and cannot be told
// to open one before the first request: hence this one, on [http.Transport.NewClientConn].
type Connection struct {
	// Endpoints are tried in turn, beginning with the one that worked last.
	Endpoints []Endpoint
	// TLSServerName is the name that the servers' certificates carry; "" is the endpoint's own.
	TLSServerName string
	// ProxyURL is the proxy on the way; nil for none. The environment is not asked.
	ProxyURL *url.URL
	// Trust decides about servers.
	Trust *Trust
	// Source is where the Trust came from, as in [Cluster]; "" for nowhere that a person would look.
	Source string
	// Certificate returns what this side presents, and is asked at each handshake; nil for none.
	Certificate func(context.Context) (*tls.Certificate, error)
	// Log gets a line for each endpoint that failed; nil for none.
	Log *slog.Logger
	// Observe is told how each attempt to open a connection ended: nil for an endpoint that is alive and verified. An
	// attempt that the caller's context ended says nothing of the endpoint and is not told. What becomes of the
	// connection later is not told either. nil for nobody.
	//
	// One Connection calls it once at a time, from whatever goroutine makes a request; several Connections may call
	// the same function at the same time. It may ask the Connection for its Endpoint, but not make it open another.
	Observe func(Endpoint, error)

	timeout time.Duration // connectTimeout, if 0

	mu      sync.Mutex // guards what follows
	conns   []dialed
	current int            // index of the endpoint in use
	dialing chan struct{}  // full while a connection is opened, so that requests that start together share it
	skew    *time.Duration // as last measured; nil before
}

// dialed is a connection with the endpoint that it leads to, whatever endpoint is in use by now.
type dialed struct {
	*http.ClientConn
	endpoint Endpoint
}

// ConnectionTo returns a Connection to a cluster that discovery has verified.
func ConnectionTo(cluster *Cluster, log *slog.Logger) *Connection {
	trust := NewTrust()
	trust.Settle(cluster.CA, nil)
	return newConnection(cluster, trust, log)
}

func newConnection(cluster *Cluster, trust *Trust, log *slog.Logger) *Connection {
	return &Connection{Endpoints: cluster.Endpoints, TLSServerName: cluster.TLSServerName, ProxyURL: cluster.ProxyURL, Trust: trust, Source: cluster.Source, Log: log}
}

// show has the client certificate of a credential presented.
func (c *Connection) show(credential Credential) {
	if credential != nil {
		c.Certificate = Certificate(credential)
	}
}

// Present has a client certificate presented.
func (c *Connection) Present(certificate *tls.Certificate) {
	c.Certificate = func(context.Context) (*tls.Certificate, error) { return certificate, nil }
}

// Endpoint returns the endpoint in use, or that will be tried next.
func (c *Connection) Endpoint() Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Endpoints[c.current]
}

// Open opens a connection unless there is one with room for a request.
func (c *Connection) Open(ctx context.Context) error {
	conn, err := c.reserve(ctx)
	if err != nil {
		return err
	}
	conn.Release()
	return nil
}

// RoundTrip implements [http.RoundTripper]. The host of the request's URL is replaced by the endpoint's.
func (c *Connection) RoundTrip(req *http.Request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		resp, err := c.tryOnce(req)
		if !isUnsent(err) || tries == unsentTries || req.Body != nil && req.GetBody == nil {
			return resp, err
		}
		if req.Body == nil {
			continue
		}
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = body
	}
}

// unsentTries is how often a request is tried that finds its connection ended. An API server ends an HTTP/2 connection with its
// answer to a user whom it does not know, and a request beside that one may be too late.
const unsentTries = 3

// isUnsent reports whether a request was not processed, since its connection had ended: it may be made again. They are the errors for
// which [http.Transport] does so by itself (canRetryError of net/http's HTTP/2), and have no names.
func isUnsent(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.HasSuffix(text, "http2: client conn not usable") || strings.HasSuffix(text, "http2: Transport received Server's graceful shutdown GOAWAY")
}

func (c *Connection) tryOnce(req *http.Request) (*http.Response, error) {
	conn, err := c.reserve(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as http.RoundTripper wants it, on failure too
		}
		return nil, err
	}
	sent := req.Clone(req.Context())
	sent.URL.Host = conn.endpoint.String()
	sent.Host = ""
	started := time.Now()
	resp, err := conn.RoundTrip(sent)
	if err == nil {
		c.clock(started, time.Now(), resp.Header)
	}
	return resp, err
}

const (
	// maxSkewTrip is the longest round trip that says anything about a server's clock: the error is up to half of it.
	maxSkewTrip = 5 * time.Second
	// maxSkew is beyond every clock that was never set: what is further off is no date.
	maxSkew = 100 * 365 * 24 * time.Hour
)

// clock compares this machine's clock with that of a server that has answered.
func (c *Connection) clock(sent, received time.Time, header http.Header) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil || received.Sub(sent) > maxSkewTrip || received.Sub(date).Abs() > maxSkew {
		return
	}
	skew := skewOf(sent, received, date)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = &skew
}

// skewOf returns by how much this machine's clock is ahead of a server's that wrote date into an answer, to the second.
// The server wrote it at some time between sent and received, and cut off the fraction of a second (RFC 9110, section
// 5.6.7). Where that alone may be the difference, there is none.
func skewOf(sent, received, date time.Time) time.Duration {
	most := received.Sub(date)                       // if the server wrote it in the last instant, at a full second
	least := most - received.Sub(sent) - time.Second // if in the first, at the end of a second
	if least <= 0 && most >= 0 {
		return 0
	}
	return ((least + most) / 2).Round(time.Second)
}

// Skew returns by how much this machine's clock is ahead of the API server's (negative: behind), to the second, as the
// last answer told; one that took longer than 5 s tells nothing. It is not known before the first. The answers are those
// of verified servers, and still no more than a hint for a person: nothing may depend on it.
func (c *Connection) Skew() (skew time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.skew == nil {
		return 0, false
	}
	return *c.skew, true
}

// Close closes all connections and with them the requests in flight. The Connection can be used again.
func (c *Connection) Close() {
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // it is given up
	}
}

// Next closes all connections and goes on with the next endpoint.
func (c *Connection) Next() {
	c.Close()
	c.mu.Lock()
	c.current = (c.current + 1) % len(c.Endpoints)
	c.mu.Unlock()
}

// reserve returns a connection with a place for one request taken on it.
func (c *Connection) reserve(ctx context.Context) (*dialed, error) {
	if conn := c.spare(); conn != nil {
		return conn, nil
	}
	turn := c.turn()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if conn := c.spare(); conn != nil { // opened by another request meanwhile
		return conn, nil
	}
	conn, err := c.dialInTurn(ctx)
	if err != nil {
		return nil, err
	}
	if err := conn.Reserve(); err != nil {
		_ = conn.Close() // it never served
		return nil, fmt.Errorf("the connection to %s ended at once: %w", conn.endpoint, err)
	}
	c.mu.Lock()
	c.conns = append(c.conns, *conn)
	c.mu.Unlock()
	return conn, nil
}

// turn returns the channel that whoever opens a connection fills and empties.
func (c *Connection) turn() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dialing == nil {
		c.dialing = make(chan struct{}, 1)
	}
	return c.dialing
}

// spare returns a live connection with room for a request, reserved, and forgets the dead ones.
func (c *Connection) spare() *dialed {
	c.mu.Lock()
	defer c.mu.Unlock()
	var spare *dialed
	live := c.conns[:0]
	for _, conn := range c.conns {
		if conn.Err() != nil {
			continue
		}
		live = append(live, conn)
		if spare == nil && conn.Reserve() == nil {
			spare = &conn
		}
	}
	c.conns = live
	return spare
}

// dialInTurn tries every endpoint once. The error is final only if every endpoint's is: one that is merely out of
// reach may come back.
func (c *Connection) dialInTurn(ctx context.Context) (*dialed, error) {
	var failures []error
	for range c.Endpoints {
		endpoint := c.Endpoint()
		Progress(ctx)
		conn, err := c.dial(ctx, endpoint, c.transport(ctx, endpoint))
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if c.Observe != nil {
			c.Observe(endpoint, err)
		}
		if err == nil {
			return &dialed{conn, endpoint}, nil
		}
		if c.Log != nil && len(c.Endpoints) > 1 {
			c.Log.Warn("API server is out of use, trying the next", "endpoint", endpoint.String(), "err", err)
		}
		failures = append(failures, err)
		c.mu.Lock()
		c.current = (c.current + 1) % len(c.Endpoints)
		c.mu.Unlock()
	}
	return nil, allFailed(failures)
}

// allFailed makes one error, on one line, of one for each endpoint. It is final only if all of them are. Where one that
// passes has a class, it has that.
func allFailed(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	texts := make([]string, len(failures))
	final := true
	for i, err := range failures {
		texts[i] = err.Error()
		final = final && fault.IsFinal(err)
	}
	if final {
		return fault.New(fault.ClassOf(failures[0]), fault.Remedy(failures[0]), "none of the API servers will do: %s", strings.Join(texts, "; "))
	}
	text := "none of the API servers can be used now: " + strings.Join(texts, "; ")
	for _, err := range failures {
		if fault.HasClass(err) && !fault.IsFinal(err) {
			return fault.Passing(fault.ClassOf(err), fault.Remedy(err), "%s", text)
		}
	}
	return errors.New(text)
}

// dial opens a connection within connectTimeout.
func (c *Connection) dial(ctx context.Context, endpoint Endpoint, transport *http.Transport) (*http.ClientConn, error) {
	timeout := cmp.Or(c.timeout, connectTimeout)
	tooLate := fmt.Errorf("no connection within %s", timeout)
	if c.ProxyURL != nil {
		tooLate = fmt.Errorf("no connection through the proxy %s within %s", c.ProxyURL.Host, timeout)
	}
	// Not a context with a deadline, which would end a SOCKS handshake a moment before the context says why. It ends with
	// the dial: the connection does not depend on it.
	dialing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(timeout, func() { cancel(tooLate) }).Stop()
	conn, err := transport.NewClientConn(dialing, "https", endpoint.String())
	if err != nil && errors.Is(context.Cause(dialing), tooLate) {
		err = tooLate
	}
	switch {
	case err == nil:
		return conn, nil
	case fault.Is(err, fault.Untrusted) && c.Source != "":
		return nil, fault.New(fault.Untrusted, fault.Remedy(err), "cannot connect to %s: %w (trusted is the CA of %s)", endpoint, err, c.Source)
	}
	return nil, fmt.Errorf("cannot connect to %s: %w", endpoint, err)
}

// transport returns the transport of one connection to the endpoint.
func (c *Connection) transport(ctx context.Context, endpoint Endpoint) *http.Transport {
	name := c.TLSServerName
	if name == "" {
		name = endpoint.host
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         name,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies, once Trust is settled
		VerifyConnection:   c.Trust.verifyConnection(ctx, name),
	}
	if c.Certificate != nil {
		// Whatever issuers the server names in its request: from Certificates, crypto/tls would present none where the
		// issuer is not among them, and the API server would then answer as to an anonymous user instead of with 401.
		config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) { //nolint:contextcheck // info has the handshake's
			certificate, err := c.Certificate(info.Context())
			if certificate == nil && err == nil {
				certificate = &tls.Certificate{} // none: nil is an error to crypto/tls
			}
			return certificate, err
		}
	}
	transport := NewTransport(config, c.ProxyURL)
	transport.ForceAttemptHTTP2 = true
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	return transport
}

// NewTransport returns a transport with the deadlines of this package, without the environment's proxies. proxy is the one
// to use; nil for none.
func NewTransport(config *tls.Config, proxy *url.URL) *http.Transport {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: handshakeTimeout,
		DisableCompression:  true,
	}
	if proxy != nil {
		transport.Proxy = http.ProxyURL(proxy)
	}
	return transport
}
