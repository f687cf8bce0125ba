package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

// TestSuspend puts the machine to sleep across the deadline: the clock goes on while timers stand still.
func TestSuspend(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.cluster.clock = func() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }
		pair := h.pair(-5*time.Minute, 24*time.Hour)
		h.join(pair)
		agent := h.start()
		defer agent.stop()
		time.Sleep(10*time.Hour + 17*time.Second)
		h.wantCurrent(pair)
		h.ahead.Store(int64(12 * time.Hour)) // of the 24
		woke := time.Now()
		time.Sleep(time.Minute)
		made := h.cluster.creations()
		if len(made) != 1 {
			t.Fatalf("%d requests within a minute of waking", len(made))
		}
		t.Logf("noticed after %s", made[0].at.Add(-12*time.Hour).Sub(woke))
		if leaf, err := h.current(); err != nil || leaf.Equal(pair.Leaf) {
			t.Errorf("the certificate is not replaced: %v", err)
		}
	})
}

// TestSuspendTillExpiry wakes a machine whose certificate expired meanwhile: it comes back with a credential, and says what
// is missing where there is none.
func TestSuspendTillExpiry(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.cluster.clock = func() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }
		pair := h.pair(-5*time.Minute, 24*time.Hour)
		h.join(pair)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Hour)
		h.ahead.Store(int64(100 * time.Hour))
		time.Sleep(time.Minute + time.Second)
		view := agent.view()
		if view.State != status.Expired || view.Problem == nil || view.Problem.Class != fault.Usage || view.Problem.Remedy == "" {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
		h.wantCurrent(pair)
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("requests: %v", made)
		}
		h.token("abcdef")
		time.Sleep(time.Minute + time.Second) // there are no file events in a bubble
		if view := agent.view(); view.State != status.Valid || view.Problem != nil || view.Rotations != 1 {
			t.Errorf("with a token, the status is %+v with the problem %+v", view, view.Problem)
		}
		if made := h.cluster.creations(); len(made) != 1 || made[0].by != "system:bootstrap:abcdef" {
			t.Errorf("requests: %v", made)
		}
	})
}

// TestClockSteps sets the clock and sets it back: the certificate on disk is never touched, the cluster is not flooded, and
// when the clock is right again the agent goes on as if nothing had been.
func TestClockSteps(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name       string
		ahead      time.Duration
		credential bool
		state      status.State
		class      fault.Class
		most       int // requests
	}{
		{"two years ahead", 2 * year, false, status.Expired, fault.Usage, 0},
		{"two years ahead, with a token", 2 * year, true, status.Expired, fault.Denied, 6},
		{"an hour behind", -time.Hour, false, status.NotYetValid, fault.Usage, 0},
		{"an hour behind, with a token", -time.Hour, true, status.NotYetValid, fault.Denied, 6},
		{"thirty years behind", -30 * year, true, status.NotYetValid, fault.Denied, 6}, // 1970
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				if test.credential {
					h.token("abcdef")
				}
				pair := h.pair(-5*time.Minute, 24*time.Hour)
				h.join(pair)
				agent := h.start()
				defer agent.stop()
				time.Sleep(30 * time.Minute)
				deadline := agent.view().RotateAt
				h.ahead.Store(int64(test.ahead))
				time.Sleep(2 * time.Minute)
				view := agent.view()
				if view.State != test.state || view.Problem == nil || view.Problem.Class != test.class {
					t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
				}
				time.Sleep(4 * time.Hour)
				h.wantCurrent(pair)
				made := h.cluster.creations()
				if len(made) > test.most || test.credential && len(made) == 0 {
					t.Errorf("%d requests: %v", len(made), made)
				}
				h.ahead.Store(0)
				time.Sleep(time.Minute + time.Second)
				view = agent.view()
				if view.State != status.Valid || view.Problem != nil || !view.RotateAt.Equal(deadline) {
					t.Errorf("after the clock was set right, the status is %+v with the problem %+v", view, view.Problem)
				}
				if disk := h.load(); len(disk.PendingKey) != 0 {
					t.Error("the key of a request that is of no use any more is kept")
				}
				h.wantCurrent(pair)
				time.Sleep(time.Until(deadline) + time.Second)
				if leaf, err := h.current(); err != nil || leaf.Equal(pair.Leaf) {
					t.Errorf("the certificate was not rotated at its deadline: %v", err)
				}
				h.cluster.wantOneAtATime()
			})
		})
	}
}

// TestClockAhead has a clock by which everything that the cluster issues is due at once: that is no reason to ask without end.
func TestClockAhead(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.ahead.Store(int64(22 * time.Hour))
		h.join(h.pair(-5*time.Minute, 24*time.Hour))
		agent := h.start()
		defer agent.stop()
		for range 24 * 60 {
			time.Sleep(time.Minute)
			agent.wake() // as the events of its own files do
		}
		if made := len(h.cluster.creations()); made == 0 || made > 40 {
			t.Errorf("%d requests in a day", made)
		}
	})
}

var errDown = errors.New("connection refused")
