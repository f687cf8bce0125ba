package agent

import (
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// TestWaitingLooksAround has nobody approve a rotation for a day: what happens on the machine meanwhile is noticed within the
// minute, although there are no file events in a bubble, and the request stays the same.
func TestWaitingLooksAround(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.cluster.clock = func() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }
		pair := h.overdue()
		h.join(pair)
		h.cluster.decide = h.cluster.leave
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Hour)
		if agent.view().Request == nil {
			t.Fatal("it waits for nothing")
		}
		for _, damage := range []struct {
			path string
			mend func() bool
		}{
			{linkPath, func() bool { leaf, err := h.current(); return err == nil && leaf.Equal(pair.Leaf) }},
			{DefaultCertDir, func() bool { leaf, err := h.current(); return err == nil && leaf.Equal(pair.Leaf) }},
		} {
			h.remove(damage.path)
			time.Sleep(2 * time.Minute)
			if !damage.mend() {
				t.Errorf("%s is not put back while a request waits", damage.path)
			}
		}
		h.ahead.Store(int64(48 * time.Hour)) // the machine was suspended, past its certificate's end
		h.token("abcdef")
		time.Sleep(2 * time.Minute)
		h.cluster.act(h.cluster.sign)
		time.Sleep(2 * time.Minute)
		if made := h.cluster.creations(); len(made) != 1 {
			t.Errorf("requests: %v", made)
		}
		h.cluster.wantOneAtATime()
	})
}

// TestWakeIsNotLost wakes a keeper that is between the look at its disk and the wait for its request: it looks again.
func TestWakeIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.token("abcdef")
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		h.cluster.decide = h.cluster.leave
		a := h.offline(h.agent())
		ways, looks := a.identity.role.ways, 0
		a.identity.role.ways = func(s *sight) []way {
			if looks++; looks == 1 {
				a.identity.wake()
			}
			return ways(s)
		}
		agent := h.run(a)
		time.Sleep(10 * time.Second)
		agent.stop()
		if looks < 2 {
			t.Error("it waits for its request, and was not woken")
		}
	})
}

// TestAskedAgainOnce asks once when the pause after a denial is over, whatever wakes the agent, and goes on with that request after a
// restart.
func TestAskedAgainOnce(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.token("abcdef")
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		h.cluster.decide = h.cluster.deny
		agent := h.start()
		time.Sleep(time.Minute)
		h.cluster.with(func() { h.cluster.decide = h.cluster.leave })
		time.Sleep(DefaultDeniedPause + time.Hour)
		for range 10 {
			agent.wake()
			time.Sleep(10 * time.Second)
		}
		agent.stop()
		agent = h.start()
		time.Sleep(time.Minute)
		agent.stop()
		wantNewEach(t, h.cluster.creations(), 2)
		h.cluster.wantOneAtATime()
	})
}

// TestHookHoldsNothingUp has a hook take its time: the certificate is rotated meanwhile, and the loop makes progress.
func TestHookHoldsNothingUp(t *testing.T) {
	cluster := newCluster(t)
	h := newHost(t, cluster)
	h.change = func(o *Options) {
		o.Hooks = []rotate.Hook{{Name: "slow", Command: []string{"sleep", "60"}, Timeout: time.Minute}}
	}
	h.joinAt(h.fresh(), cluster.serve(cluster.signer))
	d := h.daemon(nil)
	was := d.until("it is in order", settled).Certificates[0].Serial
	eventually(t, "the hook runs", func() bool { return h.log.count("running a hook") == 1 })
	begun := time.Now()
	if err := monitor.Rotate(t.Context(), h.socket()); err != nil {
		t.Fatal(err)
	}
	d.until("there is a new certificate", func(s *status.Status) bool { return s.Certificates[0].Serial != was && settled(s) })
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("a rotation took %s while a hook ran", took)
	}
	d.end()
}
