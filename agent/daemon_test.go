package agent

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// configPath is the configuration file of a daemon under test: the test decides what it says.
const configPath = "/etc/nodejoin/config.yaml"

// socket returns the path of the daemon's socket.
func (h *host) socket() string { return h.path(DefaultRuntimeDir + "/" + monitor.SocketName) }

// daemon is a daemon that runs on a machine.
type daemon struct {
	h      *host
	reload chan struct{}
	ended  chan error
	stop   context.CancelFunc
}

// daemon starts a daemon whose configuration is the machine's at the time of each load, or what load returns.
func (h *host) daemon(load func() (*Config, error)) *daemon {
	h.t.Helper()
	if load == nil {
		load = func() (*Config, error) { return h.options().Config() }
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{h: h, reload: make(chan struct{}), ended: make(chan error, 1), stop: cancel}
	run := Daemon{Load: load, ConfigFile: h.path(configPath), Reload: d.reload, Log: slog.New(h.log.handler())}
	go func() { d.ended <- run.Run(ctx) }()
	h.t.Cleanup(cancel)
	return d
}

// ask asks the daemon for its status; nil where it does not answer.
func (d *daemon) ask() *status.Status {
	s, err := monitor.Ask(context.Background(), d.h.socket())
	if err != nil {
		return nil
	}
	return s
}

// until waits for a status.
func (d *daemon) until(what string, condition func(s *status.Status) bool) *status.Status {
	d.h.t.Helper()
	var last *status.Status
	defer func() {
		if d.h.t.Failed() && last != nil {
			d.h.t.Logf("the last status: %+v, with the problem %+v", last, last.Problem)
		}
	}()
	eventually(d.h.t, what, func() bool {
		last = d.ask()
		return last != nil && condition(last)
	})
	return last
}

// end ends the daemon, which must not take long.
func (d *daemon) end() {
	d.h.t.Helper()
	d.stop()
	select {
	case err := <-d.ended:
		if err != nil {
			d.h.t.Errorf("it ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		d.h.t.Fatal("it does not end")
	}
}

// settled says that a certificate is in order and was seen to work.
func settled(s *status.Status) bool {
	c := s.Certificates[0]
	return c.State == status.Valid && c.Problem == nil && !c.RotateAt.IsZero()
}

// over returns a host that is reached over TLS, and checks in the end that nothing of what a test started is left.
func overTLS(t *testing.T) (*host, *server) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(before); err != nil {
			t.Errorf("something is left: %v", err)
		}
	})
	cluster := newCluster(t)
	return newHost(t, cluster), cluster.serve(cluster.signer)
}

// TestDaemon starts on a machine that has joined, tells its status, repairs what is deleted, gets a new certificate when it is
// told to, and ends when it is to. Nothing is left.
func TestDaemon(t *testing.T) {
	h, server := overTLS(t)
	pair := h.fresh()
	h.joinAt(pair, server)
	d := h.daemon(nil)
	s := d.until("it is in order", settled)
	if !s.Running || s.PID != os.Getpid() || s.Node != testNode || !s.Watching || s.Rotation != string(RotationAgent) || s.Problem != nil || s.Since.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	d.until("the CA is known", func(s *status.Status) bool { return len(s.CA.Certificates) == 1 && !s.CA.CheckedAt.IsZero() })

	h.remove(linkPath)
	eventually(t, "the link is put back", func() bool { leaf, err := h.current(); return err == nil && leaf.Equal(pair.Leaf) })

	if err := monitor.Rotate(t.Context(), h.socket()); err != nil {
		t.Fatal(err)
	}
	was := s.Certificates[0].Serial
	s = d.until("there is a new certificate", func(s *status.Status) bool { return s.Certificates[0].Serial != was && settled(s) })
	if leaf, err := h.current(); err != nil || leaf.SerialNumber.Text(16) != s.Certificates[0].Serial || leaf.Equal(pair.Leaf) {
		t.Errorf("the status says %s: %v", s.Certificates[0].Serial, err)
	}
	if s.Credential != ownName || len(s.Endpoints) != 1 || !s.Endpoints[0].Alive || !s.Endpoints[0].InUse {
		t.Errorf("the status says %q, and %+v", s.Credential, s.Endpoints)
	}
	d.end()
	if d.ask() != nil {
		t.Error("it still answers")
	}
	h.cluster.wantOneAtATime()
}

// TestDaemonJoins starts on a machine that has nothing: it says what is missing, and joins with what is dropped in.
func TestDaemonJoins(t *testing.T) {
	h, server := overTLS(t)
	h.change = func(o *Options) { o.Servers = []string{server.Endpoint.String()} }
	h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
	d := h.daemon(nil)
	s := d.until("it says what is missing", func(s *status.Status) bool { return s.Problem != nil })
	if s.Certificates[0].State != status.Missing || s.Problem.Class != fault.Usage || !strings.Contains(s.Problem.Remedy, "kubeadm token create") {
		t.Errorf("it is %s, with the problem %+v", s.Certificates[0].State, s.Problem)
	}
	h.token("abcdef")
	dropped := time.Now()
	s = d.until("it has joined", settled)
	if passed := time.Since(dropped); passed > 10*time.Second {
		t.Errorf("that took %s", passed)
	}
	if s.Problem != nil || s.Credential != "the bootstrap token abcdef" || s.Certificates[0].Rotations != 1 {
		t.Errorf("the status is %+v with the problem %+v", s, s.Problem)
	}
	d.end()
}

