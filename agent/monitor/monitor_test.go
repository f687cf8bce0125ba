//go:build unix

package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
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

func TestAsk(t *testing.T) {
	want := healthy()
	r := run(t, &Server{Source: source(want), Socket: filepath.Join(t.TempDir(), "run", SocketName)})
	if got := r.listening(t); got != r.Socket {
		t.Errorf("it listens on %s", got)
	}
	got, err := Ask(t.Context(), r.Socket)
	if err != nil {
		t.Fatal(err)
	}
	wantJSON, _ := json.Marshal(want)
	gotJSON, _ := json.Marshal(got)
	if !bytes.Equal(wantJSON, gotJSON) {
		t.Errorf("it is %s instead of %s", gotJSON, wantJSON)
	}
	r.stop()
	if _, err := Ask(t.Context(), r.Socket); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := os.Lstat(r.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestAskWhereNoAgentRuns(t *testing.T) {
	dir := t.TempDir()
	deaf := filepath.Join(dir, "deaf")
	leaveStale(t, deaf)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, strings.Repeat("d", 100), SocketName)
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "no", "dir"), deaf, file, filepath.Join(file, "below"), long} {
		if _, err := Ask(t.Context(), path); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", path, err)
		}
		if err := Rotate(t.Context(), path); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAskWithoutPermission(t *testing.T) {
	err := explain(&net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "connect", Err: syscall.EACCES}}, "/s")
	if fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" || errors.Is(err, ErrNotRunning) {
		t.Errorf("it is %v, class %d", err, fault.ClassOf(err))
	}
}

// An agent that takes the connection and says nothing, or nonsense, is not waited for endlessly.
func TestAskASilentAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	if _, err := Ask(ctx, path); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("it is %v", err)
	}
}

func TestAskNonsense(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\nno", "HTTP/1.1 500 No\r\n\r\n<html>", "SSH-2.0\r\n"} {
		path := filepath.Join(t.TempDir(), SocketName)
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var done sync.WaitGroup
		done.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1000))
			_, _ = io.WriteString(conn, answer)
			conn.Close()
		})
		if s, err := Ask(t.Context(), path); err == nil || errors.Is(err, ErrNotRunning) {
			t.Errorf("%q: %v, %v", answer, s, err)
		}
		l.Close()
		done.Wait()
	}
}

// Nobody but this user can connect, whatever the umask.
func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		before := unix.Umask(umask)
		r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(t.TempDir(), "run", SocketName)})
		r.listening(t)
		unix.Umask(before)
		info, err := os.Lstat(r.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("umask %#o: the socket is %s", umask, info.Mode())
		}
		r.stop()
	}
}

// A directory where others can write is not used; when it is mended, the server goes on by itself.
func TestUnsafeDirectory(t *testing.T) {
	for _, mode := range []fs.FileMode{0o777, 0o775, 0o757, fs.ModeSticky | 0o777} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(dir, SocketName)})
		eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "is writable by others") })
		if _, err := os.Lstat(r.Socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("mode %s: there is a socket: %v", mode, err)
		}
		if !strings.Contains(r.log.String(), "chmod go-w") {
			t.Errorf("there is no remedy: %s", r.log)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.listening(t)
		r.stop()
	}
}

func TestDirectoryOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, -1); err != nil {
		t.Fatal(err)
	}
	if err := checkDir(dir); fault.ClassOf(err) != fault.Files || !strings.Contains(err.Error(), "belongs to another user (uid 4711)") {
		t.Errorf("it is %v", err)
	}
}

// leaveStale leaves a socket as a process that was killed does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	leaveStale(t, path)
	r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
	r.listening(t)
	if _, err := Ask(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	for _, create := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("/nonexistent", path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), SocketName)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, &Server{Source: source(healthy()), Socket: path})
		eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "in the place of the socket") })
		r.stop()
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s is gone: %v", before.Mode(), err)
		}
	}
}

// Of two servers the first keeps the socket, and the second takes over when the first ends.
func TestTwoServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	first := run(t, &Server{Source: source(status.Status{Node: "first"}), Socket: path})
	first.listening(t)
	second := run(t, &Server{Source: source(status.Status{Node: "second"}), Socket: path})
	eventually(t, "the second complains", func() bool { return strings.Contains(second.log.String(), "another process answers there") })
	for range 5 {
		if s, err := Ask(t.Context(), path); err != nil || s.Node != "first" {
			t.Fatalf("it is %v: %v", s, err)
		}
		time.Sleep(quick)
	}
	if lines := strings.Count(second.log.String(), "\n"); lines != 1 {
		t.Errorf("the same reason is logged %d times: %s", lines, second.log)
	}
	first.stop()
	second.listening(t)
	if s, err := Ask(t.Context(), path); err != nil || s.Node != "second" {
		t.Errorf("it is %v: %v", s, err)
	}
}

