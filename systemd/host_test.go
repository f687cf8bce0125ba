package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// manager stands in for Windows' service control manager and what answers to it: it says that the loop shall stop, is told how the
// loop has ended, and hears that the service has stopped. Where nobody reports that it waits for ever, as on Windows.
type manager struct {
	stop     bool
	reported chan uint32 // the exit status with which it hears that the service has stopped
}

// reportTime is what such a report takes.
const reportTime = 50 * time.Millisecond

func (m *manager) serve(h *hosted) error {
	if m.stop {
		h.cancel()
	}
	<-h.ended
	status := h.leave(m.stop)
	time.Sleep(reportTime)
	m.reported <- status
	return nil
}

// A service dies when its loop dies, with the loop's error and exit status, and is started again where the unit would be.
func TestHost(t *testing.T) {
	broken, wrong := errors.New("broken"), fault.New(fault.Usage, "mend it", "wrong")
	for _, test := range []struct {
		name   string
		end    error // of the loop
		stop   bool
		silent bool // the process ends without a report, and is started again
		status uint32
	}{
		{"the loop dies", broken, false, true, 0},
		{"another holds the machine, and will end", fault.New(fault.Held, "wait", "held"), false, true, 0},
		{"the loop ends with what needs a person", wrong, false, false, 2},
		{"the files need a person", fmt.Errorf("at the start: %w", fault.New(fault.Files, "look", "damaged")), false, false, 8},
		{"the loop ends", nil, false, false, 0},
		{"stopped", nil, true, false, 0},
		{"stopped, and the loop fails at its end", broken, true, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHosted(t.Context(), func(ctx context.Context) error {
				if test.stop {
					<-ctx.Done()
				}
				return test.end
			})
			m := &manager{stop: test.stop, reported: make(chan uint32, 1)}
			ended := make(chan error, 1)
			go func() { ended <- h.host(func() error { return m.serve(h) }) }()
			select {
			case err := <-ended:
				if !errors.Is(err, test.end) || (err == nil) != (test.end == nil) {
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it does not end")
			}
			if test.silent { // the manager's own goroutine waits in leave for the end of the process, which has no time to report
				time.Sleep(4 * reportTime)
			}
			select {
			case status := <-m.reported:
				if test.silent || status != test.status {
					t.Errorf("it reported the status %d", status)
				}
			default:
				if !test.silent {
					t.Error("it ended before the manager knew")
				}
			}
		})
	}
}

// Where the manager cannot be answered to, nothing runs on without it.
func TestHostWithoutManager(t *testing.T) {
	h := newHosted(t.Context(), func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond) // it puts away what it was at
		return nil
	})
	if err := h.host(func() error { return errors.New("no manager") }); err == nil || !strings.HasSuffix(err.Error(), "manager: no manager") {
		t.Errorf("it ended with %v", err)
	}
	select {
	case <-h.ended:
	default:
		t.Error("the loop runs on")
	}
}

func TestReadyBegins(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	for range 2 {
		if _, err := Ready("waits"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-begun:
	default:
		t.Error("the service control manager is not told")
	}
}

// The exit statuses after which nobody starts the service again are the unit's.
func TestAgain(t *testing.T) {
	for class, want := range map[fault.Class]bool{
		fault.Unexpected: true, fault.Usage: false, fault.Untrusted: false, fault.Refused: false, fault.Denied: false, fault.Unapproved: true, fault.Held: true, fault.Files: false,
	} {
		if got := again(fault.New(class, "", "ended")); got != want {
			t.Errorf("class %d: %t", class, got)
		}
	}
	if again(nil) || !again(errors.New("ended")) {
		t.Error("an end that was meant, or one without a class")
	}
	if got := unitSetting("Nothing"); got != "" {
		t.Errorf("what the unit does not set is %q", got)
	}
}
