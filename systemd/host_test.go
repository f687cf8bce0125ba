package systemd

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kardianos/service"
)

// manager stands in for a service manager, as kardianos/service shows it to a program: Run starts it, waits for the word to
// stop, reports after Stop that it has stopped, and returns what Stop returns. Where nobody says so it waits for ever, as on
// Windows.
type manager struct {
	program  service.Interface
	stop     chan struct{}
	reported atomic.Bool
}

func (m *manager) Run() error {
	if err := m.program.Start(nil); err != nil {
		return err
	}
	<-m.stop
	err := m.program.Stop(nil)
	time.Sleep(50 * time.Millisecond) // the report takes its time
	m.reported.Store(true)
	return err
}

// A service dies when its loop dies, with the loop's error: it does not look alive without one.
func TestHost(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		loop func(context.Context) error
		stop bool
		want error
	}{
		{"the loop dies", func(context.Context) error { return broken }, false, broken},
		{"the loop ends", func(context.Context) error { return nil }, false, nil},
		{"stopped", func(ctx context.Context) error { <-ctx.Done(); return nil }, true, nil},
		{"stopped, and the loop fails at its end", func(ctx context.Context) error { <-ctx.Done(); return broken }, true, broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHosted(t.Context(), test.loop)
			m := &manager{program: h, stop: make(chan struct{})}
			ended := make(chan error, 1)
			go func() { ended <- host(h, m) }()
			if test.stop {
				close(m.stop)
			} else {
				defer close(m.stop)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
					t.Errorf("it ended with %v", err)
				}
				if m.reported.Load() != test.stop {
					t.Errorf("when it ended the manager had reported the stop: %t", !test.stop)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it does not end")
			}
		})
	}
}
