package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/systemd"
)

// Daemon keeps a machine's identity for ever: it runs an agent, and another one whenever the configuration changes.
type Daemon struct {
	// Load reads the configuration: once at the start, and at each reload.
	Load func() (*Config, error)
	// ConfigFile is the file that Load reads, on this machine: a change of it is a reload. "" for none.
	ConfigFile string
	// Reload gets something for each wish of the operator to reload, and to ask again for what was denied: SIGHUP.
	Reload <-chan struct{}
	// Idle is told when there will be nothing to do for long, and when there is something to do; nil for nobody.
	Idle func(idle bool)
	Log  *slog.Logger

	serving atomic.Pointer[Agent] // the agent that runs now
	lock    *rotate.Lock
	seen    rotate.Look // the configuration file, when it was read last
	filled  bool        // the one that is in use has something in it
	refused string      // why the one that was read last is not in use; "" if it is
}

// Run runs until ctx ends, and then returns nil. It fails at the start where a person must act first: on a configuration
// that is wrong, files that must not be used, or another agent at work. What fails later is waited for.
func (d *Daemon) Run(ctx context.Context) error {
	config, err := d.load()
	if err != nil {
		return err
	}
	a := d.agent(config)
	a.board.since = a.now()
	if _, err := a.loadIdentity(); fault.IsFinal(err) {
		return err
	}
	if d.lock, err = a.store.Lock(); err != nil {
		return err
	}
	feeding, stop := context.WithCancel(ctx)
	var feeder sync.WaitGroup
	defer feeder.Wait()
	defer stop()
	d.serving.Store(a)
	feeder.Go(func() { d.feedWatchdog(feeding) })
	for a != nil {
		d.serving.Store(a)
		a.board.loaded, d.filled = a.now(), sizeOf(d.ConfigFile) != 0
		next := a.serve(ctx, d)
		if next != nil {
			next.inherit(a) // when nothing of a runs any more
		}
		a = next
	}
	return d.lock.Unlock()
}

// feedWatchdog tells systemd each time that the slowest of the agent's loops has got on, which each of them does once a
// minute: one that is stuck is restarted with the program. It is no part of an agent, so that it watches the change from
// one to the next, too.
func (d *Daemon) feedWatchdog(ctx context.Context) {
	w := systemd.Watchdog{
		Beat:  func() time.Time { return d.serving.Load().Snapshot().Beat },
		Pause: func() time.Duration { return d.serving.Load().untilCheck(time.Time{}) },
	}
	if err := w.Run(ctx); err != nil {
		d.Log.Warn("the service manager's watchdog cannot be fed", "err", err)
	}
}

// load reads the configuration. What the file looks like is noted before: a change that comes meanwhile is seen later.
func (d *Daemon) load() (*Config, error) {
	d.seen = rotate.LookAt(d.files())
	return d.Load()
}

func (d *Daemon) files() []string {
	if d.ConfigFile == "" {
		return nil
	}
	return []string{d.ConfigFile}
}

// hasChanged reports whether the configuration file is not what was read last.
func (d *Daemon) hasChanged() bool { return len(d.seen.Changed(rotate.LookAt(d.files()))) != 0 }

func (d *Daemon) agent(config *Config) *Agent {
	a := New(config, d.Log)
	a.daemon, a.idle = true, d.Idle
	return a
}

// serve keeps the certificates until ctx ends, or until there is another agent to go on with.
func (a *Agent) serve(ctx context.Context, d *Daemon) (next *Agent) {
	serving, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()

	watcher, events := a.watch(serving, &parts, d.files())
	a.serveStatus(serving, &parts)
	a.tellSystemd(serving, &parts)
	for _, k := range a.keepers {
		parts.Go(func() { k.run(serving) })
	}
	parts.Go(func() { a.followTrust(serving) })
	parts.Go(func() { a.keepHooks(serving) })
	a.log.Info("the agent runs", "node", a.node(), "version", a.config.options.Version)
	_, _ = systemd.Ready(new(a.Snapshot()).Summary(a.now()))

	rested := time.Now()
	for reload := d.hasChanged(); ; reload = d.hasChanged() {
		a.beat("daemon")
		if reload || d.refused != "" {
			if next := a.reload(d); next != nil {
				return next
			}
		}
		minute := time.NewTimer(a.untilCheck(time.Time{}))
		select {
		case <-ctx.Done():
			_, _ = systemd.Stopping()
			a.log.Info("the agent ends")
			return nil
		case <-d.Reload:
			a.askAgain()
			if next := a.reload(d); next != nil {
				return next
			}
			a.wake()
		case changed := <-events:
			a.log.Debug("files changed", "paths", changed)
			if len(a.strangers(changed)) != 0 {
				a.wake()
			}
		case <-minute.C:
			if watcher != nil {
				watcher.Refresh()
			}
			if time.Since(rested) >= restEvery {
				a.restAgain()
				rested = time.Now()
			}
		}
		minute.Stop()
	}
}

