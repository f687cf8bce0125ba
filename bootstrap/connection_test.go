package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// connect returns a Connection to servers that have certificates of ca.
func connect(tb testing.TB, ca *authority, endpoints ...Endpoint) *Connection {
	tb.Helper()
	conn := ConnectionTo(&Cluster{Endpoints: endpoints, CA: bundleOf(ca)}, nil)
	tb.Cleanup(conn.Close)
	return conn
}

// mustGet makes one request and returns its body.
func mustGet(tb testing.TB, conn *Connection, path string) string {
	tb.Helper()
	resp, err := roundTrip(tb, conn, path)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

func TestConnectionIsShared(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, test := range []struct {
		protocol string
		want     int // connections for two requests in flight
	}{{"h2", 1}, {"http/1.1", 2}} {
		t.Run(test.protocol, func(t *testing.T) {
			// Each request is answered once both are there.
			var waiting atomic.Int32
			both := make(chan struct{})
			s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{test.protocol}}, at("/both", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if waiting.Add(1) == 2 {
					close(both)
				}
				select {
				case <-both:
				case <-r.Context().Done():
				}
			})))
			conn := connect(t, ca, s.Endpoint)
			done := make(chan error, 2)
			for range 2 {
				go func() {
					resp, err := roundTrip(t, conn, "/both")
					if err == nil {
						err = resp.Body.Close()
					}
					done <- err
				}()
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if got := len(s.accepted()); got != test.want {
				t.Errorf("%d connections, want %d", got, test.want)
			}
			// One after the other, requests need no further connection.
			for range 3 {
				mustGet(t, conn, "/")
			}
			if got := len(s.accepted()); got != test.want {
				t.Errorf("%d connections after more requests, want %d", got, test.want)
			}
		})
	}
}

func TestConnectionOpensOnce(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, at("", http.NotFoundHandler()))
	conn := connect(t, ca, s.Endpoint)
	for range 3 {
		if err := conn.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustGet(t, conn, "/")
	if got := len(s.accepted()); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	if got := s.received(); len(got) != 1 || got[0].protocol != "h2" {
		t.Errorf("the requests are %+v", got)
	}
}

// named answers with a name.
func named(name string) http.Handler { return respond(http.StatusOK, []byte(name)) }

func TestConnectionTriesEndpointsInTurn(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	good := serve(t, serverOptions{certificate: ca.issue(t)}, named("good"))
	wrong := serve(t, serverOptions{certificate: rogue.issue(t)}, named("wrong"))
	dead := deadEndpoint(t)
	var out bytes.Buffer
	conn := connect(t, ca, dead, wrong.Endpoint, good.Endpoint)
	conn.Log = slog.New(slog.NewTextHandler(&out, nil))
	if got := mustGet(t, conn, "/"); got != "good" {
		t.Errorf("the answer is %q", got)
	}
	if got := conn.Endpoint(); got != good.Endpoint {
		t.Errorf("the endpoint in use is %s, want %s", got, good.Endpoint)
	}
	for endpoint, why := range map[Endpoint]string{dead: "connection refused", wrong.Endpoint: "not to be trusted"} {
		found := false
		for line := range strings.Lines(out.String()) {
			found = found || strings.Contains(line, "level=WARN") && strings.Contains(line, "endpoint="+endpoint.String()) && strings.Contains(line, why)
		}
		if !found {
			t.Errorf("%s (%s) is not in the log:\n%s", endpoint, why, out.String())
		}
	}

	conn.Close()
	mustGet(t, conn, "/")
	if got := len(wrong.accepted()); got != 1 {
		t.Errorf("the second connection did not begin with the endpoint that works: the wrong one was called %d times", got)
	}
	wrong.drain(t)
	if got := wrong.received(); len(got) != 0 {
		t.Errorf("the server of another CA got %+v", got)
	}
}

