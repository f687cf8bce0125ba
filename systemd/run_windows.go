package systemd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
)

// Run runs the program's loop as its service manager wants it: a service answers to the service control manager, is started when
// the loop says that it is ready, and ends with the loop's error when that ends by itself. In a console it is the loop alone.
func Run(ctx context.Context, loop func(context.Context) error) error {
	if !isHosted() {
		return loop(ctx)
	}
	h := newHosted(ctx, loop)
	return h.host(func() error { return svc.Run(Name, h) })
}

// isHosted reports whether the service control manager has started this program. wine's is not in the session 0, in which
// IsWindowsService looks for it.
var isHosted = sync.OnceValue(func() bool {
	is, err := svc.IsWindowsService()
	return err == nil && is || strings.EqualFold(parent(), "services.exe")
})

// parent returns the name of the program that has started this one; "" where that is not known.
func parent() string {
	processes, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return ""
	}
	defer windows.CloseHandle(processes) //nolint:errcheck // nothing was changed
	pid := os.Getppid()
	process := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	for err = windows.Process32First(processes, &process); err == nil; err = windows.Process32Next(processes, &process) {
		if int(process.ProcessID) == pid {
			return windows.UTF16ToString(process.ExeFile[:])
		}
	}
	return ""
}

// waitHint is how long a start or a stop may take, in milliseconds; the unit gives a stop as much.
const waitHint = 30_000

// Execute implements [svc.Handler]. What it returns is the exit status that the manager shows: ERROR_SERVICE_SPECIFIC_ERROR and
// the program's own.
func (h *hosted) Execute(_ []string, requests <-chan svc.ChangeRequest, changes chan<- svc.Status) (specific bool, status uint32) {
	changes <- svc.Status{State: svc.StartPending, WaitHint: waitHint}
	started, told := h.begun, false
	for {
		select {
		case <-started:
			started = nil
			changes <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
		case <-h.ended:
			status = h.leave(told)
			return status != 0, status
		case request := <-requests:
			switch request.Cmd {
			case svc.Interrogate:
				changes <- request.CurrentStatus
			case svc.Stop, svc.Shutdown:
				started, told = nil, true
				changes <- svc.Status{State: svc.StopPending, WaitHint: waitHint}
				h.cancel()
			}
		}
	}
}

// Stderr returns where the program writes what it would write to standard error, which a service does not have: Windows' event
// log, an event a line, whose source is the service.
func Stderr(stderr io.Writer) io.Writer {
	if !isHosted() {
		return stderr
	}
	log, err := eventlog.Open(Name)
	if err != nil {
		return stderr // there is nobody to tell
	}
	return &eventWriter{log}
}

// eventWriter makes an event of each line of a Write.
type eventWriter struct{ log *eventlog.Log }

// eventID is the only one: the message says all there is to say.
const eventID = 1

func (w *eventWriter) Write(text []byte) (int, error) {
	var lost error
	for level, line := range events(string(text)) {
		report := w.log.Info
		switch {
		case level >= slog.LevelError:
			report = w.log.Error
		case level >= slog.LevelWarn:
			report = w.log.Warning
		}
		lost = errors.Join(lost, report(eventID, line))
	}
	if lost != nil {
		return 0, lost
	}
	return len(text), nil
}
