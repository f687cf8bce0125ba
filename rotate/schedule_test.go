package rotate

import (
	"crypto/x509"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

// almostOne is the greatest random number that can be drawn.
var almostOne = math.Nextafter(1, 0)

const (
	minutes = 60
	day     = 24 * 60 * minutes
	year    = 365 * day
)

// lasting returns a certificate of a lifetime, in seconds.
func lasting(seconds int64) *x509.Certificate {
	return &x509.Certificate{NotBefore: testTime, NotAfter: time.Unix(testTime.Unix()+seconds, 0)}
}

// TestDraw: the bounds are drawn to the second, for every length of life.
func TestDraw(t *testing.T) {
	for _, test := range []struct {
		name     string
		window   Window
		lifetime int64 // seconds
		r        float64
		want     int64 // seconds after NotBefore
	}{
		{"zero window, ten minutes, at the least", Window{}, 10 * minutes, 0, 7 * minutes},
		{"zero window, ten minutes, at the most", Window{}, 10 * minutes, almostOne, 9 * minutes},
		{"zero window, ten minutes, in the middle", Window{}, 10 * minutes, 0.5, 8 * minutes},
		{"zero window, a day, at the least", Window{}, day, 0, 60_480},
		{"zero window, a day, at the most", Window{}, day, almostOne, 77_760},
		{"zero window, a year, at the least", Window{}, year, 0, 22_075_200},
		{"zero window, a year, at the most", Window{}, year, almostOne, 28_382_400},
		{"zero window, eight centuries, at the least", Window{}, 800 * year, 0, 560 * year},
		{"zero window, eight centuries, at the most", Window{}, 800 * year, almostOne, 720 * year},
		{"zero window, a second", Window{}, 1, almostOne, 0},
		{"zero window, ten seconds", Window{}, 10, 0, 7},
		{"no lifetime", Window{}, 0, 0.5, 0},
		{"a negative lifetime", Window{}, -day, 0.5, 0},
		{"a negative lifetime of centuries", Window{}, -800 * year, 0.5, 0},
		{"a window of its own, at the least", Window{0.25, 0.75}, day, 0, day / 4},
		{"a window of its own, in the middle", Window{0.25, 0.75}, day, 0.5, day / 2},
		{"a window of its own, at the most", Window{0.25, 0.75}, day, almostOne, day / 4 * 3},
		{"a window that is not exact in binary, at the most", Window{0.6, 0.9}, day, almostOne, 77_760},
		{"a window of one point, at the least", Window{0.8, 0.8}, day, 0, 69_120},
		{"a window of one point, at the most", Window{0.8, 0.8}, day, almostOne, 69_120},
		{"a third, rounded down", Window{1. / 3, 1. / 3}, 10, 0, 3},
		{"a random number that is none, below", Window{}, day, -5, 60_480},
		{"a random number that is none, above", Window{}, day, 5, 77_760},
		{"a window that is none", Window{-1, 2}, day, almostOne, day},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.window.Draw(lasting(test.lifetime), test.r)
			if after := got.Unix() - testTime.Unix(); after != test.want {
				t.Errorf("%d s after the beginning, want %d s", after, test.want)
			}
			if got.Location() != time.UTC || got.Nanosecond() != 0 {
				t.Errorf("got %s, want a whole second in UTC", got)
			}
		})
	}
}

// TestDrawAnywhere: whatever the certificate and the window, the draw is a whole second within the window, and a greater
// random number is never an earlier time.
func TestDrawAnywhere(t *testing.T) {
	// X.509 knows the years 1 to 9999 (RFC 5280, 4.1.2.5).
	first, last := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
	east := time.FixedZone("east", 5*60*minutes)
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Int64Range(first, last).Draw(t, "from")
		leaf := &x509.Certificate{NotBefore: time.Unix(from, 0).In(east), NotAfter: time.Unix(rapid.Int64Range(from, last).Draw(t, "to"), 0)}
		lifetime := leaf.NotAfter.Unix() - from
		window, low, high := Window{}, 0.7, 0.9
		if rapid.Bool().Draw(t, "a window of its own") {
			window.Min = rapid.Float64Range(1e-6, 0.999).Draw(t, "min")
			window.Max = rapid.Float64Range(window.Min, 0.999).Draw(t, "max")
			low, high = window.Min, window.Max
		}
		r := rapid.Float64Range(0, almostOne).Draw(t, "r")
		got := window.Draw(leaf, r)
		if got.Location() != time.UTC || got.Nanosecond() != 0 {
			t.Fatalf("got %s, want a whole second in UTC", got)
		}
		// The fraction is rounded to a billionth, and the time to the second.
		inexact := lifetime/1_000_000_000 + 1
		after := got.Unix() - from
		if after < part(lifetime, low)-inexact || after > part(lifetime, high)+inexact {
			t.Fatalf("%d s of %d s are not within %g and %g", after, lifetime, low, high)
		}
		if after < 0 || after > 0 && after >= lifetime {
			t.Fatalf("%d s after the beginning of %d s", after, lifetime)
		}
		if later := window.Draw(leaf, rapid.Float64Range(r, almostOne).Draw(t, "a greater r")); later.Before(got) {
			t.Fatalf("%s is before %s", later, got)
		}
	})
}