// What was put in the place of a socket is not removed with it.
func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
	r.listening(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	leaveStale(t, path)
	r.stop()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestDeletedSocketIsMadeAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", SocketName)
	r := run(t, &Server{Source: source(healthy()), Socket: path})
	r.listening(t)
	for range 3 {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		r.listening(t)
		if _, err := Ask(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
}

// A path that is longer than the kernel takes works, too.
func TestLongPath(t *testing.T) {
	for _, name := range []string{strings.Repeat("d", 200) + "/" + strings.Repeat("e", 200), strings.Repeat("d", maxPath)} {
		path := filepath.Join(t.TempDir(), name, SocketName)
		leave := run(t, &Server{Source: source(healthy()), Socket: path})
		leave.listening(t)
		if _, err := Ask(t.Context(), path); err != nil {
			t.Error(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("the socket is %v: %v", info, err)
		}
		leave.stop()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	}
	// The longest path that the kernel takes, and the first that it does not.
	dir := t.TempDir()
	for _, length := range []int{maxPath, maxPath + 1} {
		path := filepath.Join(dir, strings.Repeat("s", length-len(dir)-1))
		r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
		r.listening(t)
		r.stop()
	}
}

func TestRotate(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer error
		class  fault.Class
		remedy string
	}{
		{"done", nil, 0, ""},
		{"passing", errors.New("not now"), 1, ""},
		{"final", fault.New(fault.Denied, "ask the approver", "denied: %s", "no"), fault.Denied, "ask the approver"},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls := 0
			r := run(t, &Server{
				Source: Source{Snapshot: healthy, Rotate: func(context.Context) error { calls++; return test.answer }},
				Socket: filepath.Join(t.TempDir(), SocketName),
			})
			r.listening(t)
			err := Rotate(t.Context(), r.Socket)
			if (err == nil) != (test.answer == nil) || err != nil && err.Error() != test.answer.Error() {
				t.Errorf("the error is %v instead of %v", err, test.answer)
			}
			if fault.ClassOf(err) != test.class || fault.Remedy(err) != test.remedy || fault.IsFinal(err) != fault.IsFinal(test.answer) {
				t.Errorf("class %d, remedy %q", fault.ClassOf(err), fault.Remedy(err))
			}
			if calls != 1 {
				t.Errorf("it was asked for %d times", calls)
			}
		})
	}
}

// Only what says in full what it wants is taken for a wish.
func TestRotateBody(t *testing.T) {
	for _, body := range []string{"", "{}", `{"force":false}`, `{"force":1}`, `{"force":true,"certificate":"kubelet-serving"}`, "true", "force", strings.Repeat(" ", maxBody) + `{"force":true}`} {
		r := run(t, &Server{
			Source: Source{Snapshot: healthy, Rotate: func(context.Context) error { t.Error("it is asked for"); return nil }},
			Socket: filepath.Join(t.TempDir(), SocketName),
		})
		if code, answer := get(t, r.listening(t), http.MethodPost, "/rotate", body); code != http.StatusBadRequest || !strings.Contains(answer, `"class":2`) {
			t.Errorf("%.40q: %d %s", body, code, answer)
		}
		r.stop()
	}
}

// A rotation may take longer than a request, and ends when whoever asked for it goes away, or when the server ends.
func TestRotateTakesItsTime(t *testing.T) {
	ends := map[string]func(cancel, stop func()){
		"it is done":          nil,
		"who asked goes away": func(cancel, _ func()) { cancel() },
		"the server ends":     func(_, stop func()) { stop() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			started, ended := make(chan bool), make(chan error, 1)
			r := run(t, &Server{
				Source: Source{Snapshot: healthy, Rotate: func(ctx context.Context) error {
					close(started)
					var long <-chan time.Time
					if end == nil {
						long = time.After(10 * quick)
					}
					select {
					case <-ctx.Done():
					case <-long:
					}
					ended <- ctx.Err()
					return ctx.Err()
				}},
				Socket: filepath.Join(t.TempDir(), SocketName), timeout: quick, every: time.Hour,
			})
			r.listening(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			answer := make(chan error, 1)
			go func() { answer <- Rotate(ctx, r.Socket) }()
			<-started
			time.Sleep(3 * quick)
			select {
			case err := <-ended:
				t.Fatalf("it ended: %v", err)
			default:
			}
			if end != nil {
				end(cancel, r.stop)
			}
			if err := <-ended; (err == nil) != (end == nil) {
				t.Errorf("its context: %v", err)
			}
			if err := <-answer; (err == nil) != (end == nil) {
				t.Errorf("the answer: %v", err)
			}
		})
	}
}

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
	eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "address already in use") })
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

// scrape returns the metrics of a status.
func scrape(t *testing.T, s status.Status) string {
	t.Helper()
	r := run(t, &Server{Source: source(s), Listen: "127.0.0.1:0"})
	defer r.stop()
	code, answer := get(t, r.listening(t), http.MethodGet, "/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, answer)
	}
	return answer
}

