//go:build unix

package monitor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestHealthAndReadiness(t *testing.T) {
	for _, test := range []struct {
		name          string
		how           func(s *status.Status)
		health, ready string // "" for 200
	}{
		{"well", func(*status.Status) {}, "", ""},
		{"stuck", func(s *status.Status) { s.Beat = time.Now().Add(-status.StaleAfter) }, "the agent has made no progress since ", ""},
		{"almost stuck", func(s *status.Status) { s.Beat = time.Now().Add(-status.StaleAfter + 10*time.Second) }, "", ""},
		{"without a certificate", func(s *status.Status) {
			s.Certificates[0] = status.Certificate{Name: "kubelet-client", State: status.Missing, Request: &status.Request{Name: "csr-7", Since: time.Now()}}
		}, "", "kubelet-client: nobody has approved its request since "},
		{"expired a moment ago", func(s *status.Status) { s.Certificates[0].NotAfter = time.Now() }, "", "kubelet-client: the certificate expired at "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy()
			test.how(&s)
			r := run(t, &Server{Source: source(s), Socket: filepath.Join(t.TempDir(), "run", SocketName), Listen: "127.0.0.1:0"})
			for range 2 {
				address := r.listening(t)
				for path, want := range map[string]string{"/healthz": test.health, "/readyz": test.ready} {
					code, answer := get(t, address, http.MethodGet, path, "")
					if ok := code == http.StatusOK && answer == "ok\n"; ok != (want == "") || !ok && code != http.StatusServiceUnavailable {
						t.Errorf("%s: %d %s", path, code, answer)
					}
					if want != "" && (!strings.HasPrefix(answer, want) || strings.Count(answer, "\n") != 1) {
						t.Errorf("%s: %q instead of %q", path, answer, want)
					}
				}
			}
		})
	}
}

// What changes or tells all is on the status socket alone.
func TestWhatIsServedWhere(t *testing.T) {
	dir := t.TempDir()
	r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(dir, SocketName), Listen: "unix:" + filepath.Join(dir, "metrics.sock")})
	addresses := []string{r.listening(t), r.listening(t)}
	slices.Sort(addresses) // metrics first
	for _, test := range []struct {
		method, path      string
		onMetrics, onMain int
	}{
		{http.MethodGet, "/metrics", 200, 200},
		{http.MethodHead, "/metrics", 200, 200},
		{http.MethodGet, "/healthz", 200, 200},
		{http.MethodGet, "/readyz", 200, 200},
		{http.MethodGet, "/status", 404, 200},
		{http.MethodPost, "/rotate", 404, 204},
		{http.MethodGet, "/rotate", 404, 405},
		{http.MethodPost, "/status", 404, 405},
		{http.MethodPost, "/metrics", 405, 405},
		{http.MethodGet, "/debug/pprof/", 404, 404},
		{http.MethodGet, "/", 404, 404},
	} {
		for i, want := range []int{test.onMetrics, test.onMain} {
			if code, answer := get(t, addresses[i], test.method, test.path, `{"force":true}`); code != want {
				t.Errorf("%s %s at %s: %d %s", test.method, test.path, addresses[i], code, answer)
			}
		}
	}
}

// An address in use does not end the agent; it is used as soon as it is free.
func TestPortInUse(t *testing.T) {
	other, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(t.TempDir(), SocketName), Listen: other.Addr().String()})
	if got := r.listening(t); got != r.Socket {
		t.Fatalf("it listens on %s", got)
	}
	expect.Eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "address already in use") })
	time.Sleep(5 * quick)
	if _, err := Ask(t.Context(), r.Socket); err != nil {
		t.Errorf("the status: %v", err)
	}
	if n := strings.Count(r.log.String(), "address already in use"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	other.Close()
	if got := r.listening(t); got != r.Listen {
		t.Fatalf("it listens on %s", got)
	}
	if code, _ := get(t, r.Listen, http.MethodGet, "/metrics", ""); code != http.StatusOK {
		t.Errorf("it answers %d", code)
	}
}

func TestListenThatCannotBe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*quick) // for what is not refused
	defer cancel()
	for _, address := range []string{"nonsense", "unix:", "127.0.0.1", "localhost:1", ":1", "::1:1:", "127.0.0.1:70000"} {
		err := (&Server{Source: source(healthy()), Listen: address, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
		if fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestNothingToServe(t *testing.T) {
	run(t, &Server{Source: source(healthy())}).stop()
}

// Whoever connects and says nothing, or too much, is got rid of, and does not keep the server from ending.
func TestBadClients(t *testing.T) {
	r := run(t, &Server{Source: source(healthy()), Listen: "127.0.0.1:0", timeout: 5 * quick})
	address := r.listening(t)
	dial := func() net.Conn {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for name, text := range map[string]string{
		"silent":           "",
		"half a request":   "GET /metrics HTTP/1.1\r\nHost: x\r\n",
		"an endless body":  "POST /rotate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"an endless title": "GET /" + strings.Repeat("x", 4*maxHeader),
	} {
		conn := dial()
		_, _ = io.WriteString(conn, text)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: it is still connected", name)
		}
		conn.Close()
	}
	for range 3 * maxConnections { // more than are let in, most of them waiting
		defer dial().Close()
	}
	begin := time.Now()
	r.stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("its end took %s", took)
	}
}

// All at once, while the server ends: for the race detector.
func TestManyAtOnce(t *testing.T) {
	r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(t.TempDir(), SocketName)})
	r.listening(t)
	var all sync.WaitGroup
	for range 3 * maxConnections {
		all.Go(func() {
			if _, err := Ask(t.Context(), r.Socket); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for range maxConnections {
		all.Go(func() { _, _ = Ask(t.Context(), r.Socket) })
	}
	r.stop()
	all.Wait()
}
