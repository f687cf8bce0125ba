package agent

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// What is waited for may take days: each loop says meanwhile that it is alive, or the watchdog would end a program that is
// healthy.
func TestBeatsWhileItWaits(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(h *host)
	}{
		{"nothing to do", func(h *host) { h.join(h.fresh()) }},
		{"no API server", func(h *host) { h.token("abcdef"); h.cut(errors.New("connection refused")) }},
		{"no API server to rotate with", func(h *host) {
			h.join(h.pair(-9*time.Hour, time.Hour))
			h.cut(errors.New("connection refused"))
		}},
		{"nobody approves", func(h *host) { h.token("abcdef"); h.cluster.act(h.cluster.leave) }},
		{"denied", func(h *host) { h.token("abcdef"); h.cluster.act(h.cluster.deny) }},
		{"no credential", func(*host) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				test.prepare(h)
				a := h.start()
				defer a.stop()
				for range 2 * 60 * 4 / slow { // four hours
					time.Sleep(30 * time.Second)
					if age := time.Since(a.Snapshot().Beat); age > 90*time.Second {
						t.Fatalf("the slowest loop has been silent for %s", age)
					}
				}
			})
		})
	}
}

// One loop that is stuck is not hidden by the others.
func TestBeatOfAStuckLoop(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.join(h.fresh())
		h.change = func(o *Options) {
			o.Certificates = []Certificate{{Name: "web", Template: csr.Template{SignerName: "example.com/web", DNSNames: []string{"web"}}, Place: rotate.Place{Name: "web", Dir: "/var/lib/web"}}}
		}
		a := h.offline(h.agent())
		stuck, load := make(chan struct{}), a.keepers[1].role.load
		var freeze atomic.Bool
		a.keepers[1].role.load = func() (*sight, error) {
			if freeze.Load() {
				<-stuck
			}
			return load()
		}
		running := h.run(a)
		defer running.stop()
		time.Sleep(2 * time.Minute)
		freeze.Store(true)
		a.keepers[1].wake()
		time.Sleep(time.Second)
		before := a.Snapshot().Beat
		time.Sleep(time.Hour)
		if beat := a.Snapshot().Beat; !beat.Equal(before) {
			t.Errorf("the agent has made progress at %s, although one of its loops is stuck since %s", beat, before)
		}
		close(stuck)
		time.Sleep(2 * time.Minute)
		if beat := a.Snapshot().Beat; !beat.After(before) {
			t.Error("it has made no progress since")
		}
	})
}

// notified is what systemd hears.
type notified struct{ *net.UnixConn }

func watchedBySystemd(t *testing.T, h *host, limit time.Duration) notified {
	t.Helper()
	name := h.path("notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(limit.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return notified{conn}
}

// hears reports whether the watchdog is fed within a time.
func (n notified) hears(t *testing.T, within time.Duration) bool {
	t.Helper()
	if err := n.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		count, err := n.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(buffer[:count]), "WATCHDOG=1") {
			return true
		}
	}
}

// The daemon feeds systemd's watchdog with the progress of all its loops, also from one configuration to the next; a
// loop that is stuck ends that, whatever the others do.
func TestDaemonFeedsTheWatchdog(t *testing.T) {
	h, server := overTLS(t)
	h.joinAt(h.fresh(), server)
	systemd := watchedBySystemd(t, h, 400*time.Millisecond)
	stuck := make(chan struct{})
	var freeze atomic.Bool
	d := h.daemon(func() (*Config, error) {
		if freeze.Load() {
			<-stuck
		}
		return h.options().Config()
	})
	d.until("it is in order", settled)
	if !systemd.hears(t, 5*time.Second) {
		t.Fatal("the watchdog is not fed")
	}
	for range 2 {
		d.reload <- struct{}{}
		if !systemd.hears(t, 5*time.Second) {
			t.Fatal("the watchdog is not fed after a reload")
		}
	}
	d.until("it is in order", settled)
	for n := 0; systemd.hears(t, time.Second); n++ { // until everything waits for its minute
		if n == 20 {
			t.Fatal("the watchdog is fed although nothing gets on")
		}
	}

	freeze.Store(true)
	d.reload <- struct{}{} // the loop that reads the configuration hangs
	was := d.ask().Certificates[0].Serial
	if err := monitor.Rotate(t.Context(), h.socket()); err != nil {
		t.Fatal(err)
	}
	d.until("another loop gets on", func(s *status.Status) bool { return s.Certificates[0].Serial != was })
	if systemd.hears(t, 2*time.Second) {
		t.Error("the watchdog is fed although a loop is stuck")
	}
	freeze.Store(false)
	close(stuck)
	if !systemd.hears(t, 5*time.Second) {
		t.Error("the watchdog is not fed any more")
	}
	d.end()
}
