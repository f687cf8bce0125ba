//go:build unix

package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

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
