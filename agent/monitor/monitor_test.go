//go:build unix

package monitor

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

// A goroutine that outlives its server fails the package.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const quick = 20 * time.Millisecond

// healthy returns the status of an agent where all is well, but for what a certificate waits for.
func healthy() status.Status {
	now := time.Now()
	return status.Status{
		Version: "v0.3.0", Running: true, PID: 812, Since: now.Add(-time.Hour), Node: "node-7", Rotation: "agent",
		Certificates: []status.Certificate{
			{
				Name: "kubelet-client", State: status.Valid, Serial: "1b2f", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
				RotateAt: now.Add(30 * time.Minute), Rotations: 3, Failures: 2, Beat: now,
			},
			{Name: "kubelet-serving", State: status.Missing, Request: &status.Request{Name: "csr-1", Username: "system:node:node-7"}, Beat: now},
		},
		Endpoints: []status.Endpoint{
			{Address: "api1:6443", Alive: true, InUse: true, CheckedAt: now},
			{Address: "api2:6443", CheckedAt: now, Error: "connection refused"},
			{Address: "api3:6443"},
		},
		CA: status.CA{Certificates: []status.CACertificate{
			{Subject: "CN=new", NotAfter: now.Add(48 * time.Hour)}, {Subject: "CN=old", NotAfter: time.Unix(1800000000, 0)},
		}},
		ClockSkew: 1500 * time.Millisecond, Watching: true, Beat: now,
		Problem: &status.Problem{Text: "no", Class: fault.Denied, Certificate: "kubelet-serving"},
	}
}

func source(s status.Status) Source {
	return Source{Snapshot: func() status.Status { return s }, Rotate: func(context.Context) error { return nil }}
}

// running is a server that runs until the test ends.
type running struct {
	*Server

	log    *logged
	stop   func() // and wait
	opened chan net.Listener
}

func run(t *testing.T, s *Server) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{Server: s, log: &logged{}, opened: make(chan net.Listener, 100)}
	s.Log = slog.New(slog.NewTextHandler(r.log, nil))
	s.heard = func(l net.Listener) { r.opened <- l }
	if s.every == 0 {
		s.every = quick
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// listening waits for the next listener and returns its address.
func (r *running) listening(t *testing.T) string {
	t.Helper()
	select {
	case l := <-r.opened:
		return l.Addr().String()
	case <-time.After(10 * time.Second):
		t.Fatalf("it does not listen: %s", r.log)
		return ""
	}
}

type logged struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// get asks at an address, which is a socket's path if it is absolute.
func get(t *testing.T, address, method, path, body string) (code int, answer string) {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if filepath.IsAbs(address) {
				return dialUnix(ctx, address)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://nodejoin"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}