// restEvery is how often a program that is idle is told so again: little by little it leaves things behind, too.
const restEvery = 30 * time.Minute

// reload returns the agent of the changed configuration. One that is wrong, or that this machine cannot go on with, is
// refused, and nil returned: it is looked at again every minute.
func (a *Agent) reload(d *Daemon) *Agent {
	_, _ = systemd.Reloading()
	next, err := a.successor(d)
	if err != nil {
		a.board.mu.Lock()
		a.board.config = a.problem(a.board.config, err, "")
		a.board.mu.Unlock()
		if text := err.Error(); text != d.refused {
			a.log.Error("the changed configuration is refused, and the one before kept", "err", err, "remedy", fault.Remedy(err))
			d.refused = text
		}
		a.changed()
		_, _ = systemd.Ready(new(a.Snapshot()).Summary(a.now()))
		return nil
	}
	d.refused = ""
	a.log.Info("the configuration is read again")
	return next
}

// successor returns the agent that is to go on, with the lock of its machine held.
func (a *Agent) successor(d *Daemon) (*Agent, error) {
	config, err := d.load()
	if err != nil {
		return nil, err
	}
	if d.filled && sizeOf(d.ConfigFile) == 0 { // whoever writes it anew got no further yet, perhaps
		return nil, fault.New(fault.Usage, "put it back; to go on without it: nodejoin service restart", "the configuration file %s is missing or empty", d.ConfigFile)
	}
	next := d.agent(config)
	if _, err := next.loadIdentity(); fault.IsFinal(err) {
		return nil, err
	}
	if config.stateDir() != a.config.stateDir() {
		moved, err := next.store.Lock()
		if err != nil {
			return nil, err
		}
		if err := d.lock.Unlock(); err != nil {
			d.Log.Warn("the lock of the former state directory cannot be let go", "err", err)
		}
		d.lock = moved
	}
	return next, nil
}

// stateDir returns the state directory on this machine, which is what is locked.
func (c *Config) stateDir() string { return filepath.Join(c.paths.Root, c.paths.StateDir) }

// sizeOf returns a file's size in bytes, 0 where there is none.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// inherit takes over what the agent before knew, and its operator's wishes. What is known of API servers that are not
// configured any more is forgotten.
func (a *Agent) inherit(from *Agent) {
	b, before := &a.board, &from.board
	before.mu.Lock()
	defer before.mu.Unlock()
	b.since, b.credential, b.skew, b.trust = before.since, before.credential, before.skew, before.trust
	for _, e := range a.config.site.Endpoints {
		if _, known := b.endpoints[e.String()]; !known {
			b.endpoints[e.String()] = status.Endpoint{Address: e.String()}
			b.order = append(b.order, e.String())
		}
	}
	for address := range b.endpoints {
		if e, known := before.endpoints[address]; known {
			b.endpoints[address] = e
		}
	}
	a.config.inherit(from.config)
	for _, k := range a.keepers {
		for _, before := range from.keepers {
			if before.name == k.name {
				k.inherit(before)
			}
		}
	}
}

// inherit takes over what a keeper of the same name knew.
func (k *keeper) inherit(from *keeper) {
	from.mu.Lock()
	defer from.mu.Unlock()
	k.view.Rotations, k.view.Failures = from.view.Rotations, from.view.Failures
	k.forced, k.freshKey, k.pardoned = from.forced, from.freshKey, from.pardoned
	k.dead, k.deadAt, k.told, k.since = from.dead, from.deadAt, from.told, from.since
}

// askAgain has what was denied asked for again.
func (a *Agent) askAgain() {
	for _, k := range a.keepers {
		k.pardon()
	}
}

// rotateNow has a new identity asked for, whatever there is.
func (a *Agent) rotateNow(context.Context) error {
	a.log.Info("a new certificate is asked for by the operator")
	a.identity.ask()
	a.identity.wake()
	return nil
}

func (a *Agent) wake() {
	for _, k := range a.keepers {
		k.wake()
	}
}

// watched returns the paths on this machine whose change may be something new to see.
func (a *Agent) watched() []string {
	paths := a.store.Watched()
	for _, k := range a.keepers[1:] {
		paths = append(paths, k.slot.Watched()...)
	}
	paths = append(paths, a.config.credentialPaths()...)
	return append(paths, filepath.Join(a.config.paths.Root, a.config.kubeletConfig))
}

