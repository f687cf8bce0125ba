package systemd

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Watchdog feeds the service manager's watchdog (sd_watchdog_enabled(3), WatchdogSec=) with what the program gets done:
// not with the fact that some part of it still runs.
type Watchdog struct {
	// Beat returns when the slowest part of the program made progress last, with a monotonic reading: neither suspend nor
	// a step of the clock counts, here as there.
	Beat func() time.Time
	// Pause returns how long to wait until Beat is looked at again: a minute, if it is nil. A quarter of the time that
	// the service manager allows is the most.
	Pause func() time.Duration
}

// Run feeds the watchdog, each time that Beat has advanced, until ctx ends. Where none watches this process it returns at
// once, with the reason as an error where what the service manager said makes no sense.
func (w Watchdog) Run(ctx context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return err
	}
	var fed time.Time
	for {
		pause := time.Minute
		if w.Pause != nil {
			pause = w.Pause()
		}
		timer := time.NewTimer(min(pause, limit/4))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		beat := w.Beat()
		if !beat.After(fed) {
			continue
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			continue // it is tried again at the next look
		}
		fed = beat
	}
}