func TestConnectionFails(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	wrong := serve(t, serverOptions{certificate: rogue.issue(t)}, named("wrong"))
	expired := serve(t, serverOptions{certificate: ca.issue(t, lasting(-3*time.Hour, -2*time.Hour))}, named("expired"))
	future := serve(t, serverOptions{certificate: ca.issue(t, lasting(2*time.Hour, 3*time.Hour))}, named("future"))
	nameless := serve(t, serverOptions{certificate: ca.issue(t, nameOnly)}, named("nameless"))
	clients := serve(t, serverOptions{certificate: ca.issue(t, clientsOnly)}, named("clients"))
	dead := deadEndpoint(t)
	for _, test := range []struct {
		name      string
		endpoints []Endpoint
		class     fault.Class
		want      string
		remedy    string
	}{
		{"another CA", []Endpoint{wrong.Endpoint}, fault.Untrusted, "x509: certificate signed by unknown authority", "its CA was rotated"},
		{"another name", []Endpoint{nameless.Endpoint}, fault.Untrusted, "IP SANs", "--tls-server-name"},
		{"a client's certificate", []Endpoint{clients.Endpoint}, fault.Untrusted, "incompatible key usage", ""},
		{"expired", []Endpoint{expired.Endpoint}, fault.Untrusted, "(by this machine's clock it expired 2h0m", "timedatectl"},
		{"not yet valid", []Endpoint{future.Endpoint}, fault.Untrusted, "(by this machine's clock it becomes valid in ", "timedatectl"},
		{"all final", []Endpoint{wrong.Endpoint, expired.Endpoint}, fault.Untrusted, "none of the API servers will do: cannot connect to " + wrong.Endpoint.String(), ""},
		{"refused", []Endpoint{dead}, 0, "connection refused", ""},
		{"one may come back", []Endpoint{wrong.Endpoint, dead, expired.Endpoint}, 0, "none of the API servers can be used now: cannot connect to " + wrong.Endpoint.String(), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := connect(t, ca, test.endpoints...)
			err := conn.Open(t.Context())
			wantFault(t, err, test.class, test.want)
			if !strings.Contains(fault.Remedy(err), test.remedy) {
				t.Errorf("the remedy is %q, want one that says %q", fault.Remedy(err), test.remedy)
			}
			if got := conn.Endpoint(); got != test.endpoints[0] {
				t.Errorf("after a whole turn it is at %s, want %s", got, test.endpoints[0])
			}
		})
	}
}

// body is a request's body that knows whether it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error {
	b.closed = true
	return nil
}

func TestConnectionClosesTheBodyOnFailure(t *testing.T) {
	b := &body{Reader: strings.NewReader("{}")}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://kubernetes/", b)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := connect(t, machineCA, deadEndpoint(t)).RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("a dead server answered")
	}
	if !b.closed {
		t.Error("the request's body was left open")
	}
}

func TestConnectionNext(t *testing.T) {
	ca := newAuthority(t, "ca")
	hosts := make(chan string, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hosts <- r.Host })
	a := serve(t, serverOptions{certificate: ca.issue(t)}, handler)
	b := serve(t, serverOptions{certificate: ca.issue(t)}, handler)
	conn := connect(t, ca, a.Endpoint, b.Endpoint)
	for _, want := range []*server{a, b, a} {
		if got := conn.Endpoint(); got != want.Endpoint {
			t.Errorf("the endpoint is %s, want %s", got, want.Endpoint)
		}
		mustGet(t, conn, "/")
		if got := <-hosts; got != want.Endpoint.String() {
			t.Errorf("%s was asked, want %s", got, want.Endpoint)
		}
		conn.Next()
		want.drain(t) // closed
	}
}

