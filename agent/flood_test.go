package agent

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodejoin/nodejoin/agent/status"
)

// TestNoFlood counts what an API server is asked while nothing works.
func TestNoFlood(t *testing.T) {
	const perHour = 360 // attempts, ten seconds apart, each at two places: the cluster as it was joined, and as it is discovered
	for _, test := range []struct {
		name   string
		hours  int
		token  bool
		answer error // to each POST
		most   int   // POSTs in an hour
	}{
		{"no credential", 24 / slow, false, nil, 0},
		{"the token is refused", 2, true, errUnauthorized, 2 * 60 * refusalLimit * 11 / 10}, // a minute apart
		{"the API server is broken", 1, true, apierrors.NewInternalError(errDown), 2 * perHour * 11 / 10},
		{"it is busy", 1, true, apierrors.NewTooManyRequests("busy", 20), 2 * perHour / 2},
		{"it is busy for hours", 1, true, apierrors.NewTooManyRequests("busy", 3600), 2 * perHour / 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				if test.token {
					h.token("abcdef")
				}
				pair := h.pair(-48*time.Hour, -time.Hour)
				h.join(pair)
				book := h.cluster.note(func(int, posted) error { return test.answer })
				agent := h.start()
				defer agent.stop()
				time.Sleep(time.Duration(test.hours) * time.Hour)
				n := len(book.all())
				if most := test.hours*test.most + 20; n > most || test.token && n < most/3 {
					t.Errorf("asked %d times in %d hours, want at most %d", n, test.hours, most)
				}
				if made := h.cluster.creations(); len(made) != 0 {
					t.Errorf("%d requests", len(made))
				}
				h.wantCurrent(pair)
			})
		})
	}
}

// TestRetryAfter has an API server say when to come back: that is when the agent comes, within limits, whether or not there is
// another credential, too.
func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		name        string
		token       bool
		seconds     int
		least, most time.Duration // between two attempts
	}{
		{"a token beside", true, 25, 25 * time.Second, 26 * time.Second},
		{"nothing beside", false, 25, 25 * time.Second, 26 * time.Second},
		{"for an hour", false, 3600, mostAsked, mostAsked + time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				if test.token {
					h.token("abcdef")
				}
				h.join(h.overdue())
				book := h.cluster.note(func(int, posted) error { return apierrors.NewTooManyRequests("busy", test.seconds) })
				agent := h.start()
				defer agent.stop()
				time.Sleep(10 * time.Minute)
				tried := book.all()
				if len(tried) < 5 || len(book.order()) != 1 {
					t.Fatalf("tried %d times with %q", len(tried), book.order())
				}
				for i := range tried[1:] {
					if pause := tried[i+1].at.Sub(tried[i].at); pause < test.least || pause > test.most {
						t.Errorf("came back after %s", pause)
					}
				}
			})
		})
	}
}

// TestPartition cuts the machine off across its deadline: it goes on with what it has, spends no credential, and rotates
// within a minute of being back.
func TestPartition(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.token("abcdef")
		pair := h.pair(0, 24*time.Hour)
		h.join(pair)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Hour)
		h.cut(errDown)
		time.Sleep(22 * time.Hour)
		h.wantCurrent(pair)
		if view := agent.view(); view.State != status.Due || view.Problem == nil || view.Problem.Text != errDown.Error() || time.Since(view.Problem.Since) < time.Hour {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
		h.cut(nil)
		time.Sleep(time.Minute)
		if made := h.cluster.creations(); len(made) != 1 || made[0].by != testUser {
			t.Errorf("requests: %v", made)
		}
		if view := agent.view(); view.State != status.Valid || view.Problem != nil {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}
