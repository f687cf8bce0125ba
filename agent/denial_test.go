package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/csr"
)

// wantNewEach checks that of a number of requests each has a name, and so a key, of its own.
func wantNewEach(t *testing.T, made []creation, n int) {
	t.Helper()
	if len(made) != n {
		t.Fatalf("%d requests instead of %d: %v", len(made), n, made)
	}
	var names []string
	for _, c := range made {
		names = append(names, c.name)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != n {
		t.Errorf("a key was used twice: %v", made)
	}
}

// TestDenied has an approver deny: the same is not asked for again, whatever happens on the machine, before the pause is over or
// an operator says so, and then with a new key.
func TestDenied(t *testing.T) {
	for _, test := range []struct {
		name  string
		pause time.Duration // 0 is for ever
		again func(a *Agent)
		after time.Duration // the denial
	}{
		{"the pause", 6 * time.Hour, nil, 6 * time.Hour},
		{"a reload", 6 * time.Hour, func(a *Agent) { a.askAgain(); a.wake() }, 3 * time.Hour},
		{"a reload, where it is for ever", 0, func(a *Agent) { a.askAgain(); a.wake() }, 50 * time.Hour},
		{"a wish for a new one", 6 * time.Hour, func(a *Agent) { _ = a.rotateNow(t.Context()) }, 3 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.change = func(o *Options) { o.DeniedPause = &test.pause }
				h.token("abcdef")
				h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
				h.cluster.decide = h.cluster.deny
				agent := h.start()
				time.Sleep(time.Second)
				for passed := time.Duration(0); passed < test.after-12*time.Minute; passed += 10 * time.Minute {
					agent.wake()
					time.Sleep(10 * time.Minute)
					if passed == time.Hour { // it is remembered
						agent.stop()
						agent = h.start()
						time.Sleep(time.Second)
					}
					wantNewEach(t, h.cluster.creations(), 1)
				}
				view := agent.view()
				if p := view.Problem; view.State != status.Denied || p == nil || p.Class != fault.Denied || !strings.Contains(p.Text, "NotOurs: this machine is not in the inventory") ||
					!strings.Contains(p.Remedy, "nodejoin join --force") || strings.Contains(p.Text, "asked for again at") != (test.pause != 0) {
					t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
				}
				if test.again != nil {
					test.again(agent.Agent)
				}
				time.Sleep(12 * time.Minute)
				wantNewEach(t, h.cluster.creations(), 2) // and denied once more
				time.Sleep(time.Hour)
				wantNewEach(t, h.cluster.creations(), 2)
				h.cluster.with(func() { h.cluster.decide = h.cluster.sign })
				agent.askAgain()
				agent.wake()
				time.Sleep(time.Second)
				agent.stop()
				wantNewEach(t, h.cluster.creations(), 3)
				if disk := h.load(); disk.Pair == nil || disk.Record.Denied != nil || len(disk.PendingKey) != 0 {
					t.Errorf("in the end the disk has %+v", disk.Found)
				}
				h.cluster.wantOneAtATime()
			})
		})
	}
}

// TestDeniedRotation denies the rotation of a certificate that works: it goes on being used, and the denial ends with the operator's
// wish even where what came of that was a denial again.
func TestDeniedRotation(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		pair := h.pair(-time.Hour, 23*time.Hour)
		h.join(pair)
		h.cluster.decide = h.cluster.deny
		agent := h.start()
		defer func() { agent.stop() }()
		time.Sleep(time.Second)
		if err := agent.rotateNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if view := agent.view(); view.State != status.Valid || view.Failures != 1 {
			t.Errorf("the status is %+v", view)
		}
		h.wantCurrent(pair)
		wantNewEach(t, h.cluster.creations(), 1)
		h.cluster.with(func() { h.cluster.decide = h.cluster.sign })
		time.Sleep(22 * time.Hour) // until it is due, which is another matter
		agent.stop()
		agent = h.start()
		time.Sleep(time.Minute)
		if view := agent.view(); view.Problem != nil || view.State != status.Valid {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
		wantNewEach(t, h.cluster.creations(), 2)
	})
}

// TestEndedRequests has every request end without a certificate: each time there is a new one with a new key, and the
// pauses grow to an hour, whatever wakes the agent.
func TestEndedRequests(t *testing.T) {
	for _, test := range []struct {
		name string
		says string
		end  func(h *host)
	}{
		{"failed", csr.ErrFailed.Error(), func(h *host) { h.cluster.decide = h.cluster.fail }},
		{"deleted", csr.ErrGone.Error(), func(h *host) {
			h.cluster.decide = h.cluster.leave
			go func() {
				for range 24 * 60 * 60 {
					time.Sleep(time.Second)
					h.cluster.remove()
				}
			}()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.join(h.pair(-22*time.Hour, 26*time.Hour))
				h.change = func(o *Options) { o.Window.Min, o.Window.Max = 0.01, 0.02 }
				test.end(h)
				agent := h.start()
				defer agent.stop()
				time.Sleep(time.Hour)
				first := len(h.cluster.creations())
				if view := agent.view(); first < 5 || view.State != status.Due || view.Problem == nil || !strings.Contains(view.Problem.Text, test.says) {
					t.Errorf("%d requests in an hour, and the status is %+v with the problem %+v", first, view, view.Problem)
				}
				for range 23 {
					time.Sleep(time.Hour)
				}
				made := h.cluster.creations()
				if later := len(made) - first; later < 15 || later > 30 {
					t.Errorf("%d requests in the 23 hours after the first", later)
				}
				wantNewEach(t, made, len(made))
				h.cluster.wantOneAtATime()
			})
		})
	}
}
