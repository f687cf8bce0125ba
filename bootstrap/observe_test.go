package bootstrap

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// observer keeps what a Connection tells.
type observer struct {
	mu   sync.Mutex
	told []Reached
}

func (o *observer) observe(endpoint Endpoint, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, Reached{endpoint, err})
}

// take returns what was told since the last time.
func (o *observer) take() []Reached {
	o.mu.Lock()
	defer o.mu.Unlock()
	told := o.told
	o.told = nil
	return told
}

func TestConnectionIsObserved(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	good := serve(t, serverOptions{certificate: ca.issue(t)}, named("good"))
	wrong := serve(t, serverOptions{certificate: rogue.issue(t)}, named("wrong"))
	dead := deadEndpoint(t)
	var seen observer
	conn := connect(t, ca, dead, wrong.Endpoint, good.Endpoint)
	conn.Observe = func(endpoint Endpoint, err error) {
		if got := conn.Endpoint(); got != endpoint { // it may ask
			t.Errorf("told of %s while it is %s's turn", endpoint, got)
		}
		seen.observe(endpoint, err)
	}

	mustGet(t, conn, "/")
	told := seen.take()
	if len(told) != 3 || told[0].Endpoint != dead || told[1].Endpoint != wrong.Endpoint || told[2].Endpoint != good.Endpoint {
		t.Fatalf("told %+v", told)
	}
	wantFault(t, told[0].Err, 0, "connection refused")
	wantFault(t, told[1].Err, fault.Untrusted, "unknown authority")
	if told[2].Err != nil {
		t.Errorf("the one that is alive: %v", told[2].Err)
	}

	mustGet(t, conn, "/")
	if err := conn.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if told := seen.take(); len(told) != 0 {
		t.Errorf("no connection was opened, and it told %+v", told)
	}
	conn.Close()
	mustGet(t, conn, "/")
	if told := seen.take(); len(told) != 1 || told[0] != (Reached{good.Endpoint, nil}) {
		t.Errorf("of the second connection it told %+v", told)
	}
}

// An attempt that the caller gave up says nothing of the endpoint.
func TestConnectionIsNotObservedWhenGivenUp(t *testing.T) {
	enough := errors.New("the operator had enough")
	var seen observer
	conn := connect(t, machineCA, silentEndpoint(t))
	conn.Observe = seen.observe
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	if err := conn.Open(ctx); !errors.Is(err, enough) {
		t.Errorf("the error is %v", err)
	}
	if told := seen.take(); len(told) != 0 {
		t.Errorf("told %+v", told)
	}
}

// One function for many Connections, each used by many goroutines: for the race detector.
func TestConnectionsShareAnObserver(t *testing.T) {
	ca := newAuthority(t, "ca")
	var seen observer
	var users sync.WaitGroup
	for range 2 {
		s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{"http/1.1"}}, named("s"))
		conn := connect(t, ca, deadEndpoint(t), s.Endpoint)
		conn.Observe = seen.observe
		for range 4 {
			users.Go(func() {
				resp, err := roundTrip(t, conn, "/")
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if skew, known := conn.Skew(); skew != 0 || !known {
					t.Errorf("the clocks differ by %s (known: %t)", skew, known)
				}
			})
		}
	}
	users.Wait()
	alive := 0
	for _, reached := range seen.take() {
		if reached.Err == nil {
			alive++
		}
	}
	if alive < 2 {
		t.Errorf("%d connections were told of, want one for each server at least", alive)
	}
}

