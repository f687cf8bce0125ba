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
type scmStatus struct{ state, exit, specific uint32 }

// tell puts into a report how the service is.
func (s scmStatus) tell(report *Report) {
	switch s.state {
	case scmStartPending:
		report.State = Starting
		return
	case scmStopped:
	case scmStopPending:
		report.State, report.Detail = Running, "it is being stopped"
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
		report.Detail = "it ended unexpectedly, and is started again"
	default:
		report.Detail = fmt.Sprintf("it ended with Windows' error %d", s.exit)
	}
}

// eventLook is how the last words of the service are read on Windows.
const eventLook = "look at its last words: powershell Get-EventLog Application -Source " + Name + " -Newest 20"

// actNatively starts, stops or restarts a service that is installed, by kardianos/service's verbs, and waits for what comes of it.
func (s *Service) actNatively(verb string, now *Report, by func() error) error {
	switch {
	case verb == "stop" && now.State == Failed && now.exit == int(fault.Unexpected):
		return fault.New(fault.Unexpected, "wait until it is started again, or have it not started: sc config "+Name+" start= disabled", "cannot stop the service: it has failed, and is about to be started again")
	case verb == "stop" && now.State == Failed:
		return nil // it does not run, and nobody starts it
	}
	if verb != "start" || now.State != Starting {
		if err := by(); err != nil || verb == "stop" {
			return s.failed(verb, err)
		}
	}
	state, err := s.started()
	switch {
	case err != nil:
		return err
	case state.State == Running:
		return nil
	case state.State == Starting:
		return fault.New(fault.Unexpected, eventLook, "the service was started, and is not ready within %s", commandLimit)
	}
	class := fault.Unexpected
	if state.exit > int(class) && state.exit <= int(fault.Files) {
		class = fault.Class(state.exit)
	}
	return fault.New(class, eventLook, "the service was started, and does not run: %s", state.Detail)
}

// started waits until the service is ready or has ended, or does not come to either.
func (s *Service) started() (*Report, error) {
	limit := time.NewTimer(commandLimit)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := s.native.Status()
		if err != nil || state.State != Starting {
			return state, err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return state, nil
		}
	}
}