// part returns a fraction of a number of seconds, rounded down.
func part(seconds int64, fraction float64) int64 {
	exact := new(big.Rat).SetFloat64(fraction)
	exact.Mul(exact, new(big.Rat).SetInt64(seconds))
	return new(big.Int).Quo(exact.Num(), exact.Denom()).Int64()
}

// TestDrawSpreads: machines that joined together are spread evenly over the window.
func TestDrawSpreads(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) // the same at every run
	const draws, tenths = 10_000, 10
	var counts [tenths]int
	for range draws {
		after := Window{}.Draw(lasting(day), random.Float64()).Unix() - testTime.Unix()
		tenth := (after - 60_480) * tenths / (77_760 - 60_480 + 1)
		if tenth < 0 || tenth >= tenths {
			t.Fatalf("%d s are outside the window", after)
		}
		counts[tenth]++
	}
	for tenth, count := range counts {
		if count < draws/tenths*85/100 || count > draws/tenths*115/100 {
			t.Errorf("%d of %d draws are in the %d. tenth of the window: %v", count, draws, tenth+1, counts)
		}
	}
}

// TestWake: the wait ends at the deadline where it is near, and after a minute where it is not.
func TestWake(t *testing.T) {
	for _, test := range []struct {
		name     string
		deadline time.Time
		want     time.Duration
	}{
		{"none", time.Time{}, time.Minute},
		{"none, in another zone", time.Time{}.In(time.FixedZone("east", 3600)), time.Minute},
		{"now", testTime, 0},
		{"just passed", testTime.Add(-1), 0},
		{"long passed", testTime.AddDate(-100, 0, 0), 0},
		{"passed longer ago than a duration lasts", testTime.AddDate(-1000, 0, 0), 0},
		{"in a nanosecond", testTime.Add(1), 1},
		{"in 59 seconds", testTime.Add(59 * time.Second), 59 * time.Second},
		{"in a minute", testTime.Add(time.Minute), time.Minute},
		{"just after a minute", testTime.Add(time.Minute + 1), time.Minute},
		{"in two years", testTime.AddDate(2, 0, 0), time.Minute},
		{"later than a duration lasts", testTime.AddDate(1000, 0, 0), time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Wake(testTime, test.deadline); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestWakeByTheWall: a clock that was set, and the time in suspend, count, although the monotonic clock knows nothing of
// them.
func TestWakeByTheWall(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name string
		step time.Duration // of the wall clock alone
		want time.Duration
	}{
		{"nothing happened", 0, 40 * time.Second},
		{"half a minute in suspend", 30 * time.Second, 10 * time.Second},
		{"an hour in suspend", time.Hour, 0},
		{"set back by ten seconds", -10 * time.Second, 50 * time.Second},
		{"set back by an hour", -time.Hour, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			later := stepped(t, now, test.step)
			if got := Wake(later, now.Add(40*time.Second)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// stepped returns what time.Now returned, as it would have been with the wall clock set by step.
func stepped(t *testing.T, now time.Time, step time.Duration) time.Time {
	t.Helper()
	later := now.Add(step)
	// There is no other way to get a time of a clock that was set, but to set this machine's.
	monotonic := &(*struct {
		wall      uint64
		monotonic int64
		location  *time.Location
	})(unsafe.Pointer(&later)).monotonic //nolint:gosec // that it is what it is taken for is checked below
	*monotonic -= int64(step)
	if later.Sub(now) != 0 || later.Round(0).Sub(now.Round(0)) != step {
		t.Fatalf("a time.Time is something else by now: %s", fmt.Sprintf("%#v", later))
	}
	return later
}

// TestWakeLoop: whoever waits again and again comes out at the deadline exactly, and looks at the clock each minute.
func TestWakeLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		deadline := begin.Add(90*time.Minute + 17*time.Second + 5)
		waits := 0
		for now := begin; now.Before(deadline); now = time.Now() {
			time.Sleep(Wake(now, deadline))
			waits++
		}
		if late := time.Since(deadline); late != 0 || waits != 91 {
			t.Errorf("%d waits, and %s late", waits, late)
		}
	})
}

// TestWakeAnywhere: a wait is never negative, never longer than a minute, and never past the deadline.
func TestWakeAnywhere(t *testing.T) {
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanosecond"))
	})
	rapid.Check(t, func(t *rapid.T) {
		now := moment.Draw(t, "now")
		deadline := moment.Draw(t, "deadline")
		if rapid.Bool().Draw(t, "near") {
			deadline = now.Add(time.Duration(rapid.Int64Range(int64(-3*time.Minute), int64(3*time.Minute)).Draw(t, "in")))
		}
		wait := Wake(now, deadline)
		switch {
		case wait < 0 || wait > time.Minute:
			t.Fatalf("a wait of %s", wait)
		case !deadline.After(now) && wait != 0:
			t.Fatalf("a wait of %s for what has passed", wait)
		case deadline.After(now) && now.Add(wait).After(deadline):
			t.Fatalf("a wait of %s past the deadline", wait)
		case deadline.After(now) && wait < time.Minute && !now.Add(wait).Equal(deadline):
			t.Fatalf("a wait of %s ends before the deadline", wait)
		}
	})
}
