package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/rotate"
)

// hooks are run one after the other, and nothing waits for them: a hook may take its time, while certificates are rotated
// and files repaired.
type hooks struct {
	woken chan struct{}                                                                             // has something in it when due may have
	run   func(ctx context.Context, hook rotate.Hook, change rotate.Change, log *slog.Logger) error // is [rotate.Hook.Run]

	mu    sync.Mutex        // guards what follows
	due   []occasion        // the oldest first, of what changed one each
	tried map[string]string // by what changed: the digest that hooks were last run for, or are about to be
}

// occasion is a change that hooks may be run after.
type occasion struct {
	what   string // has changed: a certificate's name, "ca" or "kubeconfig"
	digest string // of what it has become
	change rotate.Change
}

// occurs has the hooks run that concern a change, unless they have succeeded for it before. A hook that fails is run again
// after the next change, and when the agent starts; it undoes nothing.
func (a *Agent) occurs(o occasion) {
	if len(a.config.options.Hooks) == 0 {
		return
	}
	h := &a.hooks
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tried[o.what] == o.digest {
		return
	}
	h.tried[o.what] = o.digest
	for i := range h.due {
		if h.due[i].what == o.what { // what it was meanwhile is of no interest any more
			h.due[i] = o
			return
		}
	}
	h.due = append(h.due, o)
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// next returns what hooks are due for, and takes it off the list.
func (h *hooks) next() (o occasion, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.due) == 0 {
		return occasion{}, false
	}
	o = h.due[0]
	h.due = h.due[1:]
	return o, true
}

// keepHooks runs hooks until ctx ends.
func (a *Agent) keepHooks(ctx context.Context) {
	if len(a.config.options.Hooks) == 0 {
		return
	}
	a.beat(hooksPart)
	for {
		a.runDueHooks(ctx)
		a.beat(hooksPart)
		minute := time.NewTimer(a.untilCheck(time.Time{}))
		select {
		case <-ctx.Done():
			minute.Stop()
			return
		case <-a.hooks.woken:
		case <-minute.C:
		}
		minute.Stop()
	}
}

// hooksPart is the part of the agent that beats for its hooks.
const hooksPart = "hooks"

// runDueHooks runs what is due now.
func (a *Agent) runDueHooks(ctx context.Context) {
	for ctx.Err() == nil {
		o, found := a.hooks.next()
		if !found {
			return
		}
		a.runHooks(ctx, o)
	}
}

func (a *Agent) runHooks(ctx context.Context, o occasion) {
	state, err := a.store.State()
	if err != nil {
		a.log.Warn("cannot tell which hooks have run: all are run", "err", err)
	}
	o.change.What, o.change.Node = []string{o.what}, a.node()
	o.change.Kubeconfig, o.change.CAFile = a.config.paths.Kubeconfig, a.config.paths.CAFile
	for _, hook := range a.config.options.Hooks {
		key := hook.Digest() + " " + o.what
		if !hook.Concerns(o.what) || state.Hooks[key] == o.digest || ctx.Err() != nil {
			continue
		}
		a.log.Info("running a hook", "hook", hook.Name, "changed", o.what)
		err := a.runHook(ctx, hook, o.change)
		a.hookEnded(hook.Name, o.what, err)
		if err != nil {
			a.log.Error("a hook failed; the change stands", "hook", hook.Name, "changed", o.what, "err", err)
			continue
		}
		a.log.Info("a hook has succeeded", "hook", hook.Name, "changed", o.what)
		if err := a.rememberHook(key, o.digest); err != nil {
			a.log.Warn("cannot remember that a hook has run", "hook", hook.Name, "err", err)
		}
	}
}

// runHook runs one hook. It may take longer than a loop may be silent, so that the loop beats for it, but only for as long
// as the hook may take: what is not back then hangs, and is to be seen.
func (a *Agent) runHook(ctx context.Context, hook rotate.Hook, change rotate.Change) error {
	beating, stop := context.WithTimeout(ctx, hook.Longest())
	var beats sync.WaitGroup
	defer beats.Wait()
	defer stop()
	beats.Go(func() {
		for beating.Err() == nil {
			a.beat(hooksPart)
			minute := time.NewTimer(a.untilCheck(time.Time{}))
			select {
			case <-beating.Done():
			case <-minute.C:
			}
			minute.Stop()
		}
	})
	return a.hooks.run(ctx, hook, change, a.log)
}

// rememberHook notes what a hook has succeeded for, and forgets the hooks that are not configured any more.
func (a *Agent) rememberHook(key, digest string) error {
	return a.store.Remember(func(state *rotate.State) {
		known := map[string]bool{}
		for _, hook := range a.config.options.Hooks {
			known[hook.Digest()] = true
		}
		kept := map[string]string{key: digest}
		for other, value := range state.Hooks {
			if id, _, _ := strings.Cut(other, " "); known[id] && other != key {
				kept[other] = value
			}
		}
		state.Hooks = kept
	})
}

// changedAround has the hooks run that concern what is around the identity.
func (a *Agent) changedAround(disk *rotate.Disk) {
	k := disk.Kubeconfig
	a.occurs(occasion{what: config.OnCA, digest: digestOf(k.CA)})
	a.occurs(occasion{what: config.OnKubeconfig, digest: digestOf([]byte(k.Server + "\n" + k.TLSServerName + "\n" + k.ProxyURL))})
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
