package systemd

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/kardianos/service"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

var wantClass = expect.Fault

// How the service is, as Windows' service control manager says it.
func TestSCMStatus(t *testing.T) {
	const running, paused = 4, 7
	for _, test := range []struct {
		name   string
		status scmStatus
		want   Report
	}{
		{"never started", scmStatus{state: scmStopped, exit: errorNeverStarted}, Report{State: Stopped}},
		{"stopped", scmStatus{state: scmStopped}, Report{State: Stopped}},
		{"a wrong configuration", scmStatus{state: scmStopped, exit: errorServiceSpecific, specific: 2}, Report{State: Failed, Detail: "it ended with exit status 2", exit: 2}},
		{"the process is gone", scmStatus{state: scmStopped, exit: errorProcessAborted}, Report{State: Failed, Detail: "it ended unexpectedly, and is started again", exit: 1, again: true}},
		{"the process is gone, and nobody can start it", scmStatus{state: scmStopped, exit: errorProcessAborted, disabled: true}, Report{State: Failed, Detail: "it ended unexpectedly", exit: 1}},
		{"it failed while it was stopped", scmStatus{state: scmStopped, exit: errorServiceSpecific, specific: 1}, Report{State: Failed, Detail: "it ended with exit status 1", exit: 1}},
		{"access denied", scmStatus{state: scmStopped, exit: 5}, Report{State: Failed, Detail: "it ended with Windows' error 5"}},
		{"starting", scmStatus{state: scmStartPending}, Report{State: Starting}},
		{"running", scmStatus{state: running}, Report{State: Running}},
		{"paused", scmStatus{state: paused}, Report{State: Running}},
		{"stopping", scmStatus{state: scmStopPending}, Report{State: Running, Detail: "it is being stopped", stopping: true}},
	} {
		var got Report
		if test.status.tell(&got); got != test.want {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

// control is Windows' service control manager: what it says, one after the other, and what it was asked to do.
type control struct {
	service.Service
	says    []scmStatus
	said    scmStatus
	did     []string
	settles error
}

func (c *control) Status() (*Report, error) {
	report := &Report{State: NotInstalled}
	if len(c.says) != 0 {
		c.said = c.says[0]
		c.said.tell(report)
		c.says = c.says[min(1, len(c.says)-1):] // the last goes on
	}
	return report, nil
}
func (c *control) Settle() (string, error) { return "", c.settles }
func (c *control) Stop() error             { c.did = append(c.did, "stop"); return nil }

// verbs are kardianos/service's. Its Stop and Restart wait without end, and are not here.
type verbs struct {
	service.Service
	c *control
}

func (v verbs) do(verb string) error { v.c.did = append(v.c.did, verb); return nil }
func (v verbs) Install() error       { return v.do("install") }
func (v verbs) Uninstall() error     { return v.do("uninstall") }
func (v verbs) Start() error {
	if v.c.said.state > scmStopped {
		return errors.New("an instance of the service is already running")
	}
	return v.do("start")
}

func newControl(says ...scmStatus) (*control, *Service) {
	c := &control{says: says}
	return c, &Service{Manager: "windows", native: c, inner: func(string) (service.Service, error) { return verbs{c: c}, nil }}
}

func TestSCMVerbs(t *testing.T) {
	stopped, starting, running := scmStatus{state: scmStopped}, scmStatus{state: scmStartPending}, scmStatus{state: 4}
	wrong, gone := scmStatus{state: scmStopped, exit: errorServiceSpecific, specific: 2}, scmStatus{state: scmStopped, exit: errorProcessAborted}
	stopping, broken := scmStatus{state: scmStopPending}, scmStatus{state: scmStopped, exit: errorServiceSpecific, specific: 1}
	disabled := scmStatus{state: scmStopped, exit: errorProcessAborted, disabled: true}
	uninstall := func(s *Service) error { _, err := s.Uninstall(); return err }
	start, stop, restart := (*Service).Start, (*Service).Stop, (*Service).Restart
	for _, test := range []struct {
		name  string
		verb  func(*Service) error
		says  []scmStatus
		did   []string
		class fault.Class
		want  string
	}{
		{"start", start, []scmStatus{stopped, starting, starting, running}, []string{"start"}, 0, ""},
		{"start of one that runs", start, []scmStatus{running}, nil, 0, ""},
		{"start of one that is starting", start, []scmStatus{starting, starting, running}, nil, 0, ""},
		{"start after a failure", start, []scmStatus{wrong, running}, []string{"start"}, 0, ""},
		{"start with a wrong configuration", start, []scmStatus{stopped, starting, wrong}, []string{"start"}, fault.Usage, "does not run: it ended with exit status 2"},
		{"start of one that dies", start, []scmStatus{stopped, starting, gone}, []string{"start"}, fault.Unexpected, "is started again"},
		{"start of nothing", start, nil, nil, fault.Files, "it is not installed"},
		{"stop", stop, []scmStatus{running, stopped}, []string{"stop"}, 0, ""},
		{"stop of one that is stopped", stop, []scmStatus{stopped}, nil, 0, ""},
		{"stop of one that has failed for good", stop, []scmStatus{wrong}, nil, 0, ""},
		{"stop between two tries", stop, []scmStatus{gone}, nil, fault.Unexpected, "about to be started again"},
		{"start of one that never gets ready", start, []scmStatus{stopped, starting}, []string{"start"}, fault.Unexpected, "is not ready within"},
		{"start of one that is being stopped", start, []scmStatus{stopping, stopping, stopped, starting, running}, []string{"start"}, 0, ""},
		{"stop of one that failed at its end", stop, []scmStatus{broken}, nil, 0, ""},
		{"stop between two tries of one that is disabled", stop, []scmStatus{disabled}, nil, 0, ""},
		{"stop of one that is starting", stop, []scmStatus{starting, starting, running, stopping, stopped}, []string{"stop"}, 0, ""},
		{"stop of one that never gets ready", stop, []scmStatus{starting}, nil, fault.Unexpected, "cannot stop the service: it is starting"},
		{"stop of one that ends as it starts", stop, []scmStatus{starting, wrong}, nil, 0, ""},
		{"stop of one that is being stopped", stop, []scmStatus{stopping, stopping, stopped}, nil, 0, ""},
		{"stop of one that does not stop", stop, []scmStatus{running, stopping}, []string{"stop"}, fault.Unexpected, "does not stop within"},
		{"stop of one that dies meanwhile", stop, []scmStatus{running, stopping, gone}, []string{"stop"}, fault.Unexpected, "about to be started again"},
		{"restart", restart, []scmStatus{running, stopping, stopped, starting, running}, []string{"stop", "start"}, 0, ""},
		{"restart of one that is starting", restart, []scmStatus{starting, running, stopped, running}, []string{"stop", "start"}, 0, ""},
		{"restart of one that does not stop", restart, []scmStatus{running, stopping}, []string{"stop"}, fault.Unexpected, "does not stop within"},
		{"restart between two tries", restart, []scmStatus{gone, running}, []string{"start"}, 0, ""},
		{"uninstall", uninstall, []scmStatus{running, stopping, stopped}, []string{"stop", "uninstall"}, 0, ""},
		{"uninstall of one that is starting", uninstall, []scmStatus{starting, running, stopped}, []string{"stop", "uninstall"}, 0, ""},
		{"uninstall of one that does not stop", uninstall, []scmStatus{running}, []string{"stop"}, fault.Unexpected, "cannot uninstall the service: it does not stop within"},
		{"uninstall between two tries", uninstall, []scmStatus{gone}, []string{"uninstall"}, 0, ""},
		{"restart of one that is stopped", restart, []scmStatus{stopped, running}, []string{"start"}, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := newControl(test.says...)
				err := test.verb(s)
				if !slices.Equal(c.did, test.did) {
					t.Errorf("it did %q", c.did)
				}
				if test.class != 0 {
					wantClass(t, err, test.class, test.want)
				} else if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestSCMInstall(t *testing.T) {
	c, s := newControl()
	if r, err := s.Install(`C:\nodejoin.exe`); err != nil || !r.AtBoot || !slices.Equal(c.did, []string{"install"}) {
		t.Errorf("%+v, %v, it did %q", r, err, c.did)
	}
	c, s = newControl()
	c.settles = errors.New("refused")
	if _, err := s.Install(`C:\nodejoin.exe`); !errors.Is(err, c.settles) || !slices.Equal(c.did, []string{"install", "uninstall"}) {
		t.Errorf("a half of it is left: %v, it did %q", err, c.did)
	}
	c, s = newControl(scmStatus{state: scmStopped})
	_, err := s.Install(`C:\nodejoin.exe`)
	wantClass(t, err, fault.Files, "installed already")
	if len(c.did) != 0 {
		t.Errorf("it did %q", c.did)
	}
}

// What the event log is told is what the journal would make of the line.
func TestSeverity(t *testing.T) {
	for line, want := range map[string]slog.Level{"<3>broken": slog.LevelError, "<4>late": slog.LevelWarn, "<6>runs": slog.LevelInfo, "<7>looks": slog.LevelDebug, "plain": slog.LevelInfo, "": slog.LevelInfo} {
		level, text := severity(line)
		if level != want || len(text) > 0 && text[0] == '<' {
			t.Errorf("%q: %v, %q", line, level, text)
		}
	}
}

// Nothing that is written is too much for an event, and nothing is lost.
func TestEvents(t *testing.T) {
	type event struct {
		level slog.Level
		text  string
	}
	long := strings.Repeat("x", eventRoom)
	wide := strings.Repeat("x", eventRoom-1) + "é"
	for _, test := range []struct {
		name, text string
		want       []event
	}{
		{"a line", "<6>runs\n", []event{{slog.LevelInfo, "runs"}}},
		{"an error and its remedy", "<3>nodejoin: denied\r\n<3>  remedy: ask again\n", []event{{slog.LevelError, "nodejoin: denied"}, {slog.LevelError, "  remedy: ask again"}}},
		{"lines of their own severity", "<4>late\n\nplain", []event{{slog.LevelWarn, "late"}, {slog.LevelInfo, "plain"}}},
		{"what would end it", "<6>a\x00b", []event{{slog.LevelInfo, "a b"}}},
		{"as long as it may be", "<4>" + long, []event{{slog.LevelWarn, long}}},
		{"longer", "<4>" + long + "rest", []event{{slog.LevelWarn, long}, {slog.LevelWarn, "rest"}}},
		{"no half of a character", wide, []event{{slog.LevelInfo, wide[:eventRoom-1]}, {slog.LevelInfo, "é"}}},
		{"no text", strings.Repeat("\x80", eventRoom+1), []event{{slog.LevelInfo, strings.Repeat("\x80", eventRoom-4)}, {slog.LevelInfo, strings.Repeat("\x80", 5)}}},
		{"nothing", "\n", nil},
	} {
		var got []event
		for level, text := range events(test.text) {
			got = append(got, event{level, text})
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %.200v", test.name, got)
		}
	}
}
