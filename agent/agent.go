package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
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

// Agent keeps a node's identity.
type Agent struct {
	// Report, if not nil, is told what the agent does and waits for.
	Report func(Notice)

	config *Config
	store  *rotate.Store
	log    *slog.Logger

	node     string // its name
	forced   bool   // the operator's wish for a new certificate is still to be fulfilled
	freshKey bool   // and it wants a new key, whatever request is under way
	unsent   bool   // the pending key was made by this run and no request was sent for it
	joined   bool   // this run obtained a certificate
	dead     string // fingerprint of a certificate that the API server does not know any more
	refusals int    // answers 401 and 403 since the credential was last accepted
	expired  bool   // a certificate was issued that had expired already
	waiting  *csr.Progress
}

// New returns an agent. Nothing is read or written yet.
func New(config *Config, log *slog.Logger) *Agent {
	if d, ok := config.discovery.(*bootstrap.ByToken); ok {
		d.Log = log
	}
	return &Agent{config: config, store: rotate.NewStore(config.paths), log: log, node: config.nodeName, forced: config.force, freshKey: config.force}
}

// Join goes round the loop until this machine's identity is durable and was seen to work. On a machine that has joined
// it returns at once, without a request.
func (a *Agent) Join(ctx context.Context) (*Identity, error) {
	disk, err := a.store.Load()
	if err != nil {
		return nil, err
	}
	if err := a.settleName(disk); err != nil {
		return nil, err
	}
	if a.isProven(disk) {
		a.comparePins(disk)
		a.removeUsedToken()
		return a.identity(disk), nil
	}
	if err := a.missingInput(disk); err != nil {
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
	if a.unsent {
		if err := a.store.DropPendingKey(); err != nil {
			return err
		}
	}
	a.store.Retreat()
	return nil
}

// missingInput returns what the operator must still say before this machine can go on, and why that is needed.
func (a *Agent) missingInput(disk *rotate.Disk) error {
	reason, message := rotate.WhyReplace(disk, a.node, time.Now())
	switch {
	case a.forced || reason == rotate.Missing:
		return a.config.missing()
	case reason != "":
		return needed(message, a.config.missing())
	case !disk.Whole():
		return needed("the kubeconfig is missing or damaged", a.config.discoveryErr) // only that is to be made, which takes no credential
	}
	return nil // only to be proven
}

// needed puts the reason before what is missing.
func needed(reason string, missing error) error {
	if missing == nil {
		return nil
	}
	return fault.New(fault.ClassOf(missing), fault.Remedy(missing), "%s, and %w", reason, missing)
}

// comparePins tells an operator who asks a machine that has joined to join another cluster that nothing was done.
func (a *Agent) comparePins(disk *rotate.Disk) {
	ca, err := bootstrap.ParseBundle(disk.Kubeconfig.CA, time.Now())
	if err == nil && len(a.config.pins) != 0 && ca.Pinned(a.config.pins).IsZero() {
		a.tell(Notice{Text: "none of the CA hashes that were given is of the cluster that this machine has joined", Remedy: "to join another cluster: nodejoin join --force ..."})
	}
}

// settleName decides which node this machine is. The name that it joined with wins over the host's, which may have
// changed; a name that the operator gave must fit.
func (a *Agent) settleName(disk *rotate.Disk) error {
	if errors.Is(disk.KubeconfigErr, rotate.ErrUnmanaged) && !a.forced {
		return fault.New(fault.Files, "move it away to make this machine a node by certificate, or replace it with --force", "somebody else keeps this machine's identity: %w", disk.KubeconfigErr)
	}
	if disk.Pair == nil {
		return nil
	}
	joined := disk.Pair.NodeName()
	switch {
	case joined == a.node || a.config.named && a.forced:
	case joined == "" && a.forced:
	case joined == "":
		return fault.New(fault.Files, "move it away, or replace it with --force", "the certificate in %s is of %q, which is no node", disk.PairPath, disk.Pair.Leaf.Subject)
	case a.config.named:
		return fault.New(fault.Files, "leave --node-name out to keep it, or become the other node with --force",
			"this machine is the node %q already, and is asked to become %q", joined, a.node)
	default:
		a.tell(Notice{Text: fmt.Sprintf("this machine stays the node %q that it joined as, although its host name is %q", joined, a.node)})
		a.node = joined
	}
	return nil
}

func (a *Agent) isProven(disk *rotate.Disk) bool {
	reason, _ := rotate.WhyReplace(disk, a.node, time.Now())
	return reason == "" && disk.Whole() && !a.forced && disk.State.Verified == disk.Pair.Fingerprint() && a.dead == ""
}

// untilJoined repeats the pass until it succeeds, until it fails for good, or until the time is over.
func (a *Agent) untilJoined(ctx context.Context) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.timeout)
	defer cancel()
	var pause backoff
	var last error
	for ctx.Err() == nil {
		identity, err := a.pass(ctx)
		if err == nil || fault.IsFinal(err) {
			return identity, err
		}
		if ctx.Err() != nil {
			break
		}
		last, a.waiting = err, nil // what a request waited for before that is not why it is late
		a.log.Debug("attempt failed", "err", err)
		a.tell(Notice{Text: err.Error(), Waiting: true})
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
	w := a.waiting
	switch {
	case w == nil && last == nil:
		return fault.New(fault.Unexpected, "look at the network, or wait longer with --timeout", "not joined after %s: the API server did not answer in time", a.config.timeout)
	case w == nil:
		return fault.New(fault.Unexpected, "mend that and run it again (it goes on where it stopped), or wait longer with --timeout", "not joined after %s: %w", a.config.timeout, last)
	case w.Approved:
		return fault.New(fault.Unapproved, "look at the kube-controller-manager's log (its csrsigning controller); the request is kept for the next run",
			"the request %s is approved, but was not signed within %s", w.Name, a.config.timeout)
	}
	return fault.New(fault.Unapproved, "run this again (the request and its key are kept) after: kubectl certificate approve "+w.Name,
		"nobody approved the request %s (by %s) within %s", w.Name, w.Username, a.config.timeout)
}