// TestReload changes the configuration of a daemon that runs: the state is kept, and a configuration that is wrong is refused and
// said, with the one before kept.
func TestReload(t *testing.T) {
	h, server := overTLS(t)
	h.joinAt(h.fresh(), server)
	h.write(configPath, "1", 0o644)
	var loads atomic.Int64
	d := h.daemon(func() (*Config, error) {
		loads.Add(1)
		data, err := os.ReadFile(h.path(configPath))
		if err != nil {
			return nil, err
		}
		o := h.options()
		switch text := string(data); text {
		case "1":
		case "2":
			o.Window = rotate.Window{Min: 0.5, Max: 0.5}
		default:
			return nil, fault.New(fault.Usage, "mend it", "the configuration says %q", text)
		}
		return o.Config()
	})
	was := d.until("it is in order", settled).Certificates[0].Serial
	if err := monitor.Rotate(t.Context(), h.socket()); err != nil {
		t.Fatal(err)
	}
	first := d.until("it has rotated", func(s *status.Status) bool { return s.Certificates[0].Serial != was && settled(s) })
	rotateAt := first.Certificates[0].RotateAt

	h.write(configPath, "nonsense", 0o644)
	s := d.until("the mistake is told", func(s *status.Status) bool {
		return s.Problem != nil && s.Problem.Text == `the configuration says "nonsense"`
	})
	if s.Problem.Class != fault.Usage || s.Problem.Remedy != "mend it" || !s.Certificates[0].RotateAt.Equal(rotateAt) || !settled(s) {
		t.Errorf("the problem is %+v, and the certificate %+v", s.Problem, s.Certificates[0])
	}
	h.write(configPath, "2", 0o644)
	leaf, err := h.current()
	if err != nil {
		t.Fatal(err)
	}
	half := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	s = d.until("the change is in use", func(s *status.Status) bool { return s.Certificates[0].RotateAt.Equal(half) && s.Problem == nil })
	if !s.Since.Equal(first.Since) || s.Certificates[0].Rotations != 1 || s.Credential != ownName || len(s.Endpoints) != len(first.Endpoints) {
		t.Errorf("the status is %+v after %+v", s, first)
	}

	before := loads.Load()
	d.reload <- struct{}{} // SIGHUP
	eventually(t, "the configuration is read again", func() bool { return loads.Load() > before })
	d.until("it is in order still", settled)
	d.end()
	if n := loads.Load() - before; n != 1 {
		t.Errorf("it was loaded %d times at a reload", n)
	}
	if made := h.cluster.creations(); len(made) != 1 {
		t.Errorf("requests: %v", made)
	}
}

// TestHangup asks again for what was denied when the operator says so.
func TestHangup(t *testing.T) {
	h, server := overTLS(t)
	h.change = func(o *Options) { o.Servers = []string{server.Endpoint.String()} }
	h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
	h.token("abcdef")
	h.cluster.decide = h.cluster.deny
	d := h.daemon(nil)
	d.until("it is denied", func(s *status.Status) bool { return s.Certificates[0].State == status.Denied && s.Problem != nil })
	h.cluster.with(func() { h.cluster.decide = h.cluster.sign })
	d.reload <- struct{}{}
	d.until("it has joined", settled)
	d.end()
	wantNewEach(t, h.cluster.creations(), 2)
}

// TestSecondDaemon does not start where one runs, and leaves that one alone.
func TestSecondDaemon(t *testing.T) {
	h, server := overTLS(t)
	h.joinAt(h.fresh(), server)
	first := h.daemon(nil)
	first.until("it is in order", settled)
	second := h.daemon(nil)
	select {
	case err := <-second.ended:
		wantFault(t, err, fault.Held, "")
	case <-time.After(time.Second):
		t.Error("the second one runs as well")
	}
	if first.ask() == nil {
		t.Error("the first one does not answer any more")
	}
	first.end()
	third := h.daemon(nil) // the lock has gone with it
	third.until("it is in order", settled)
	third.end()
}

// TestDaemonDoesNotStart says at the start what a person must mend first.
func TestDaemonDoesNotStart(t *testing.T) {
	wrong := fault.New(fault.Usage, "mend it", "the configuration is wrong")
	for _, test := range []struct {
		name   string
		change func(h *host)
		load   func() (*Config, error)
		class  fault.Class
		says   string
	}{
		{"the configuration is wrong", func(*host) {}, func() (*Config, error) { return nil, wrong }, fault.Usage, "the configuration is wrong"},
		{"it is another node", func(h *host) { h.change = func(o *Options) { o.NodeName = "node-2" } }, nil, fault.Files, "already"},
		{"the directory is writable by others", func(h *host) {
			if err := os.Chmod(h.path(DefaultCertDir), 0o777); err != nil {
				h.t.Fatal(err)
			}
		}, nil, fault.Files, "writable by others"},
		{"the link leads outside", func(h *host) {
			h.remove(linkPath)
			if err := os.Symlink("/etc/passwd", h.path(linkPath)); err != nil {
				h.t.Fatal(err)
			}
		}, nil, fault.Files, "points outside"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, server := overTLS(t)
			h.joinAt(h.fresh(), server)
			test.change(h)
			d := h.daemon(test.load)
			select {
			case err := <-d.ended:
				wantFault(t, err, test.class, test.says)
			case <-time.After(5 * time.Second):
				t.Error("it runs")
				d.end()
			}
		})
	}
}
