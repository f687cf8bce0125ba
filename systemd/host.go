package systemd

import (
	"context"
	"sync/atomic"

	"github.com/kardianos/service"
)

// hosted is a loop that a service manager starts and stops through kardianos/service.
type hosted struct {
	ctx    context.Context //nolint:containedctx // Start gets none: it is the one that the program runs under
	loop   func(context.Context) error
	cancel context.CancelFunc
	told   atomic.Bool   // the manager has said that it shall stop
	ended  chan struct{} // closed when the loop has ended
	err    error         // of the loop; set when ended is closed
}

func newHosted(ctx context.Context, loop func(context.Context) error) *hosted {
	h := &hosted{loop: loop, ended: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(ctx)
	return h
}

// Start implements [service.Interface].
func (h *hosted) Start(service.Service) error {
	go func() {
		defer close(h.ended)
		h.err = h.loop(h.ctx)
	}()
	return nil
}

// Stop implements [service.Interface]: it ends the loop and hands its error out.
func (h *hosted) Stop(service.Service) error {
	h.told.Store(true)
	h.cancel()
	<-h.ended
	return h.err
}

// runner is what runs a program under its service manager: a [service.Service].
type runner interface {
	Run() error
}

// host runs the loop under a service manager. It ends with the loop's error: when the manager has stopped it, and also when
// the loop ends by itself. Then nobody is asked to stop anything: the process ends, and with which exit status, and the
// manager takes that for the failure that it is. One that was told to stop ends when the manager knows that it has: Windows
// would take an end before that for a crash, and start it again.
func host(h *hosted, by runner) error {
	defer h.cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- by.Run() }()
	select {
	case <-h.ended:
		if h.told.Load() {
			return <-stopped
		}
		return h.err
	case err := <-stopped:
		return err
	}
}
