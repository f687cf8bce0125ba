package agent

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// IdentityName is what a [Wait] calls the node's identity: its client certificate with the kubeconfig around it.
const IdentityName = "identity"

// waitLook is how often a wait looks whether it is over.
const waitLook = 500 * time.Millisecond

// Wait waits until a certificate of this machine can be used.
//
// The node's identity can be used when its certificate is on disk with its key and is valid by its dates, the kubeconfig
// names it, and the agent that runs has seen it to work. An agent that finds no API server to show it to does not keep
// it back: a kubelet has work to do without one, on a control plane above all. Where no agent runs, the disk decides. Any
// other certificate can be used when it is on disk and valid.
type Wait struct {
	// Load reads the configuration: once at the start, and again when ConfigFile has changed.
	Load func() (*Config, error)
	// ConfigFile is the file that Load reads, on this machine; "" for none.
	ConfigFile string
	// For is what is waited for: [IdentityName], or the name of a certificate of the configuration.
	For string
	// Timeout is how long to wait at most; 0 waits for ever.
	Timeout time.Duration
	// Report is told, on one line, what is waited for when that changes.
	Report func(text string)

	config   *Config
	file     rotate.Look // the configuration file, when it was read last
	told     string
	disk     *status.Status // what was read from disk, where no agent runs
	diskLook rotate.Look
	diskAt   time.Time
}

// Run waits, and returns the certificate and the status that it is part of. It fails at once where it can come to nothing:
// on a configuration that is wrong at the start, a name that is not in it, or files that this user may not read. After
// the timeout the error has the class and the remedy of what is wrong.
func (w *Wait) Run(ctx context.Context) (*status.Certificate, *status.Status, error) {
	if err := w.load(); err != nil {
		return nil, nil, err
	}
	if !slices.Contains(w.names(), w.For) {
		return nil, nil, fault.New(fault.Usage, "choose one of: "+strings.Join(w.names(), ", "), "there is no certificate %q in the configuration", w.For)
	}
	inTime := ctx // ends a look, too: an agent that was stopped takes connections, and does not answer
	if w.Timeout > 0 {
		var cancel context.CancelFunc
		inTime, cancel = context.WithTimeout(ctx, w.Timeout)
		defer cancel()
	}
	ticker := time.NewTicker(waitLook)
	defer ticker.Stop()
	var why error
	for {
		c, s, err := w.look(inTime)
		if err == nil {
			return c, s, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, nil, err
		}
		if inTime.Err() == nil || why == nil { // else it is the end of the wait that was in the way
			why = err
		}
		select {
		case <-inTime.Done():
			if ctx.Err() != nil {
				return nil, nil, fault.New(fault.Unexpected, "run it again", "interrupted while waiting for %s: %w", w.what(), why)
			}
			return nil, nil, fault.New(fault.ClassOf(why), fault.Remedy(why), "%s cannot be used after %s: %w", w.what(), w.Timeout, why)
		case <-ticker.C:
		}
		if len(w.file.Changed(rotate.LookAt(w.files()))) != 0 {
			_ = w.load() // one that is wrong now is waited with as the agent does: the one before stays
		}
	}
}

func (w *Wait) what() string {
	if w.For == IdentityName {
		return "this node's identity"
	}
	return "the certificate " + w.For
}

func (w *Wait) files() []string {
	if w.ConfigFile == "" {
		return nil
	}
	return []string{w.ConfigFile}
}

// load reads the configuration. What the file looks like is noted before.
func (w *Wait) load() error {
	w.file = rotate.LookAt(w.files())
	c, err := w.Load()
	if err != nil {
		return err
	}
	w.config, w.disk = c, nil
	return nil
}

// names are what can be waited for.
func (w *Wait) names() []string {
	names := []string{IdentityName, config.KubeletClient}
	for _, c := range w.config.certificates {
		names = append(names, c.Name)
	}
	return names
}

// look returns nil as its error when the certificate can be used, and else why it cannot. What is waited for is told.
func (w *Wait) look(ctx context.Context) (*status.Certificate, *status.Status, error) {
	s, err := w.status(ctx)
	if err != nil {
		if !errors.Is(err, fs.ErrPermission) && ctx.Err() == nil { // these end the wait
			w.tell(err.Error())
		}
		return nil, nil, err
	}
	name := w.For
	if name == IdentityName {
		name = config.KubeletClient
	}
	now := time.Now()
	about := s.About(name, now)
	c := about.Certificate(name)
	if c == nil {
		err = fault.New(fault.Unexpected, "see why the agent has not taken up its configuration: nodejoin status", "the agent that runs does not keep the certificate %s", name)
		w.tell(err.Error())
		return nil, s, err
	}
	wrong, summary := about.Fault(now), about.Summary(now)
	if c.Usable(now) {
		if name == config.KubeletClient {
			err = w.unproven(s, c)
		}
		if err == nil {
			return c, s, nil
		}
		wrong, summary = err, err.Error()
	}
	if !s.Running {
		summary = "no agent runs on this machine; " + summary
	}
	w.tell(summary)
	return nil, s, wrong
}

// status returns what the agent says, or the disk where none runs, which is read again when it has changed and once a minute.
func (w *Wait) status(ctx context.Context) (*status.Status, error) {
	s, err := monitor.Ask(ctx, w.config.socketPath())
	if !errors.Is(err, ErrNotRunning) {
		w.disk = nil
		return s, err
	}
	look := rotate.LookAt(New(w.config, discard()).watched())
	if w.disk != nil && len(w.diskLook.Changed(look)) == 0 && time.Since(w.diskAt) < rotate.CheckEvery {
		return w.disk, nil
	}
	s, err = FromDisk(w.config)
	if err != nil {
		return nil, err
	}
	w.disk, w.diskLook, w.diskAt = s, look, time.Now()
	return s, nil
}

// unproven returns why an identity that is valid by its dates cannot be used yet.
func (w *Wait) unproven(s *status.Status, c *status.Certificate) error {
	a := New(w.config, discard())
	disk, err := a.store.Load()
	switch {
	case err != nil:
		return err
	case disk.Pair == nil:
		return errors.New("the certificate on disk is being replaced")
	case !disk.Whole():
		return fault.New(fault.Unexpected, "start the agent, which makes it anew: nodejoin service start", "the kubeconfig %s is missing or damaged", w.config.paths.Kubeconfig)
	case !s.Running || disk.Record.Verified == disk.Pair.Fingerprint():
		return nil
	case c.Problem == nil:
		return errors.New("the agent has not seen yet that the certificate works")
	case c.Problem.IsFinal():
		return fault.New(c.Problem.Class, c.Problem.Remedy, "%s", c.Problem.Text)
	}
	return nil
}

func (w *Wait) tell(text string) {
	if text != w.told && w.Report != nil {
		w.Report(text)
	}
	w.told = text
}
