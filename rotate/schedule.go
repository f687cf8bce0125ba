package rotate

import (
	"crypto/x509"
	"math"
	"time"
)

// CheckEvery is the longest that a wait for a deadline lasts before the clock is looked at again: timers stand still
// while a machine is suspended, and know nothing of a clock that was set.
const CheckEvery = time.Minute

// Window is the part of a certificate's lifetime in which it is rotated, as fractions of it, 0 < Min <= Max < 1. The
// zero value is 0.7 to 0.9, which is also client-go's (util/certificate, nextRotationDeadline).
type Window struct{ Min, Max float64 }

// Draw returns when a certificate is to be rotated: a whole second, in UTC, within the window of its lifetime. r is a
// random number in [0,1), so that machines that joined together do not rotate together. What is drawn must be kept, or
// each restart would move it.
func (w Window) Draw(leaf *x509.Certificate, r float64) time.Time {
	if w == (Window{}) {
		w = Window{Min: 0.7, Max: 0.9}
	}
	// In integers from here on: 70 % of a day is 60,480 s and not a second less, and a lifetime may be centuries, which
	// a time.Duration is too small for.
	const billion = 1_000_000_000
	fraction := min(max(w.Min+(w.Max-w.Min)*r, w.Min), w.Max)
	billionths := int64(math.Round(min(max(fraction, 0), 1) * billion))
	lifetime := max(leaf.NotAfter.Unix()-leaf.NotBefore.Unix(), 0)
	after := lifetime/billion*billionths + lifetime%billion*billionths/billion
	return time.Unix(leaf.NotBefore.Unix()+after, 0).UTC()
}

// Wake returns how long to wait for a deadline before looking at the clock again: exactly until it where it is near,
// else for [CheckEvery], and not at all where it has passed. The wall clock alone counts. No deadline (the zero time) is
// one that is far away.
func Wake(now, deadline time.Time) time.Duration {
	if deadline.IsZero() {
		return CheckEvery
	}
	// Round(0) takes the monotonic readings away: they stand still in suspend, and do not follow a clock that is set.
	return min(max(deadline.Round(0).Sub(now.Round(0)), 0), CheckEvery)
}
