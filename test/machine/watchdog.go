package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

const (
	// watchdogTimeout makes the watchdog bark soon. Each loop of the agent gets on once a minute, so it must not be less.
	watchdogTimeout = 75 * time.Second
	leftAlone       = 100 * time.Second
)

// watchdog is the story of an agent of which one loop hangs: its state directory is a file system that the test freezes, so
// that whoever writes there does not come back, and everything else in the process goes on. Meanwhile another agent has
// nothing to do.
type watchdog struct {
	m, idle  *machine
	volume   string // where the state directory of m is mounted
	pid      string
	idleFrom time.Time
	idlePID  string
}

// separateState gives a machine that is off a file system of its own for the agent's state. It returns where that is mounted.
func (m *machine) separateState(ctx context.Context) (string, error) {
	volume := filepath.Join(m.dir, "state")
	image := volume + ".img"
	m.binds = append(m.binds, volume+":/var/lib/nodejoin")
	return volume, commands(ctx,
		[]string{"mkdir", volume},
		[]string{"truncate", "--size=16M", image},
		[]string{"mkfs.ext4", "-q", image},
		[]string{"mount", "-o", "loop", image, volume},
	)
}

// hurryWatchdog makes the watchdog of a machine that is off bark sooner.
func (m *machine) hurryWatchdog() error {
	return m.write("/etc/systemd/system/nodejoin.service.d/watchdog.conf", fmt.Sprintf("[Service]\nWatchdogSec=%d\n", int(watchdogTimeout.Seconds())), 0o644)
}

func (s *watchdog) tell(ctx context.Context, p *point) {
	p.machines = []*machine{s.m, s.idle}
	defer func() { _ = s.thaw(context.WithoutCancel(ctx)) }() // it may be thawed already; should this process be killed, see willFreeze
	s.bark(ctx, p)
	p.check(ctx, fmt.Sprintf("another agent, with nothing to do, is left alone for %s at least, with WatchdogSec=%s", leftAlone, watchdogTimeout), s.leftAlone)
	s.recover(ctx, p)
}

// thaw ends the freeze. Whoever hangs goes on.
func (s *watchdog) thaw(ctx context.Context) error {
	_, err := command(ctx, "fsfreeze", "--unfreeze", s.volume)
	return err
}

// leftAlone waits until the idle agent has been watched for long enough, and looks whether it is still the same.
func (s *watchdog) leftAlone(ctx context.Context) (string, error) {
	timer := time.NewTimer(time.Until(s.idleFrom.Add(leftAlone)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	state, err := s.idle.run(ctx, "systemctl", "show", "--property=MainPID,NRestarts,ActiveState,WatchdogUSec", unit)
	for _, wanted := range []string{"MainPID=" + s.idlePID + "\n", "NRestarts=0\n", "ActiveState=active\n", "WatchdogUSec=1min 15s\n"} {
		if err == nil && !strings.Contains(state, wanted) {
			err = fmt.Errorf("it is not so that %s:\n%s", wanted, state)
		}
	}
	return fmt.Sprintf("%s: %s, after %.0f s", s.idle.name, strings.Join(strings.Fields(state), " "), time.Since(s.idleFrom).Seconds()), err
}

// begin notes which processes there are.
func (s *watchdog) begin(ctx context.Context) (err error) {
	if s.pid, err = s.m.property(ctx, unit, "MainPID"); err != nil {
		return err
	}
	s.idlePID, err = s.idle.property(ctx, unit, "MainPID")
	s.idleFrom = time.Now()
	return err
}

func (s *watchdog) bark(ctx context.Context, p *point) {
	var frozen time.Time
	p.check(ctx, "its state directory is frozen, and it is asked to rotate: a loop hangs in a write", func(ctx context.Context) (string, error) {
		if err := s.begin(ctx); err != nil {
			return "", err
		}
		if err := willFreeze(s.volume); err != nil {
			return "", err
		}
		if _, err := command(ctx, "fsfreeze", "--freeze", s.volume); err != nil {
			return "", err
		}
		frozen = time.Now()
		if _, err := s.m.run(ctx, "nodejoin", "join", "--force", "--timeout", "2s"); err == nil {
			return "", errors.New("it rotated on a frozen file system")
		}
		return s.hangs(ctx)
	})
	p.check(ctx, "the process lives: it answers nodejoin status meanwhile", func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		said, err := s.m.run(ctx, "nodejoin", "status")
		return strings.SplitN(said, "\n", 2)[0], err
	})
	p.check(ctx, "systemd's watchdog ends it", func(ctx context.Context) (seen string, err error) {
		err = eventually(ctx, func() error {
			journal, err := s.m.run(ctx, "journalctl", "--no-pager", "--output=cat", "--unit="+unit)
			for line := range strings.Lines(journal) {
				if strings.Contains(line, "Watchdog timeout") {
					seen = strings.TrimSpace(line)
				}
			}
			if err == nil && seen == "" {
				err = errors.New("there is no word of the watchdog in its journal")
			}
			return err
		})
		return fmt.Sprintf("%s, %.0f s after the freeze", seen, time.Since(frozen).Seconds()), err
	})
}

// hangs looks for a thread of the agent that waits for a frozen file system.
func (s *watchdog) hangs(ctx context.Context) (string, error) {
	var seen string
	err := eventually(ctx, func() error {
		threads, err := s.m.shell(ctx, "cd /proc/"+s.pid+"/task && for t in *; do echo $t $(sed 's/.*) //' $t/stat | cut -c1); done")
		if err != nil {
			return err
		}
		total, hanging := 0, 0
		for line := range strings.Lines(threads) {
			total++
			if strings.HasSuffix(strings.TrimSpace(line), " D") {
				hanging++
			}
		}
		seen = fmt.Sprintf("%d of the %d threads of process %s hang(s) in the kernel (state D)", hanging, total, s.pid)
		if hanging == 0 || hanging == total {
			return errors.New(seen)
		}
		return nil
	})
	return seen, err
}

func (s *watchdog) recover(ctx context.Context, p *point) {
	p.check(ctx, "the file system thaws: the unit comes back by itself, with its identity", func(ctx context.Context) (string, error) {
		if err := s.thaw(ctx); err != nil {
			return "", err
		}
		began := time.Now()
		err := eventually(ctx, func() error {
			pid, err := s.m.property(ctx, unit, "MainPID")
			if err == nil && (pid == s.pid || pid == "0") {
				err = fmt.Errorf("its process is %s", pid)
			}
			return err
		})
		if err != nil {
			return "", err
		}
		line, err := s.m.says(ctx, s.m.valid())
		if err != nil {
			return line, err
		}
		restarts, err := s.m.property(ctx, unit, "NRestarts")
		if err == nil && restarts != "1" {
			err = fmt.Errorf("it was restarted %s times", restarts)
		}
		return fmt.Sprintf("restarted once, %.1f s after the thaw\n%s", time.Since(began).Seconds(), line), err
	})
	p.check(ctx, "it rotates now", func(ctx context.Context) (string, error) {
		before, err := s.m.serial()
		if err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "nodejoin", "join", "--force", "--timeout", "1m"); err != nil {
			return "", err
		}
		after, err := s.m.serial()
		if err == nil && after == before {
			err = errors.New("the serial number has not changed")
		}
		return fmt.Sprintf("serial %s, then %s", before, after), err
	})
}
