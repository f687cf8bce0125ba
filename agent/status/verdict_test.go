package status

import (
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// The problem's class is the exit status wherever the problem is, the node's own certificate's before any other.
func TestExitOfProblems(t *testing.T) {
	problem := func(c fault.Class) *Problem { return &Problem{Text: "problem " + string(rune('a'+c)), Class: c} }
	for _, test := range []struct {
		name string
		how  func(s *Status)
		want fault.Class
	}{
		{"none", func(*Status) {}, 0},
		{"passing", func(s *Status) { s.Problem = problem(0) }, 1},
		{"of the agent", func(s *Status) { s.Problem = problem(fault.Held) }, fault.Held},
		{"of the bundle", func(s *Status) { s.CA.Problem = problem(fault.Untrusted) }, fault.Untrusted},
		{"of the second certificate", func(s *Status) { s.Certificates[1].Problem = problem(fault.Denied) }, fault.Denied},
		{"of both certificates", func(s *Status) {
			s.Certificates[0].Problem, s.Certificates[1].Problem = problem(fault.Refused), problem(fault.Denied)
		}, fault.Refused},
		{"of a certificate and another", func(s *Status) {
			s.Problem, s.Certificates[1].Problem = problem(fault.Usage), problem(fault.Denied)
		}, fault.Denied},
		{"and a request that waits", func(s *Status) {
			s.Certificates[0].State, s.Certificates[0].Request, s.Certificates[0].Problem = Missing, &Request{Approved: true}, problem(fault.Refused)
		}, fault.Refused},
		{"a replacement that waits", func(s *Status) { s.Certificates[1].State, s.Certificates[1].Request = Due, &Request{} }, 0},
		{"a first one that waits", func(s *Status) { s.Certificates[1].State, s.Certificates[1].Request = Missing, &Request{} }, 6},
		{"an unknown state", func(s *Status) { s.Certificates[1].State = "of a newer agent" }, 1},
		{"no certificates", func(s *Status) { s.Certificates = nil }, 1},
		{"not running", func(s *Status) { s.Running, s.Beat = false, time.Time{} }, 0},
	} {
		s := healthy()
		s.Certificates = append(s.Certificates, s.Certificates[0])
		s.Certificates[1].Name = "kubelet-serving"
		test.how(s)
		if got := s.Exit(now); got != test.want {
			t.Errorf("%s: exit status %d instead of %d", test.name, got, test.want)
		}
	}
}

func TestAlive(t *testing.T) {
	for _, test := range []struct {
		name        string
		beat, since time.Time
		want        bool
	}{
		{"a beat just now", now, ago(day), true},
		{"just within", ago(StaleAfter - 1), ago(day), true},
		{"too old", ago(StaleAfter), ago(day), false},
		{"of the future", in(time.Hour), ago(day), true},
		{"just started", time.Time{}, ago(time.Minute), true},
		{"started and never beat", time.Time{}, ago(time.Hour), false},
		{"nothing known", time.Time{}, time.Time{}, false},
		{"just loaded a configuration", time.Time{}, ago(day), true},
		{"just loaded a configuration, after a beat", ago(StaleAfter), ago(day), false},
	} {
		s := Status{Beat: test.beat, Since: test.since}
		if strings.HasPrefix(test.name, "just loaded") {
			s.ConfigLoaded = ago(time.Second)
		}
		if got := s.Alive(now); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

func TestReadyGoesByTheDatesToo(t *testing.T) {
	for _, test := range []struct {
		name string
		now  time.Time
		want bool
	}{
		{"before", ago(163 * day), false},
		{"from the first moment", ago(162 * day), true},
		{"now", now, true},
		{"to the last moment", in(203*day + 5*time.Hour - 1), true},
		{"no longer", in(203*day + 5*time.Hour), false},
	} {
		if got := healthy().Ready(test.now); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
	if (&Status{}).Ready(now) {
		t.Error("ready without a certificate")
	}
}

// What concerns one certificate: what is wrong with the others is left out, but for the node's as long as nothing can be
// requested with it.
func TestAbout(t *testing.T) {
	both := func(how func(s *Status)) *Status {
		s := healthy()
		s.Certificates = append(s.Certificates, serving(nil))
		return change(s, how)
	}
	failing := &Problem{Text: "the disk is full", Remedy: "make room", Class: fault.Files, Certificate: "kubelet-client"}
	for _, test := range []struct {
		name, about string
		s           *Status
		class       fault.Class
		want        string
	}{
		{"all is well", "kubelet-client", both(func(*Status) {}), 0, ""},
		{"the other waits", "kubelet-client", both(func(s *Status) { s.Certificates[1] = serving(waitingFor(false, "system:node:node-7", time.Hour)) }), 0, ""},
		{"it waits", "kubelet-serving", both(func(s *Status) { s.Certificates[1] = serving(waitingFor(false, "system:node:node-7", time.Hour)) }), fault.Unapproved, "nobody has approved"},
		{"the node's fails, and works", "kubelet-serving", both(func(s *Status) { s.Certificates[0].Problem, s.Problem = failing, failing }), fault.Unexpected, "kubelet-serving: there is no certificate"},
		{"the node's fails", "kubelet-client", both(func(s *Status) { s.Certificates[0].Problem, s.Problem = failing, failing }), fault.Files, "the disk is full"},
		{"the node's does not work", "kubelet-serving", both(func(s *Status) { s.Certificates[0].State = Refused }), fault.Refused, "kubelet-client: "},
		{"the bundle is not followed", "kubelet-client", both(func(s *Status) { s.CA.Problem = failing }), 0, ""},
		{"the loop is stuck", "kubelet-client", both(func(s *Status) { s.Beat = ago(time.Hour) }), fault.Unexpected, "no progress"},
		{"the clock is off", "kubelet-client", both(func(s *Status) { s.ClockSkew = time.Hour }), fault.Unexpected, "clock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.s.About(test.about, now).Fault(now)
			if fault.ClassOf(err) != test.class || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, of class %d", err, fault.ClassOf(err))
			}
		})
	}
	if c := healthy().Certificate("kubelet-serving"); c != nil {
		t.Errorf("there is %+v", c)
	}
}
