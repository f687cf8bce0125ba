package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

// What may pass by itself, and what a person can end, is waited for; meanwhile, and when the time is over, it is told what
// to do, with the class of it.
func TestWaitsForWhatMayPass(t *testing.T) {
	const remedy = "make a token"
	unsigned := fmt.Errorf("asking: %w", fault.Passing(fault.Untrusted, remedy, "cluster-info is not signed"))
	t.Run("join", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *host) {
			h.token("abcdef")
			h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
			h.cut(unsigned)
			h.change = func(o *Options) { o.Timeout = 5 * time.Minute }
			a := h.offline(h.agent())
			a.daemon = false
			var told []Notice
			a.Report = func(n Notice) { told = append(told, n) }
			begun := time.Now()
			_, err := a.Join(t.Context())
			if passed := time.Since(begun); passed != 5*time.Minute {
				t.Errorf("it gives up after %s", passed)
			}
			wantFault(t, err, fault.Untrusted, "not joined after 5m0s: asking: cluster-info is not signed")
			if got := fault.Remedy(err); got != remedy {
				t.Errorf("the remedy is %q", got)
			}
			if want := (Notice{Text: unsigned.Error(), Remedy: remedy, Waiting: true}); !slices.Contains(told, want) {
				t.Errorf("told was %+v", told)
			}
		})
	})
	t.Run("run", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *host) {
			h.token("abcdef")
			h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
			h.cut(unsigned)
			a := h.start()
			defer a.stop()
			time.Sleep(2 * time.Minute)
			s := a.Snapshot()
			if p := s.Problem; p == nil || p.Class != fault.Untrusted || p.Remedy != remedy || s.Exit(time.Now()) != fault.Untrusted {
				t.Errorf("the problem is %+v, and the exit status %d", p, s.Exit(time.Now()))
			}
			if h.log.count(`remedy="`+remedy+`"`) == 0 {
				t.Error("the log does not say what to do")
			}
			h.cut(nil)
			time.Sleep(20 * time.Second) // it has gone on trying
			if state := a.view().State; state != status.Valid {
				t.Errorf("the certificate is %s", state)
			}
		})
	})
}
