package systemd

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// native is what this package does with a service manager by itself, beside what kardianos/service does.
type native interface {
	// Status returns how the service is.
	Status() (*Report, error)
	// Settle finishes an install. The note says what could not be had here.
	Settle() (note string, err error)
	// Stop tells a service that runs to stop, and does not wait for it. One that has stopped is no error.
	Stop() error
}

// States of a service and errors as Windows has them (winsvc.h, winerror.h).
const (
	scmStopped      = 1
	scmStartPending = 2
	scmStopPending  = 3

	errorServiceSpecific = 1066 // the service has an exit status of its own
	errorProcessAborted  = 1067 // the process ended without a word
	errorNeverStarted    = 1077 // since the machine booted
)

// scmStatus is what Windows' service control manager says of a service.
type scmStatus struct {
	state, exit, specific uint32
	disabled              bool // nobody can start it, the manager neither
}

// tell puts into a report how the service is.
func (s scmStatus) tell(report *Report) {
	switch s.state {
	case scmStartPending:
		report.State = Starting
		return
	case scmStopped:
	case scmStopPending:
		report.State, report.Detail, report.stopping = Running, "it is being stopped", true
		return
	default:
		report.State = Running
		return
	}
	report.State = Failed
	switch s.exit {
	case 0, errorNeverStarted:
		report.State = Stopped
	case errorServiceSpecific:
		report.exit = int(s.specific)
		report.Detail = "it ended with exit status " + strconv.Itoa(report.exit)
	case errorProcessAborted:
		report.exit = int(fault.Unexpected)
		report.Detail = "it ended unexpectedly"
		if report.again = !s.disabled; report.again {
			report.Detail += ", and is started again"
		}
	default:
		report.Detail = fmt.Sprintf("it ended with Windows' error %d", s.exit)
	}
}

// lastWords is the remedy where it is the service that knows what is wrong.
func lastWords() string { return "look at its last words: " + fault.Log() }

// actNatively starts, stops or restarts a service that is installed, and waits for what comes of it.
func (s *Service) actNatively(verb string, now *Report, start func() error) error {
	if verb != "start" || now.stopping {
		if err := s.halt(verb, now); err != nil || verb == "stop" {
			return err
		}
	}
	if verb != "start" || now.State != Starting {
		if err := start(); err != nil {
			return s.failed(verb, err)
		}
	}
	state, err := s.until(func(r *Report) bool { return r.State != Starting })
	switch {
	case err != nil:
		return err
	case state.State == Running:
		return nil
	case state.State == Starting:
		return fault.New(fault.Unexpected, lastWords(), "the service was started, and is not ready within %s", commandLimit)
	}
	class := fault.Unexpected
	if state.exit > int(class) && state.exit <= int(fault.Files) {
		class = fault.Class(state.exit)
	}
	return fault.New(class, lastWords(), "the service was started, and does not run: %s", state.Detail)
}

// halt stops a service for a verb and waits until it has stopped. One that is starting is waited for: the manager sends it nothing.
func (s *Service) halt(verb string, now *Report) error {
	var err error
	if now.State == Starting {
		if now, err = s.until(func(r *Report) bool { return r.State != Starting }); err != nil {
			return err
		}
	}
	if now.State == Running {
		if !now.stopping {
			if err := s.native.Stop(); err != nil {
				return s.failed(verb, err)
			}
		}
		if now, err = s.until(func(r *Report) bool { return r.State != Running }); err != nil {
			return err
		}
	}
	switch {
	case now.State == Starting:
		return fault.New(fault.Unexpected, lastWords(), "cannot %s the service: it is starting, and is not ready within %s", verb, commandLimit)
	case now.State == Running:
		return fault.New(fault.Unexpected, lastWords(), "cannot %s the service: it does not stop within %s", verb, commandLimit)
	case now.again && verb == "stop":
		return fault.New(fault.Unexpected, "wait until it is started again, or have it not started: sc.exe config "+Name+" start= disabled", "cannot stop the service: it has failed, and is about to be started again")
	}
	return nil
}

// until waits until the service is as it should be, and returns how it is; after commandLimit as it is then.
func (s *Service) until(is func(*Report) bool) (*Report, error) {
	limit := time.NewTimer(commandLimit)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := s.native.Status()
		if err != nil || is(state) {
			return state, err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return state, nil
		}
	}
}