func TestSkewOf(t *testing.T) {
	server := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	const ms = time.Millisecond
	for _, test := range []struct {
		name     string
		received time.Duration // by this machine's clock, from the Date on
		trip     time.Duration
		want     time.Duration
	}{
		{"at once", 0, 0, 0},
		{"in the last instant of the second", 999 * ms, 0, 0},
		{"a slow answer, begun before", 3 * time.Second, 4 * time.Second, 0},
		{"as far ahead as the second allows", time.Second, 0, 0},
		{"as far ahead as the second and the trip allow", 1200 * ms, 200 * ms, 0},
		{"a little further ahead", 1300 * ms, 200 * ms, time.Second}, // between 0.1 and 1.3 s
		{"as far behind as can be", 0, 200 * ms, 0},
		{"a little further behind", -100 * ms, 200 * ms, -time.Second}, // between 0.1 and 1.3 s
		{"a minute ahead", time.Minute + 500*ms, 0, time.Minute},
		{"a minute ahead, to the nearest second", time.Minute + 1100*ms, 0, 61 * time.Second},
		{"a minute ahead, with half of the trip", time.Minute + 2500*ms, 4 * time.Second, time.Minute},
		{"an hour behind", -time.Hour + 600*ms, 200 * ms, -time.Hour},
		{"at 1970", -56 * 365 * 24 * time.Hour, 0, -56*365*24*time.Hour - time.Second},
	} {
		received := server.Add(test.received)
		if got := skewOf(received.Add(-test.trip), received, server); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestConnectionSkew(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, test := range []struct {
			name   string
			offset time.Duration // of the server's clock
			want   time.Duration // of ours, to a second
		}{
			{"in step", 0, 0},
			{"we are behind", time.Hour, -time.Hour},
			{"we are ahead", -2 * time.Hour, 2 * time.Hour},
			{"we are at 1970", 56 * 365 * 24 * time.Hour, -56 * 365 * 24 * time.Hour},
		} {
			t.Run(protocol+"/"+test.name, func(t *testing.T) {
				s := serve(t, serverOptions{certificate: ca.issue(t), protocols: []string{protocol}}, dated(test.offset, respond(http.StatusForbidden, nil)))
				conn := connect(t, ca, s.Endpoint)
				if err := conn.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				if skew, known := conn.Skew(); known || skew != 0 {
					t.Errorf("before any answer the clocks differ by %s (known: %t)", skew, known)
				}
				mustGet(t, conn, "/")
				skew, known := conn.Skew()
				if !known || (skew-test.want).Abs() > time.Second || test.want == 0 && skew != 0 {
					t.Errorf("the clocks differ by %s (known: %t), want %s", skew, known, test.want)
				}
			})
		}
	}
}

func TestConnectionSkewIsOfTheLastAnswerThatTells(t *testing.T) {
	conn := &Connection{}
	begin := time.Now()
	answer := func(offset, trip time.Duration) {
		conn.clock(begin, begin.Add(trip), http.Header{"Date": {begin.Add(trip / 2).Add(offset).UTC().Format(http.TimeFormat)}})
	}
	want := func(step string, want time.Duration) {
		t.Helper()
		if got, known := conn.Skew(); !known || (got-want).Abs() > time.Second {
			t.Errorf("%s: %s (known: %t), want %s", step, got, known, want)
		}
	}
	answer(-time.Hour, 5*time.Second)
	want("the first", time.Hour)
	answer(time.Hour, 5*time.Second+1)
	want("one that took long", time.Hour)
	answer(200*365*24*time.Hour, 0)
	want("one of another century", time.Hour)
	for _, header := range []http.Header{{}, {"Date": {""}}, {"Date": {"yesterday"}}, {"Date": {strings.Repeat("1", 1000)}}} {
		conn.clock(begin, begin, header)
		want("no date", time.Hour)
	}
	answer(30*time.Minute, 0)
	want("the next", -30*time.Minute)
}

func TestConnectionSkewIsNotOfAServerThatIsNotTrusted(t *testing.T) {
	s := serve(t, serverOptions{certificate: newAuthority(t, "rogue").issue(t)}, dated(time.Hour, named("s")))
	conn := connect(t, machineCA, s.Endpoint)
	if resp, err := roundTrip(t, conn, "/"); err == nil {
		resp.Body.Close()
		t.Fatal("it answered")
	}
	if skew, known := conn.Skew(); known {
		t.Errorf("the clocks differ by %s", skew)
	}
}