// pass goes once round the loop.
func (a *Agent) pass(ctx context.Context) (*Identity, error) {
	disk, err := a.store.Load()
	if err != nil {
		return nil, err
	}
	reason, message := rotate.WhyReplace(disk, a.node, time.Now())
	switch {
	case a.forced:
		message = "a new certificate is asked for"
	case reason == "" && disk.Pair.Fingerprint() == a.dead:
		message = fmt.Sprintf("the API server does not accept this node's certificate (serial %s)", disk.Pair.Leaf.SerialNumber.Text(16))
	case reason == "":
		return a.prove(ctx, disk)
	}
	a.log.Info("a certificate is needed", "node", a.node, "reason", reason, "message", message)
	if err := needed(message, a.config.missing()); err != nil {
		return nil, err
	}
	if err := a.obtain(ctx, disk); err != nil {
		return nil, err
	}
	if disk, err = a.store.Load(); err != nil {
		return nil, err
	}
	return a.prove(ctx, disk)
}

// prove shows that the identity on disk works, by using it, and then lets go of what was needed to get it. Where the
// kubeconfig is missing or leads elsewhere it is made anew first.
func (a *Agent) prove(ctx context.Context, disk *rotate.Disk) (*Identity, error) {
	if !disk.Whole() {
		if err := a.repairKubeconfig(ctx, disk); err != nil {
			return nil, err
		}
		var err error
		if disk, err = a.store.Load(); err != nil {
			return nil, err
		}
	}
	if disk.State.Verified != disk.Pair.Fingerprint() {
		if err := a.proveOverNetwork(ctx, disk); err != nil {
			return nil, err
		}
	}
	if err := a.letGo(); err != nil {
		return nil, err
	}
	// Last, since a run that finds it looks no further.
	if err := a.store.SaveState(rotate.State{Verified: disk.Pair.Fingerprint()}); err != nil {
		return nil, err
	}
	return a.identity(disk), nil
}

// letGo removes what was needed to get an identity that works.
func (a *Agent) letGo() error {
	if err := a.store.DropPendingKey(); err != nil {
		return err
	}
	a.removeUsedToken()
	return nil
}

func (a *Agent) removeUsedToken() {
	if a.config.usedUp == "" {
		return
	}
	if err := os.Remove(a.config.usedUp); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.tell(Notice{Text: fmt.Sprintf("the used token could not be removed: %v", err), Remedy: "rm " + a.config.usedUp})
	}
}

// repairKubeconfig makes the kubeconfig and the CA bundle for a pair that is there, once that has authenticated to the
// cluster that they will name.
func (a *Agent) repairKubeconfig(ctx context.Context, disk *rotate.Disk) error {
	if err := a.config.discoveryErr; err != nil {
		return err
	}
	cluster, conn, err := bootstrap.Connect(ctx, a.config.discovery, a.log)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := a.authenticate(ctx, cluster, disk.Pair); err != nil {
		a.markDead(disk.Pair, err)
		return err
	}
	return a.store.CommitKubeconfig(kubeconfigOf(cluster, conn, disk.Pair))
}

// kubeconfigOf returns the kubeconfig for a pair: its server is the one that the cluster names, and where the operator
// listed several, the one in use.
func kubeconfigOf(cluster *bootstrap.Cluster, conn *bootstrap.Connection, pair *rotate.KeyPair) *rotate.Kubeconfig {
	server := conn.Endpoint()
	if cluster.Named {
		server = cluster.Endpoints[0]
	}
	k := &rotate.Kubeconfig{Server: server.URL(), TLSServerName: cluster.TLSServerName, CA: cluster.CA.PEM(), Pair: pair}
	if cluster.ProxyURL != nil {
		k.ProxyURL = cluster.ProxyURL.String()
	}
	return k
}

func (a *Agent) identity(disk *rotate.Disk) *Identity {
	leaf := disk.Pair.Leaf
	return &Identity{
		Node: a.node, Server: disk.Kubeconfig.Server, Kubeconfig: a.config.paths.Kubeconfig, Certificate: disk.PairPath,
		Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), Joined: a.joined,
	}
}

func (a *Agent) tell(n Notice) {
	if a.Report != nil {
		a.Report(n)
	}
}
