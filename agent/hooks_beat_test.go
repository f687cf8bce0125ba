package agent

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// keepsHooks runs the loop of the hooks of an agent with one hook, which does what run does.
func (h *host) keepsHooks(timeout time.Duration, run func(ctx context.Context)) *running {
	h.t.Helper()
	h.join(h.fresh())
	h.change = func(o *Options) {
		o.Hooks = []rotate.Hook{{Name: "long", Command: []string{"true"}, Timeout: timeout}}
	}
	a := h.agent()
	a.board.since = time.Now()
	a.hooks.run = func(ctx context.Context, _ rotate.Hook, _ rotate.Change, _ *slog.Logger) error {
		run(ctx)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { a.keepHooks(ctx) })
	return &running{a, func() {
		cancel()
		loop.Wait()
	}}
}

func (r *running) hookBeat() time.Time {
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	return r.board.beats[hooksPart]
}

// beatsFor checks that the loop of the hooks beats for as long.
func (r *running) beatsFor(t *testing.T, d time.Duration) {
	t.Helper()
	const look = 10 * time.Second
	for range d / look {
		time.Sleep(look)
		if silent := time.Since(r.hookBeat()); silent > rotate.CheckEvery+time.Second {
			t.Fatalf("it has been silent for %s", silent)
		}
	}
}

// The loop of the hooks beats while there is nothing to run, and for a hook that takes its time: as long as it may.
func TestBeatsForHooks(t *testing.T) {
	const limit = 20 * time.Minute
	bubble(t, func(t *testing.T, h *host) {
		runs := 0
		a := h.keepsHooks(limit, func(ctx context.Context) {
			runs++
			select {
			case <-time.After(limit - time.Second):
			case <-ctx.Done():
			}
		})
		defer a.stop()
		a.beatsFor(t, 30*time.Minute)
		a.occurs(occasion{what: config.OnCA, digest: "1"})
		a.beatsFor(t, 40*time.Minute)
		if runs != 1 {
			t.Errorf("the hook was run %d times", runs)
		}
	})
}

// A hook that is not back when it has long been over is a loop that hangs, which the status tells; when it is back, the
// loop goes on. The end of the agent is not waited for by the beats.
func TestBeatOfAStuckHook(t *testing.T) {
	const limit = 20 * time.Minute
	bubble(t, func(t *testing.T, h *host) {
		stuck := make(chan struct{})
		a := h.keepsHooks(limit, func(context.Context) { <-stuck })
		defer a.stop()
		a.beatsFor(t, time.Minute)
		a.occurs(occasion{what: config.OnCA, digest: "1"})
		a.beatsFor(t, limit)
		time.Sleep(10 * time.Second) // in which it ends, or is ended
		last := a.hookBeat()
		time.Sleep(status.StaleAfter)
		if beat := a.hookBeat(); !beat.Equal(last) {
			t.Errorf("it beats at %s, although the hook should have been ended before %s", beat, last)
		}
		if onBoard := a.onBoard(); onBoard.Alive(time.Now()) {
			t.Error("the agent passes for alive")
		}
		close(stuck)
		a.beatsFor(t, 5*time.Minute)
	})
}

// A hook that lasts says nothing of the end of an agent.
func TestHookEndsWithTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		a := h.keepsHooks(time.Hour, func(ctx context.Context) { <-ctx.Done() })
		a.occurs(occasion{what: config.OnCA, digest: "1"})
		time.Sleep(time.Minute)
		begun := time.Now()
		a.stop()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it ends after %s", took)
		}
	})
}