func TestMetrics(t *testing.T) {
	s := healthy()
	text := scrape(t, s)
	c := s.Certificates[0]
	number := func(t time.Time) string { return fmt.Sprint(float64(t.Unix())) }
	for _, want := range []string{
		`nodejoin_build_info{goversion="go1.`,
		`nodejoin_certificate_expiration_timestamp_seconds{certificate="kubelet-client"} ` + number(c.NotAfter),
		`nodejoin_certificate_not_before_timestamp_seconds{certificate="kubelet-client"} ` + number(c.NotBefore),
		`nodejoin_next_rotation_timestamp_seconds{certificate="kubelet-client"} ` + number(c.RotateAt),
		`nodejoin_rotations_total{certificate="kubelet-client",result="success"} 3`,
		`nodejoin_rotations_total{certificate="kubelet-client",result="failure"} 2`,
		`nodejoin_rotations_total{certificate="kubelet-serving",result="success"} 0`,
		`nodejoin_request_pending{certificate="kubelet-client",waiting_for="approval"} 0`,
		`nodejoin_request_pending{certificate="kubelet-serving",waiting_for="approval"} 1`,
		`nodejoin_request_pending{certificate="kubelet-serving",waiting_for="signature"} 0`,
		`nodejoin_ca_expiration_timestamp_seconds ` + number(slices.MinFunc([]time.Time{s.CA.Certificates[0].NotAfter, s.CA.Certificates[1].NotAfter}, time.Time.Compare)),
		`nodejoin_endpoint_up{endpoint="api1:6443"} 1`,
		`nodejoin_endpoint_up{endpoint="api2:6443"} 0`,
		`nodejoin_clock_skew_seconds 1.5`,
		`nodejoin_last_progress_timestamp_seconds ` + number(s.Beat),
		`nodejoin_problem{certificate="kubelet-serving",class="5"} 1`,
		`nodejoin_ready 1`,
		`nodejoin_watching_files 1`,
		`process_resident_memory_bytes `, `process_open_fds `, `go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	for _, unwanted := range []string{`timestamp_seconds{certificate="kubelet-serving"`, `endpoint="api3`, "go_memstats_heap", `waiting_for="approval"} 2`} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%s is in\n%s", unwanted, text)
		}
	}
	s.Certificates[1].Request.Approved = true
	if text := scrape(t, s); !strings.Contains(text, `pending{certificate="kubelet-serving",waiting_for="approval"} 0`) || !strings.Contains(text, `pending{certificate="kubelet-serving",waiting_for="signature"} 1`) {
		t.Errorf("the approved request is not told of in\n%s", text)
	}
	if lines := strings.Count(text, "\n"); lines > 120 {
		t.Errorf("%d lines", lines)
	}
}

func TestMetricsLint(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, healthy()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Two of a kind, text that is no UTF-8 and an empty status do not spoil the scrape.
func TestMetricsOfOddStatus(t *testing.T) {
	s := healthy()
	s.Certificates = append(s.Certificates, s.Certificates...)
	s.Endpoints = append(s.Endpoints, s.Endpoints...)
	s.Certificates[1].Name, s.Endpoints[0].Address = "\xff\n\"", "a\x00\xfe"
	s.CA.Problem = s.Problem
	if text := scrape(t, s); strings.Count(text, "nodejoin_endpoint_up{") != 3 || strings.Count(text, `nodejoin_certificate_expiration_timestamp_seconds{certificate="kubelet-client"}`) != 1 {
		t.Errorf("it is\n%s", text)
	}
	text := scrape(t, status.Status{})
	if strings.Contains(text, "timestamp_seconds ") && strings.Contains(text, "nodejoin_last_progress") || !strings.Contains(text, "\nnodejoin_ready 0\n") || !strings.Contains(text, "\nnodejoin_watching_files 0\n") {
		t.Errorf("it is\n%s", text)
	}
}

// Metrics are open to every user of the machine: nothing that is free text gets into them, and no part of a status has
// a place for a secret.
func TestMetricsTellNoText(t *testing.T) {
	var s status.Status
	fill(reflect.ValueOf(&s).Elem(), "CANARY")
	s.Version, s.Endpoints[0].Address = "v1", "api:6443"
	s.Certificates[0].Name, s.Problem.Certificate, s.CA.Problem.Certificate = "kubelet-client", "kubelet-client", "kubelet-client"
	s.Certificates[0].Problem.Certificate = "kubelet-client"
	if text := scrape(t, s); strings.Contains(text, "CANARY") {
		t.Errorf("free text is in\n%s", text)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"token", "secret", "password", "privatekey", "bearer"} {
		if strings.Contains(strings.ToLower(string(data)), word) {
			t.Errorf("the status has a place for a %s: %s", word, data)
		}
	}
}

// fill sets every text below v, and makes what is a pointer or a list.
func fill(v reflect.Value, text string) {
	switch v.Kind() { //nolint:exhaustive // the rest holds no text
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Now()))
			return
		}
		for _, field := range v.Fields() {
			fill(field, text)
		}
	}
}
