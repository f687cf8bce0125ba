package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/machine"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

// refusalLimit is how many times, each over a connection of its own and with no better answer in between, an API server
// must say 401 or 403 until that is believed: one may come from a balancer, or from a server that is just starting and
// has seen neither the token nor the roles yet.
const refusalLimit = 3

// Notice is what the agent does or waits for, for a person.
type Notice struct {
	Text    string // one line
	Remedy  string // what would end the wait; "" if nothing is to be done
	Waiting bool   // it holds until the next notice
}

// Identity is what a node has joined with.
type Identity struct {
	Node        string    `json:"node"`
	Server      string    `json:"server"`
	Kubeconfig  string    `json:"kubeconfig"`
	Certificate string    `json:"certificate"` // path
	Serial      string    `json:"serialNumber"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	// Joined says that this run obtained the certificate; else it was there.
	Joined bool `json:"joined"`
}

// Agent keeps a node's identity, and its other certificates.
type Agent struct {
	// Report, if not nil, is told what the agent does and waits for.
	Report func(Notice)

	config *Config
	store  *rotate.Store
	log    *slog.Logger
	clock  func() time.Time                                              // the wall clock
	names  func(node string) (dns []string, ips []netip.Addr, err error) // the machine's

	identity *keeper
	keepers  []*keeper // identity first
	daemon   bool      // it never ends, and waits for what a person must do

	lastDiscoveries []bootstrap.Discovery // by access, of the identity's last attempt
	settled         *rotate.Disk          // the identity as it was last seen to be in order

	proven chan struct{} // has something in it when the identity was proved after the CA bundle was looked at last
	begun  time.Time     // when all minutes began that are counted

	resting sync.Mutex      // guards worked, and the order of what idle is told
	worked  bool            // since rest was called last
	idle    func(idle bool) // told when there will be nothing to do for long, and when there is; nil for nobody

	board board
	hooks hooks
}

// New returns an agent. Nothing is read or written yet.
func New(config *Config, log *slog.Logger) *Agent {
	a := &Agent{config: config, store: rotate.NewStore(config.paths), log: log, clock: time.Now, names: machine.Names, proven: make(chan struct{}, 1), begun: time.Now()}
	place := config.options.Client
	place.Name, place.Dir = rotate.ClientName, config.paths.CertDir
	a.store.Client = a.store.Slot(place)
	a.board.init(config)
	a.hooks.woken, a.hooks.tried = make(chan struct{}, 1), map[string]string{}
	a.hooks.run = func(ctx context.Context, hook rotate.Hook, change rotate.Change, log *slog.Logger) error {
		return hook.Run(ctx, change, log)
	}
	for _, s := range config.sources {
		if c, ok := s.credential.(interface{ LogTo(log *slog.Logger) }); ok {
			c.LogTo(log)
		}
	}
	a.identity = newIdentity(a)
	a.keepers = []*keeper{a.identity}
	for _, c := range config.certificates {
		a.keepers = append(a.keepers, newOther(a, c))
	}
	return a
}

// now returns the time of the wall clock, with no monotonic reading that would stand still while the machine sleeps.
func (a *Agent) now() time.Time { return a.clock().Round(0) }

// clockStep is how far the wall clock must go away from the monotonic one to have been set.
const clockStep = time.Second

// watchClock returns what tells whether the clock was set since, or the machine was suspended: a time that was fixed before
// may be far away by now, on either side.
func (a *Agent) watchClock() (wasSet func() bool) {
	begun, wall := time.Now(), a.now()
	return func() bool { return (a.now().Sub(wall) - time.Since(begun)).Abs() >= clockStep }
}

// works says that there is work: what rest has given up is wanted again.
func (a *Agent) works() {
	a.resting.Lock()
	defer a.resting.Unlock()
	if !a.worked && a.idle != nil {
		a.idle(false)
	}
	a.worked = true
}

// rest says that nothing will be done for long.
func (a *Agent) rest() {
	a.resting.Lock()
	defer a.resting.Unlock()
	if a.worked && a.idle != nil {
		a.idle(true)
	}
	a.worked = false
}

// restAgain says so again where nothing has been done meanwhile.
func (a *Agent) restAgain() {
	a.resting.Lock()
	defer a.resting.Unlock()
	if !a.worked && a.idle != nil {
		a.idle(true)
	}
}

// Join goes round the loop until this machine's identity is durable and was seen to work. On a machine that has joined
// it returns at once, without a request.
func (a *Agent) Join(ctx context.Context) (*Identity, error) {
	s, err := a.loadIdentity()
	if err != nil {
		return nil, err
	}
	if a.isProven(s) {
		a.comparePins(s.disk)
		a.removeUsedTokens(&s.disk.Record)
		return a.describe(s.disk), nil
	}
	if err := a.missingInput(s); err != nil {
		return nil, err
	}
	lock, err := a.store.Lock()
	if err != nil {
		return nil, err
	}
	identity, err := a.untilJoined(ctx)
	if err != nil {
		err = errors.Join(err, a.retreat())
	}
	return identity, errors.Join(err, lock.Unlock())
}

// retreat leaves nothing of a join that came to nothing. The key of a request that may have been sent is kept.
func (a *Agent) retreat() error {
	if a.identity.unsent {
		if err := a.store.Client.DropPendingKey(); err != nil {
			return err
		}
	}
	a.store.Retreat()
	return nil
}

// missingInput returns what the operator must still say before this machine can go on, and why that is needed.
func (a *Agent) missingInput(s *sight) error {
	accesses := a.config.accesses()
	access := accesses[max(0, slices.IndexFunc(accesses, func(x *access) bool { return x.missing() == nil }))]
	reason, message := a.identity.judge(s)
	switch {
	case a.identity.wants().forced || reason == rotate.Missing:
		return access.missing()
	case !reason.Usable():
		return needed(message, access.missing())
	case !s.disk.Whole():
		return needed("the kubeconfig is missing or damaged", access.discoveryErr) // only that is to be made, which takes no credential
	}
	return nil // only to be proven
}

// needed puts the reason before what is missing.
func needed(reason string, missing error) error {
	if missing == nil {
		return nil
	}
	if !fault.IsFinal(missing) {
		return fmt.Errorf("%s, and %w", reason, missing)
	}
	return fault.New(fault.ClassOf(missing), fault.Remedy(missing), "%s, and %w", reason, missing)
}

func (a *Agent) isProven(s *sight) bool {
	reason, _ := a.identity.judge(s)
	return reason.Usable() && s.disk.Whole() && !a.identity.wants().forced && s.disk.Record.Verified == s.disk.Pair.Fingerprint()
}

// untilJoined repeats the pass until it succeeds, until it fails for good, or until the time is over.
func (a *Agent) untilJoined(ctx context.Context) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.timeout)
	defer cancel()
	var pause backoff
	var last error
	for ctx.Err() == nil {
		err := a.identity.pass(ctx)
		switch {
		case err == nil:
			a.runDueHooks(ctx)
			return a.describe(a.settled), nil
		case fault.IsFinal(err):
			return nil, err
		case errors.Is(err, errAgain):
			continue
		}
		if ctx.Err() != nil {
			break
		}
		last = err
		a.identity.waitsFor(nil) // what a request waited for before that is not why it is late
		a.log.Debug("attempt failed", "err", err)
		a.tell(Notice{Text: err.Error(), Remedy: fault.Remedy(err), Waiting: true})
		if pause.wait(ctx, err) != nil {
			break
		}
	}
	return nil, a.gaveUp(ctx, last)
}

// gaveUp says why the time was not enough. What is under way is kept for the next run.
func (a *Agent) gaveUp(ctx context.Context, last error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fault.New(fault.Unexpected, "run it again: it goes on where it stopped", "interrupted")
	}
	w := a.identity.waitingFor()
	switch {
	case w == nil && last == nil:
		return fault.New(fault.Unexpected, "look at the network, or wait longer with --timeout", "not joined after %s: the API server did not answer in time", a.config.timeout)
	case w == nil:
		return fault.New(fault.ClassOf(last), cmp.Or(fault.Remedy(last), "mend that and run it again (it goes on where it stopped), or wait longer with --timeout"), "not joined after %s: %w", a.config.timeout, last)
	case w.Approved:
		return fault.New(fault.Unapproved, "look at the kube-controller-manager's log (its csrsigning controller); the request is kept for the next run",
			"the request %s is approved, but was not signed within %s", w.Name, a.config.timeout)
	}
	return fault.New(fault.Unapproved, "run this again (the request and its key are kept) after: "+a.howToApprove(w),
		"nobody approved the request %s (by %s) within %s", w.Name, w.Username, a.config.timeout)
}

// describe returns the identity on disk.
func (a *Agent) describe(disk *rotate.Disk) *Identity {
	leaf := disk.Pair.Leaf
	return &Identity{
		Node: a.node(), Server: disk.Kubeconfig.Server, Kubeconfig: a.config.paths.Kubeconfig, Certificate: disk.PairPath,
		Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), Joined: a.identity.joined(),
	}
}

// tell says something to whoever follows the agent: a person, or the log, which hears it once.
func (a *Agent) tell(n Notice) {
	if a.Report != nil {
		a.Report(n)
	}
	if a.daemon && !n.Waiting && a.board.isNews(n.Text) {
		a.log.Info("notice", "text", n.Text, "remedy", n.Remedy)
	}
}