// watch returns the events of the files that matter. Without them, files are looked at once a minute.
func (a *Agent) watch(ctx context.Context, parts *sync.WaitGroup, more []string) (*rotate.Watcher, <-chan []string) {
	watcher, err := rotate.NewWatcher(append(a.watched(), more...), a.log)
	a.setWatching(err == nil)
	if err != nil {
		a.log.Warn("files are looked at once a minute: there are no events", "err", err)
		return nil, nil
	}
	parts.Go(func() {
		if err := watcher.Run(ctx); err != nil && ctx.Err() == nil {
			a.setWatching(false)
			a.log.Warn("files are looked at once a minute: there are no events any more", "err", err)
		}
	})
	return watcher, watcher.Events()
}

func (a *Agent) setWatching(works bool) {
	a.board.mu.Lock()
	a.board.watching = works
	a.board.mu.Unlock()
}

// serveStatus answers on the socket, and on the address for metrics.
func (a *Agent) serveStatus(ctx context.Context, parts *sync.WaitGroup) {
	server := &monitor.Server{
		Source: monitor.Source{Snapshot: a.Snapshot, Rotate: a.rotateNow},
		Socket: a.config.socketPath(), Listen: a.config.options.Listen, Log: a.log,
	}
	parts.Go(func() {
		if err := server.Run(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("nobody can ask for the status: nodejoin status reads it from disk", "err", err, "remedy", fault.Remedy(err))
		}
	})
}

// tellSystemd keeps the unit's status line up to date.
func (a *Agent) tellSystemd(ctx context.Context, parts *sync.WaitGroup) {
	changes := make(chan struct{}, 1)
	a.board.mu.Lock()
	a.board.notify = func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	a.board.mu.Unlock()
	parts.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changes:
				if _, err := systemd.Status(new(a.Snapshot()).Summary(a.now())); err != nil {
					a.log.Debug("systemd was not told", "err", err)
				}
			}
		}
	})
}

// socketPath returns the path of the agent's socket.
func (c *Config) socketPath() string { return filepath.Join(c.runtimeDir, monitor.SocketName) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ErrNotRunning says that no agent runs on this machine.
var ErrNotRunning = monitor.ErrNotRunning

// Status asks the agent that runs on this machine, or the disk where none does.
func Status(ctx context.Context, config *Config) (*status.Status, error) {
	s, err := monitor.Ask(ctx, config.socketPath())
	if errors.Is(err, monitor.ErrNotRunning) {
		return FromDisk(config)
	}
	return s, err
}

// IsRunning reports whether an agent runs on this machine.
func IsRunning(ctx context.Context, config *Config) bool {
	_, err := monitor.Ask(ctx, config.socketPath())
	return !errors.Is(err, monitor.ErrNotRunning)
}

// ForceJoin has the agent that runs on this machine get a new identity, and waits until it has. The error is
// [ErrNotRunning] where none runs.
func ForceJoin(ctx context.Context, config *Config, report func(Notice)) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, config.timeout)
	defer cancel()
	before, err := monitor.Ask(ctx, config.socketPath())
	if err != nil {
		return nil, err
	}
	was := before.Certificates[0]
	if err := monitor.Rotate(ctx, config.socketPath()); err != nil {
		return nil, err
	}
	report(Notice{Text: "the agent that runs on this machine was asked for a new certificate"})
	ticker := time.NewTicker(forceLook)
	defer ticker.Stop()
	var passing *status.Problem
	for {
		select {
		case <-ctx.Done():
			return nil, tooLate(config.timeout, passing)
		case <-ticker.C:
		}
		now, err := monitor.Ask(ctx, config.socketPath())
		switch {
		case err != nil && ctx.Err() != nil: // it is the end of the wait that was in the way
			continue
		case err != nil:
			return nil, err
		}
		c := now.Certificates[0]
		if p := c.Problem; p != nil && p.IsFinal() && c.Failures > was.Failures {
			return nil, fault.New(p.Class, p.Remedy, "%s", p.Text)
		}
		passing = c.Problem
		if c.Serial != was.Serial && c.State == status.Valid {
			return &Identity{
				Node: now.Node, Server: serverOf(now), Kubeconfig: now.Kubeconfig, Certificate: c.Path,
				Serial: c.Serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Joined: true,
			}, nil
		}
		report(Notice{Text: now.Summary(time.Now()), Waiting: true})
	}
}

// tooLate returns the error of a wait for a running agent that is over: with the class and the remedy of what is in the way.
func tooLate(timeout time.Duration, p *status.Problem) error {
	if p != nil && p.Class != 0 {
		return fault.New(p.Class, p.Remedy, "the agent has got no new certificate within %s: %s", timeout, p.Text)
	}
	return fault.New(fault.Unapproved, "see what it waits for: nodejoin status", "the agent has got no new certificate within %s", timeout)
}

// forceLook is how often a running agent is asked whether it has the certificate that it was asked for.
const forceLook = 250 * time.Millisecond

func serverOf(s *status.Status) string {
	for _, e := range s.Endpoints {
		if e.InUse {
			return "https://" + e.Address
		}
	}
	return ""
}