// A connection that is opened while the turn passes to the next endpoint leads to its own endpoint all the same.
func TestConnectionNextWhileOneIsOpened(t *testing.T) {
	ca := newAuthority(t, "ca")
	var conn *Connection
	hosts := make(chan string, 1)
	a := serve(t, serverOptions{choose: func(*tls.ClientHelloInfo) *tls.Certificate {
		conn.Next()
		return ca.issue(t)
	}}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hosts <- r.Host }))
	b := serve(t, serverOptions{certificate: ca.issue(t)}, named("b"))
	conn = connect(t, ca, a.Endpoint, b.Endpoint)
	mustGet(t, conn, "/")
	if got := conn.Endpoint(); got != b.Endpoint {
		t.Fatalf("the turn is %s's: nothing is shown", got)
	}
	if got := <-hosts; got != a.Endpoint.String() {
		t.Errorf("%s was asked as %s", a.Endpoint, got)
	}
}

func TestConnectionTellsTheSourceOfItsTrust(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	wrong := serve(t, serverOptions{certificate: rogue.issue(t)}, named("wrong"))
	for _, test := range []struct {
		name   string
		server Endpoint
		source string
		class  fault.Class
		suffix string
	}{
		{"not to be trusted", wrong.Endpoint, "the discovery file /a", fault.Untrusted, "unknown authority (trusted is the CA of the discovery file /a)"},
		{"not to be trusted, no source", wrong.Endpoint, "", fault.Untrusted, "unknown authority"},
		{"out of reach", deadEndpoint(t), "the discovery file /a", 0, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, conn, err := Connect(t.Context(), &Known{Cluster{Endpoints: []Endpoint{test.server}, CA: bundleOf(ca), Source: test.source}}, nil, nil)
			if err == nil {
				conn.Close()
			}
			wantFault(t, err, test.class, test.suffix)
			if !strings.HasSuffix(err.Error(), test.suffix) {
				t.Errorf("the error is %q, want one that ends in %q", err, test.suffix)
			}
			if test.class != 0 && !strings.Contains(fault.Remedy(err), "its CA was rotated") {
				t.Errorf("the remedy is %q", fault.Remedy(err))
			}
		})
	}
}

func TestConnectionReplacesADeadOne(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{protocol}}, named("s"))
			conn := connect(t, ca, s.Endpoint)
			mustGet(t, conn, "/")
			s.accepted()[0].wire.Close()
			expect.Eventually(t, "the client notices that the connection is dead", func() bool {
				conn.mu.Lock()
				defer conn.mu.Unlock()
				return conn.conns[0].Err() != nil
			})
			mustGet(t, conn, "/")
			if got := len(s.accepted()); got != 2 {
				t.Errorf("%d connections, want 2", got)
			}
			if got := len(conn.conns); got != 1 {
				t.Errorf("it keeps %d connections, want 1: the dead one is forgotten", got)
			}
		})
	}
}

// An API server ends the HTTP/2 connection of a user whom it does not know. A request that is made beside the one that is answered
// finds no connection, or one that is closing: it is made again, with its body, and has an answer, too.
func TestConnectionThatIsEndedBesideARequest(t *testing.T) {
	ca := newAuthority(t, "ca")
	var posted atomic.Int32
	s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{"h2"}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && string(body) == "a request" {
			posted.Add(1)
		}
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	const rounds = 200
	for range rounds {
		conn := connect(t, ca, s.Endpoint)
		if err := conn.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		var requests sync.WaitGroup
		for _, body := range []string{"", "a request"} {
			requests.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Endpoint.URL(), strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := conn.RoundTrip(req)
				if err != nil {
					t.Errorf("no answer: %v", err)
					return
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("the answer is %s", resp.Status)
				}
			})
		}
		requests.Wait()
	}
	if posted.Load() != rounds {
		t.Errorf("the body was read %d times, want %d", posted.Load(), rounds)
	}
}

