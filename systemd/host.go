package systemd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// hosted is a loop that Windows' service control manager starts and stops.
type hosted struct {
	begun  <-chan struct{} // closed when the loop says for the first time that it is ready
	ended  chan struct{}   // closed when the loop has ended
	silent chan struct{}   // closed when the process shall end without a word to the manager
	err    error           // of the loop; set when ended is closed
	cancel context.CancelFunc
}

// newHosted starts the loop.
func newHosted(ctx context.Context, loop func(context.Context) error) *hosted {
	h := &hosted{begun: begun, ended: make(chan struct{}), silent: make(chan struct{})}
	ctx, h.cancel = context.WithCancel(ctx)
	go func() {
		defer close(h.ended)
		h.err = loop(ctx)
	}()
	return h
}

// begun is closed by the first [Ready] of the process, which is one service.
var (
	begun = make(chan struct{})
	begin = sync.OnceFunc(func() { close(begun) })
)

// host runs the loop while serve answers to the service control manager, and ends with the loop's error: when the manager knows
// that the service has stopped, or at once where it shall not hear of it, see [hosted.leave].
func (h *hosted) host(serve func() error) error {
	defer h.cancel()
	answered := make(chan error, 1)
	go func() { answered <- serve() }()
	select {
	case <-h.silent:
		return h.err
	case err := <-answered:
		select {
		case <-h.ended:
			return h.err
		default:
			h.cancel()
			<-h.ended
			return fmt.Errorf("cannot answer to the service control manager: %w", err)
		}
	}
}

// leave returns the exit status that the manager is to hear of when the loop has ended. Where it shall start the service again
// the process ends without a word instead, and leave does not return: the manager cannot tell one exit status from another, but it
// can tell a service that has stopped from a process that is gone. told is whether it has said that the service shall stop.
func (h *hosted) leave(told bool) uint32 {
	if !told && again(h.err) {
		close(h.silent)
		select {}
	}
	return uint32(fault.ClassOf(h.err)) //nolint:gosec // an exit status
}

// again reports whether a service manager shall start the service again after it has ended by itself: not after an end that was
// meant, nor after one of the exit statuses for which the unit says so.
func again(err error) bool {
	return err != nil && !slices.Contains(strings.Fields(unitSetting("RestartPreventExitStatus")), fmt.Sprint(int(fault.ClassOf(err))))
}

// unitSetting returns what the unit sets a name to; "" where it does not.
func unitSetting(name string) string {
	for line := range strings.Lines(unit) {
		if value, found := strings.CutPrefix(line, name+"="); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
