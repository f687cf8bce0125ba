package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/nodejoin/nodejoin/test/expect"
)

// The servers of these tests stand in for API servers that lie, stall or break off, which a real one cannot be made
// to do. What a real one does is tested against a real one, in test/.

// server is an HTTPS server that keeps everything that it is sent.
type server struct {
	Endpoint Endpoint
	http     *http.Server
	serving  chan struct{} // closed when Serve has returned

	mu       sync.Mutex
	conns    []*serverConn
	requests []request
	live     int // connections
}

// request is what arrived of one.
type request struct {
	protocol string // of the TLS handshake: "h2", or "" for a client that offered none
	path     string
	bearer   string
}

// serverOptions say how a server behaves; zero values stand for an API server.
type serverOptions struct {
	certificate *tls.Certificate
	// choose picks the certificate for a client in the place of certificate. Offers of protocols tell the connections
	// of this package apart: the one for discovery offers none.
	choose     func(*tls.ClientHelloInfo) *tls.Certificate
	maxVersion uint16   // of TLS; 0 for 1.3
	protocols  []string // nil for HTTP/2 and HTTP/1.1
	clientAuth tls.ClientAuthType
	clientCAs  *x509.CertPool // named to the client as the issuers that will do
}

// forCredential reports whether a client is about to open the connection that will carry the credential.
func forCredential(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, "h2")
}

// serverConn is a connection that keeps what arrives on it, below TLS and above.
type serverConn struct {
	net.Conn // session, as a connection like any other to net/http
	session  *tls.Conn
	wire     *recorder

	mu        sync.Mutex
	heard     bytes.Buffer // what came out of TLS
	completed bool         // the handshake was completed, by the client too
}

func (c *serverConn) Read(p []byte) (int, error) {
	if err := c.session.HandshakeContext(context.Background()); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.completed = true
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard.Write(p[:n])
	return n, err
}

// state returns what has arrived, and whether the handshake is complete.
func (c *serverConn) state() (heard string, completed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard.String(), c.completed
}

// recorder is a TCP connection that keeps what arrives, and tells when something was answered.
type recorder struct {
	net.Conn
	answered chan struct{} // closed by the first write
	once     sync.Once
	mu       sync.Mutex
	heard    bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard.Write(p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.Conn.Write(p)
	r.once.Do(func() { close(r.answered) })
	return n, err
}

// listener makes a serverConn of each connection.
type listener struct {
	net.Listener
	server *server
	config *tls.Config
}

func (l *listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	wire := &recorder{Conn: accepted, answered: make(chan struct{})}
	session := tls.Server(wire, l.config)
	conn := &serverConn{Conn: session, session: session, wire: wire}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.server.conns = append(l.server.conns, conn)
	return conn, nil
}

type connKey struct{}

// serve starts a server on a free port of the loopback interface.
func serve(tb testing.TB, options serverOptions, handler http.Handler) *server {
	tb.Helper()
	tcp, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{Endpoint: mustEndpoint(tb, tcp.Addr().String()), serving: make(chan struct{})}
	config := &tls.Config{MaxVersion: options.maxVersion, NextProtos: options.protocols, ClientAuth: options.clientAuth, ClientCAs: options.clientCAs}
	if config.NextProtos == nil {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if options.choose != nil {
			return options.choose(hello), nil
		}
		return options.certificate, nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // TLS is ended by serverConn, which net/http does not know
	s.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.record(r); handler.ServeHTTP(w, r) }),
		Protocols:         protocols,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch state {
			case http.StateNew:
				s.live++
			case http.StateClosed:
				s.live--
			}
		},
	}
	go func() {
		defer close(s.serving)
		_ = s.http.Serve(&listener{Listener: tcp, server: s, config: config})
	}()
	tb.Cleanup(func() {
		_ = s.http.Close()
		<-s.serving
	})
	return s
}

func (s *server) record(r *http.Request) {
	conn := r.Context().Value(connKey{}).(*serverConn)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request{
		protocol: conn.session.ConnectionState().NegotiatedProtocol, path: r.URL.Path, bearer: r.Header.Get("Authorization"),
	})
}

// drain waits until every client has closed its connections, so that all that they sent has arrived.
func (s *server) drain(tb testing.TB) {
	tb.Helper()
	expect.Eventually(tb, "all clients have closed their connections", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.live == 0
	})
}

func (s *server) accepted() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.conns)
}

func (s *server) received() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// bytes returns all that was received, below TLS and above it.
func (s *server) bytes() string {
	var all strings.Builder
	for _, conn := range s.accepted() {
		heard, _ := conn.state()
		all.WriteString(heard)
		conn.wire.mu.Lock()
		all.Write(conn.wire.heard.Bytes())
		conn.wire.mu.Unlock()
	}
	for _, r := range s.received() { // HTTP/2 compresses headers
		fmt.Fprintf(&all, "%+v", r)
	}
	return all.String()
}

// clusterInfo answers as an API server does whose cluster-info has this data, and to other paths with 200.
func clusterInfo(tb testing.TB, data map[string]string) http.Handler {
	tb.Helper()
	return at(clusterInfoPath, respond(http.StatusOK, infoOf(tb, data)))
}

// infoOf returns a cluster-info with this data, as an API server sends it.
func infoOf(tb testing.TB, data map[string]string) []byte {
	tb.Helper()
	body, err := json.Marshal(map[string]any{
		"kind": "ConfigMap", "apiVersion": "v1", "metadata": map[string]any{"name": "cluster-info", "namespace": "kube-public"}, "data": data,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// at answers with handler at one path and with 200 everywhere else.
func at(path string, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			handler.ServeHTTP(w, r)
		}
	})
}

func respond(status int, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(body)
	})
}

// dataOf returns the data of a cluster-info with this kubeconfig, signed with the tokens as the bootstrap signer does.
func dataOf(tb testing.TB, kubeconfig string, tokens ...Token) map[string]string {
	tb.Helper()
	data := map[string]string{"kubeconfig": kubeconfig}
	for _, token := range tokens {
		signature, err := jws.ComputeDetachedSignature(kubeconfig, token.ID, token.Secret.Reveal())
		if err != nil {
			tb.Fatal(err)
		}
		data["jws-kubeconfig-"+token.ID] = signature
	}
	return data
}

// late is a handler that is known after the server's address.
type late struct{ http.Handler }

// serveCluster starts an API server whose signed cluster-info names itself and the bundle.
func serveCluster(tb testing.TB, options serverOptions, bundle Bundle) *server {
	tb.Helper()
	handler := new(late)
	s := serve(tb, options, handler)
	handler.Handler = clusterInfo(tb, dataOf(tb, kubeconfigOf(s.Endpoint.URL(), bundle), testToken))
	return s
}

// deadEndpoint returns an endpoint that refuses connections.
func deadEndpoint(tb testing.TB) Endpoint {
	tb.Helper()
	tcp, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	_ = tcp.Close()
	return mustEndpoint(tb, tcp.Addr().String())
}