func TestConnectionCloseEndsWhatIsInFlight(t *testing.T) {
	ca := newAuthority(t, "ca")
	begun := make(chan struct{})
	s := serve(t, serverOptions{certificate: ca.issue(t)}, at("/watch", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
	})))
	conn := connect(t, ca, s.Endpoint)
	resp, err := roundTrip(t, conn, "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-begun
	conn.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the watch ended as if the server had ended it")
	}
	s.drain(t)
	mustGet(t, conn, "/") // it can be used again
}

func TestConnectionPresentsTheCertificate(t *testing.T) {
	ca := newAuthority(t, "ca")
	// The server names another issuer as the one that will do: it is the server that refuses, not this side that keeps quiet.
	s := serve(t, serverOptions{certificate: ca.issue(t), clientAuth: tls.RequestClientCert, clientCAs: bundleOf(newAuthority(t, "other")).Pool()}, named("s"))
	certificate := ca.issue(t, clientsOnly)
	for _, test := range []struct {
		name        string
		certificate *tls.Certificate
		want        int
	}{{"with one", certificate, 1}, {"without", nil, 0}} {
		t.Run(test.name, func(t *testing.T) {
			conn := connect(t, ca, s.Endpoint)
			conn.Present(test.certificate)
			mustGet(t, conn, "/")
			conns := s.accepted()
			presented := conns[len(conns)-1].session.ConnectionState().PeerCertificates
			if len(presented) != test.want {
				t.Fatalf("%d certificates were presented, want %d", len(presented), test.want)
			}
			if test.want != 0 && !presented[0].Equal(certificate.Leaf) {
				t.Error("another certificate was presented")
			}
		})
	}
}

func TestConnectionServerName(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t, nameOnly)}, named("s"))
	conn := connect(t, ca, s.Endpoint)
	conn.TLSServerName = "api.example.com"
	mustGet(t, conn, "/")
	conn = connect(t, ca, s.Endpoint)
	conn.TLSServerName = "other.example.com"
	wantFault(t, conn.Open(t.Context()), fault.Untrusted, "valid for api.example.com, not other.example.com")
}

// connectProxy is an HTTP proxy; it counts the tunnels that it was asked for.
func connectProxy(tb testing.TB) (*url.URL, *atomic.Int32) {
	tb.Helper()
	tunnels := new(atomic.Int32)
	tcp, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	proxy := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels.Add(1)
		to, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		w.WriteHeader(http.StatusOK)
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		ended := make(chan struct{}, 2)
		for _, way := range []struct {
			dst io.Writer
			src io.Reader
		}{{to, buffered}, {from, to}} {
			go func() {
				_, _ = io.Copy(way.dst, way.src)
				ended <- struct{}{}
			}()
		}
		<-ended
	})}
	go func() { _ = proxy.Serve(tcp) }()
	tb.Cleanup(func() { _ = proxy.Close() })
	return &url.URL{Scheme: "http", Host: tcp.Addr().String()}, tunnels
}

func TestProxy(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, nil)
	// The environment's proxies are not for loopback addresses: this address is none, and leads there all the same.
	endpoint := Endpoint{host: "0.0.0.0", port: s.Endpoint.port}
	s.http.Handler = clusterInfo(t, dataOf(t, kubeconfigOf(endpoint.URL(), bundleOf(ca)), testToken))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if proxy, err := http.ProxyFromEnvironment(req); err != nil || proxy == nil || proxy.String() != deadProxy {
		t.Fatalf("the environment's proxy is %v, %v: nothing would be shown", proxy, err)
	}

	t.Run("not the environment's", func(t *testing.T) {
		if err := useCredential(t, &ByToken{Site: Cluster{Endpoints: []Endpoint{endpoint}}, Token: testToken, Pins: []Pin{ca.pin()}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the given one", func(t *testing.T) {
		proxy, tunnels := connectProxy(t)
		d := &ByToken{Site: Cluster{Endpoints: []Endpoint{endpoint}, ProxyURL: proxy}, Token: testToken, Pins: []Pin{ca.pin()}}
		cluster, conn, err := Connect(t.Context(), d, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustGet(t, conn, "/")
		if diff := cmp.Diff(proxy, cluster.ProxyURL); diff != "" {
			t.Errorf("the cluster's proxy (-want +got):\n%s", diff)
		}
		if got := tunnels.Load(); got != 2 {
			t.Errorf("%d tunnels, want 2", got)
		}
	})
	t.Run("a given one that is dead", func(t *testing.T) {
		proxy, err := url.Parse(deadProxy)
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, ca, s.Endpoint)
		conn.ProxyURL = proxy
		wantFault(t, conn.Open(t.Context()), 0, "proxyconnect tcp")
	})
}

func TestConnectionPings(t *testing.T) {
	endpoint := deadEndpoint(t)
	transport := connect(t, machineCA, endpoint).transport(t.Context(), endpoint)
	if got, want := transport.HTTP2, (&http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}); !cmp.Equal(got, want) {
		t.Errorf("HTTP/2 is configured as %+v, want %+v", got, want)
	}
}

