package agent

import (
	"math"
	"testing"
	"time"
)

// TestYear keeps a node for a year, with certificates of a day. In a bubble the year takes seconds: the loop, the files and
// the client of the API are real, the cluster is a function call away.
func TestYear(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.join(h.pair(-5*time.Minute, 24*time.Hour))
		began := time.Now()
		agent := h.start()
		issued := h.load().Pair.Leaf
		drawn := map[float64]int{}
		days := 365 / slow
		for day := range days {
			if day%10 == 9 { // a restart does not draw again
				before := agent.view().RotateAt
				agent.stop()
				agent = h.start()
				time.Sleep(time.Second)
				if now := agent.view().RotateAt; !now.Equal(before) {
					t.Fatalf("day %d: the deadline moved from %s to %s", day, before, now)
				}
			}
			for range 24 {
				time.Sleep(time.Hour)
				leaf, err := h.current()
				if err != nil {
					t.Fatalf("I1: %v", err)
				}
				if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
					t.Fatalf("the certificate in use is valid from %s to %s, and it is %s", leaf.NotBefore, leaf.NotAfter, now)
				}
				if leaf.Equal(issued) {
					continue
				}
				rotated := leaf.NotBefore.Add(5 * time.Minute) // as the signer has it
				lifetime := issued.NotAfter.Sub(issued.NotBefore)
				share := float64(rotated.Sub(issued.NotBefore)) / float64(lifetime)
				if late := time.Minute.Seconds() / lifetime.Seconds(); share < 0.7 || share > 0.9+late {
					t.Errorf("rotated at %.1f %% of the lifetime", 100*share)
				}
				drawn[math.Round(share*100)]++
				issued = leaf
			}
		}
		agent.stop()
		if n := len(h.cluster.creations()); n < days*400/365 || n > days*530/365 {
			t.Errorf("%d requests in %s", n, time.Since(began))
		}
		if slow == 1 && (drawn[71] == 0 || drawn[80] == 0 || drawn[89] == 0) {
			t.Errorf("the deadlines are not spread over the window: %v", drawn)
		}
		if longest := time.Duration(h.longest.Load()); longest > time.Minute {
			t.Errorf("the clock was not looked at for %s", longest)
		}
		h.cluster.wantOneAtATime()
	})
}