func TestConnectionDeadlines(t *testing.T) {
	// A server that accepts and says nothing. The deadlines are checked as they stand, and that they count is shown
	// with a shorter one.
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	transport := NewTransport(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: "127.0.0.1"}, nil)
	if got := transport.TLSHandshakeTimeout; got != 10*time.Second {
		t.Errorf("the deadline of a handshake is %s", got)
	}
	transport.TLSHandshakeTimeout = 20 * time.Millisecond
	if conn, err := transport.NewClientConn(t.Context(), "https", tcp.Addr().String()); err == nil {
		conn.Close()
		t.Error("a silent server was connected to")
	} else if !strings.Contains(err.Error(), "TLS handshake timeout") {
		t.Errorf("the error is %v", err)
	}

	cause := errors.New("the operator had enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, cause)
	defer cancel()
	if err := connect(t, machineCA, mustEndpoint(t, tcp.Addr().String())).Open(ctx); !errors.Is(err, cause) {
		t.Errorf("the error is %v, want the cause of the cancellation", err)
	}
}

// What net/http says to a proxy has no deadline of its own.
func TestConnectionGivesUpASilentProxy(t *testing.T) {
	if connectTimeout != 15*time.Second {
		t.Errorf("the deadline of a connection is %s", connectTimeout)
	}
	silent, endpoint := silentEndpoint(t), mustEndpoint(t, "api.example.com:6443")
	for _, scheme := range []string{"socks5", "http"} {
		t.Run(scheme, func(t *testing.T) {
			conn := connect(t, machineCA, endpoint)
			conn.ProxyURL = &url.URL{Scheme: scheme, Host: silent.String()}
			conn.timeout = 20 * time.Millisecond
			done := make(chan error, 1)
			go func() { done <- conn.Open(t.Context()) }()
			select {
			case err := <-done:
				wantFault(t, err, 0, "cannot connect to "+endpoint.String()+": no connection through the proxy "+silent.String()+" within 20ms")
			case <-time.After(10 * time.Second):
				t.Fatal("it waits for the proxy")
			}
		})
	}
	t.Run("no proxy", func(t *testing.T) {
		conn := connect(t, machineCA, silent)
		conn.timeout = 20 * time.Millisecond
		wantFault(t, conn.Open(t.Context()), 0, "cannot connect to "+silent.String()+": no connection within 20ms")
	})
}

// The deadline is for the opening, and not for what is opened.
func TestConnectionOutlivesItsDeadline(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{protocol}}, named("s"))
			conn := connect(t, ca, s.Endpoint)
			conn.timeout = 2 * time.Second
			mustGet(t, conn, "/")
			<-time.After(conn.timeout + 100*time.Millisecond)
			mustGet(t, conn, "/")
			if got := len(s.accepted()); got != 1 {
				t.Errorf("%d connections, want 1", got)
			}
		})
	}
}
