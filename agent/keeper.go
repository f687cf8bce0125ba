package agent

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// lateAfter is the part of its lifetime after which a certificate that the kubelet is to rotate is rotated by the agent:
// the kubelet has let its own time (70 to 90 %) go by.
const lateAfter = 0.95

// idleAfter is how long a keeper must have nothing to do for it to be worth giving memory back.
const idleAfter = 30 * time.Second

// leastPass is the least time between the beginnings of two passes, however often files change.
const leastPass = 500 * time.Millisecond

// mostRestored is how often a certificate is put back without being found in order afterwards.
const mostRestored = 10

// reviveAfter is when a certificate that the API server did not accept is tried again, if there is no other.
const reviveAfter = 5 * time.Minute

// keeper keeps one certificate: it goes round the loop that package agent's doc shows. All certificates are kept by the
// same steps; what is the node identity's alone is in its role.
type keeper struct {
	agent     *Agent
	name      string
	slot      *rotate.Slot
	algorithm csr.Algorithm
	role      role
	log       *slog.Logger

	unsent   bool          // the pending key was made by this run and no request was sent for it
	needed   string        // why a certificate was last said to be needed; "" after it was obtained
	expired  bool          // a certificate was issued that had expired already
	restored int           // how often a pair was put back since one was last found in order
	askAt    time.Time     // when what was denied is asked for again; zero if that was not said in this pass
	proved   bool          // the identity was just seen to work, which is not remembered yet
	last     *rotate.Found // of the pass before; nil before the first
	woken    chan struct{} // has something in it when there may be something new to see
	changed  func() bool   // whether there is, since the pass began; nil where there is one pass only

	heldTill time.Time // a certificate that is due is not replaced before, by the monotonic clock

	mu       sync.Mutex // guards what follows
	forced   bool       // the operator's wish for a new certificate is still to be fulfilled
	freshKey bool       // and it wants a new key, whatever request is under way
	pardoned bool       // what was denied is to be asked for again
	dead     string     // fingerprint of a certificate that the API server does not know any more
	deadAt   time.Time  // since when
	suspect  bool       // the certificate is to be proved again
	waiting  *csr.Progress
	told     csr.Progress            // what was last said to be waited for
	since    time.Time               // since when
	failing  bool                    // the last pass failed, or ended in a wait after one that did
	due      time.Time               // when the certificate that is in order is looked at again
	giveUp   context.CancelCauseFunc // ends the wait for a request; nil where none is waited for
	view     status.Certificate
}

// role is what sets the node's identity apart from its other certificates.
type role struct {
	load   func() (*sight, error)                                     // reads the disk
	ways   func(*sight) []way                                         // who may ask for the certificate, best first
	stage  func(*application) (staged, error)                         // prepares the commit
	admit  func(context.Context, *application, *rotate.KeyPair) error // lets in what has passed the gate
	settle func(context.Context, *sight) (func(*rotate.State), error) // makes sure that it can be used, and says what to remember
	name   func(context.Context) (renamed bool, err error)            // settles whose certificate is asked for, where there is none; nil where that is known
	moved  func() bool                                                // whether what is wanted has changed since load; nil where it cannot
}

// staged is a commit that is prepared: see [rotate.Staged].
type staged interface {
	Commit(pair *rotate.KeyPair, now time.Time) error
	Discard() error
}

// sight is what a pass sees.
type sight struct {
	found    *rotate.Found
	disk     *rotate.Disk // the node identity's alone
	template csr.Template // what is wanted
	mode     Rotation     // who rotates it

	spareNames bool // a certificate with more names than are wanted is as good
}

func newKeeper(a *Agent, name string, slot *rotate.Slot, algorithm csr.Algorithm) *keeper {
	return &keeper{
		agent: a, name: name, slot: slot, algorithm: algorithm, log: a.log.With("certificate", name),
		woken: make(chan struct{}, 1), view: status.Certificate{Name: name, Beat: time.Now()},
	}
}

// errAgain ends a pass that changed what it had seen: the next one is due at once.
var errAgain = errors.New("the disk was changed")

// pass goes once round the loop.
func (k *keeper) pass(ctx context.Context) error {
	s, err := k.look(ctx)
	if err != nil {
		return err
	}
	reason, message := k.judge(s)
	k.see(s, reason, message)
	if k.last == nil && reason == "" && k.agent.daemon {
		k.resume(s)
	}
	if reason.Usable() {
		k.last, k.restored = s.found, 0
	}
	switch dead := k.isDead(s.found.Pair); {
	case k.wants().forced:
		reason, message = "", "a new certificate is asked for"
	case reason.Usable() && !dead:
		err := k.settle(ctx, s, reason == "")
		if err == nil {
			k.see(s, reason, message) // it was proved, perhaps
		}
		cutOff := k.agent.daemon && fault.Is(err, fault.Untrusted)
		if err == nil && (reason == "" || time.Now().Before(k.heldTill)) || err != nil && !cutOff {
			return err
		}
		if cutOff {
			message = "the CA bundle on disk does not vouch for the API server" // which may be found, and trusted, in another way: by a pin, say
		}
	case reason == "":
		message = fmt.Sprintf("the API server does not accept this node's certificate (serial %s)", s.found.Pair.Leaf.SerialNumber.Text(16))
	case s.found.Pair == nil && k.restore(s):
		return errAgain
	}
	if err := k.heedDenial(s.found); err != nil {
		return err
	}
	if k.role.name != nil && s.found.Pair == nil {
		if renamed, err := k.role.name(ctx); renamed || err != nil {
			return cmp.Or(err, errAgain)
		}
	}
	if k.news(message) {
		k.log.Info("a certificate is needed", "node", k.agent.node(), "reason", string(reason), "message", message)
	}
	if err := k.obtain(ctx, s, message); err != nil {
		k.missed(err)
		return err
	}
	if s, err = k.role.load(); err != nil {
		return err
	}
	if s.found.Pair == nil {
		return errAgain // it went as soon as it had come
	}
	k.see(s, "", "")
	k.last = s.found
	return k.settle(ctx, s, true)
}

// news reports whether a certificate was needed for another reason, or not at all, when this was asked last.
func (k *keeper) news(message string) bool {
	before := k.needed
	k.needed = message
	return message != before
}

// look reads the disk. A kubelet that rotates by itself leaves no link for an instant when it swaps it: what is missing
// then is looked at again before it is believed.
func (k *keeper) look(ctx context.Context) (*sight, error) {
	s, err := k.role.load()
	if err != nil || s.found.Pair != nil || s.mode != RotationKubelet || k.last == nil || k.last.Pair == nil {
		return s, err
	}
	if k.pause(ctx, time.Second); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return k.role.load()
}

// judge decides whether the certificate that was found is to be replaced.
func (k *keeper) judge(s *sight) (rotate.Reason, string) {
	want := wantedOf(&s.template, k.rotateAt(s))
	want.SpareNames = s.spareNames
	return rotate.WhyReplace(s.found, want, k.agent.now())
}

func wantedOf(t *csr.Template, rotateAt time.Time) rotate.Wanted {
	return rotate.Wanted{
		CommonName: t.CommonName, Organization: t.Organization,
		DNSNames: t.DNSNames, IPAddresses: t.IPAddresses, URIs: t.URIs, RotateAt: rotateAt,
	}
}

// rotateAt returns the deadline of the certificate on disk; zero where none has been drawn yet.
func (k *keeper) rotateAt(s *sight) time.Time {
	pair, record := s.found.Pair, s.found.Record
	switch {
	case pair == nil:
		return time.Time{}
	case s.mode == RotationKubelet:
		return rotate.Window{Min: lateAfter, Max: lateAfter}.Draw(pair.Leaf, 0)
	case record.RotateOf == pair.Fingerprint() && k.fits(record.RotateAt, pair.Leaf):
		return record.RotateAt
	}
	return time.Time{}
}

// fits reports whether a deadline that was drawn earlier lies in the window as it is configured now.
func (k *keeper) fits(deadline time.Time, leaf *x509.Certificate) bool {
	window := k.agent.config.window
	return !deadline.Before(window.Draw(leaf, 0)) && !deadline.After(window.Draw(leaf, 1))
}

// settle makes sure that the certificate on disk can be used, and remembers that, with the deadline of its rotation.
// done says that no other is wanted now.
func (k *keeper) settle(ctx context.Context, s *sight, done bool) error {
	k.beat()
	more, err := k.role.settle(ctx, s)
	if err != nil {
		return err
	}
	if s.found.StaleCopy {
		k.log.Warn("a copy of the certificate was deleted or changed and is written anew", "certificateFile", k.slot.CertificateFile, "privateKeyFile", k.slot.PrivateKeyFile)
		if err := k.slot.WriteCopies(s.found.Pair); err != nil {
			return err
		}
	}
	pair, deadline := s.found.Pair, k.rotateAt(s)
	if deadline.IsZero() {
		deadline = k.agent.config.window.Draw(pair.Leaf, rand.Float64()) //nolint:gosec // jitter is no secret
	}
	if done && len(s.found.PendingKey) != 0 {
		if err := k.slot.DropPendingKey(); err != nil {
			return err
		}
	}
	// Last, since a run that finds it looks no further.
	err = k.agent.store.Remember(func(state *rotate.State) {
		record := state.Certificates[k.slot.Name]
		if done {
			record.Denied = nil
		}
		if s.mode == RotationAgent {
			record.RotateAt, record.RotateOf = deadline, pair.Fingerprint()
		}
		state.Certificates[k.slot.Name] = record
		if more != nil {
			more(state)
		}
	})
	if err != nil {
		return err
	}
	if s.mode == RotationAgent {
		s.found.Record.RotateAt, s.found.Record.RotateOf = deadline, pair.Fingerprint()
	}
	k.mu.Lock()
	if k.due = deadline; s.mode == RotationAgent {
		k.view.RotateAt = deadline
	}
	k.mu.Unlock()
	k.agent.changed()
	if k.proved {
		k.proved = false
		k.agent.wakeOthers()
	}
	k.agent.occurs(occasion{what: k.name, digest: pair.Fingerprint(), change: rotate.Change{
		Certificate: s.found.PairPath, Serial: pair.Leaf.SerialNumber.Text(16), NotAfter: pair.Leaf.NotAfter,
	}})
	return nil
}

// restore puts a pair that is still at hand in the place of one that was deleted or damaged: the one of the pass before,
// or an older file in the directory. It reports whether there was one.
func (k *keeper) restore(s *sight) bool {
	candidates := []*rotate.KeyPair{s.found.Spare}
	if k.last != nil {
		candidates = []*rotate.KeyPair{k.last.Pair, s.found.Spare}
	}
	for _, pair := range candidates {
		if pair == nil || k.isDead(pair) {
			continue
		}
		if reason, _ := rotate.WhyReplace(&rotate.Found{Pair: pair}, wantedOf(&s.template, time.Time{}), k.agent.now()); !reason.Usable() {
			continue
		}
		if k.restored >= mostRestored {
			return false // it was of no use
		}
		k.restored++
		if err := k.slot.Commit(pair, k.agent.now()); err != nil {
			k.log.Warn("a certificate that is still at hand cannot be put back", "err", err)
			return false
		}
		k.log.Warn("the certificate was deleted or damaged and has been put back", "path", s.found.PairPath, "serial", pair.Leaf.SerialNumber.Text(16))
		return true
	}
	return false
}

// heedDenial keeps a daemon from asking again for what an approver has denied.
func (k *keeper) heedDenial(found *rotate.Found) error {
	denied, pardoned := found.Record.Denied, k.takePardon()
	if denied == nil || !k.agent.daemon || k.wants().forced {
		return nil
	}
	pause, passed := k.agent.config.deniedPause, k.agent.now().Sub(denied.At) // less than nothing after the clock was set back
	if waits := pause == 0 || passed >= 0 && passed < pause; waits && !pardoned {
		return k.deniedUntil(denied)
	}
	// The request with its key first: what is left after a crash is heeded still.
	if err := k.slot.DropPendingKey(); err != nil {
		return err
	}
	if err := k.slot.Remember(func(record *rotate.Record) { record.Denied = nil }); err != nil {
		return err
	}
	return errAgain
}

// pardon has what was denied asked for again.
func (k *keeper) pardon() {
	k.mu.Lock()
	k.pardoned = true
	k.mu.Unlock()
}

func (k *keeper) takePardon() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pardoned := k.pardoned
	k.pardoned = false
	return pardoned
}

// deniedUntil returns the error of a denial: what was said, and when the same is asked for again.
func (k *keeper) deniedUntil(denied *rotate.Denial) error {
	again := "not asked for again before an operator says so"
	if pause := k.agent.config.deniedPause; pause != 0 {
		k.askAt = denied.At.Add(pause)
		again = "asked for again at " + k.askAt.UTC().Format(time.RFC3339)
	}
	return fault.New(fault.Denied, "when the reason is gone, ask again with a new key: nodejoin join --force",
		"%w: %s: %s; %s", csr.ErrDenied, denied.Request, denied.Reason, again)
}

// ask makes a request with a new key, whatever there is.
func (k *keeper) ask() {
	k.mu.Lock()
	k.forced, k.freshKey = true, true
	k.mu.Unlock()
}

// resume goes on with what an operator asked for before this agent started: nobody else leaves the key of a request beside a
// certificate that needs no other. The key of that certificate itself is what a crash has left.
func (k *keeper) resume(s *sight) {
	request, err := csr.ResumeRequest(s.found.PendingKey, s.template, k.algorithm)
	if err != nil { // there is none, or it is of no use any more
		return
	}
	if public, ok := request.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(s.found.Pair.Leaf.PublicKey) {
		return
	}
	k.log.Info("the request for a new certificate is still under way", "request", request.Name)
	k.mu.Lock()
	k.forced = true
	k.mu.Unlock()
}

// wishes are what the operator asked for.
type wishes struct{ forced, freshKey bool }

func (k *keeper) wants() wishes {
	k.mu.Lock()
	defer k.mu.Unlock()
	return wishes{k.forced, k.freshKey}
}

// missed notes that an attempt to obtain a certificate failed.
func (k *keeper) missed(err error) {
	if errors.Is(err, errAgain) || isWait(err) {
		return
	}
	k.mu.Lock()
	k.view.Failures++
	k.mu.Unlock()
}

// isWait reports whether an attempt was not made yet, which is no failure.
func isWait(err error) bool { return errors.Is(err, errNoIdentity) || errors.Is(err, errMoving) }

// fulfilled notes that a certificate was obtained.
func (k *keeper) fulfilled() {
	k.mu.Lock()
	k.forced, k.freshKey, k.dead, k.expired = false, false, "", false
	k.view.Rotations++
	k.needed = ""
	k.mu.Unlock()
}

// markDead remembers a certificate that the API server does not know any more: the next pass asks for another.
func (k *keeper) markDead(pair *rotate.KeyPair, err error) {
	if pair == nil || !errors.Is(err, csr.ErrUnauthorized) {
		return
	}
	fingerprint := pair.Fingerprint()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dead, k.deadAt = fingerprint, k.agent.now()
}

// revive gives a certificate that was found dead another chance after a while, as long as nothing better was obtained:
// it was the API server that did not know its CA, perhaps.
func (k *keeper) revive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if since := k.agent.now().Sub(k.deadAt); k.dead != "" && (since >= reviveAfter || since < 0) {
		k.dead, k.suspect = "", true
	}
}

// doubt has the certificate proved again over the network.
func (k *keeper) doubt() {
	k.mu.Lock()
	k.suspect = true
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) isSuspect() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.suspect
}

func (k *keeper) clearDoubt() {
	k.mu.Lock()
	k.suspect = false
	k.mu.Unlock()
}

func (k *keeper) isDead(pair *rotate.KeyPair) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return pair != nil && k.dead != "" && pair.Fingerprint() == k.dead
}

// wake tells the keeper that there may be something new to see: a wait, for a request or for time to pass, ends.
func (k *keeper) wake() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
	k.mu.Lock()
	giveUp := k.giveUp
	k.mu.Unlock()
	if giveUp != nil {
		giveUp(errAgain)
	}
}

// run keeps the certificate until ctx ends.
func (k *keeper) run(ctx context.Context) {
	ctx = bootstrap.WithProgress(ctx, k.beat)
	pause, spent := backoff{}, backoff{first: time.Second, longest: time.Hour}
	for ctx.Err() == nil {
		k.beat()
		k.revive()
		begun := time.Now()
		if k.changed != nil && k.changed() { // somebody acts here: what he did in the cluster is known to every API server a little later
			pause.pause = 0
		}
		k.begin()
		err := k.pass(ctx)
		var until time.Time
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errAgain):
			k.pause(ctx, time.Until(begun.Add(leastPass)))
			continue
		case err == nil && k.deadline().After(k.agent.now()):
			pause.pause, spent.pause, k.heldTill = 0, 0, time.Time{}
			until = k.deadline()
		case err == nil: // what is in use is due by this clock, even if it was just issued
			if !time.Now().Before(k.heldTill) {
				k.heldTill = time.Now().Add(spent.next(nil))
			}
			until = k.agent.now().Add(time.Until(k.heldTill))
		case isSpent(err):
			until = k.agent.now().Add(spent.next(err))
		default:
			pause.first, pause.longest = pausesAfter(err)
			until = k.agent.now().Add(pause.next(err))
			if !k.askAt.IsZero() && k.askAt.Before(until) {
				until = k.askAt
			}
		}
		k.report(err)
		k.sleep(ctx, until)
		k.pause(ctx, time.Until(begun.Add(leastPass)))
	}
}

// begin begins a pass: whatever changes from here on is looked at in the next.
func (k *keeper) begin() {
	select {
	case <-k.woken:
	default:
	}
	k.askAt = time.Time{}
	paths, wasSet := k.agent.watched(), k.agent.watchClock()
	seen := rotate.LookAt(paths)
	k.changed = func() bool {
		return wasSet() || len(k.agent.strangers(seen.Changed(rotate.LookAt(paths)))) != 0 || k.role.moved != nil && k.role.moved()
	}
}

// pause waits.
func (k *keeper) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// pausesAfter returns how long to wait at first and at most after a failure. One that only somebody else's act can mend
// is looked at less often: whoever acts on this machine is noticed at once, and whoever acts on the cluster soon.
func pausesAfter(err error) (first, longest time.Duration) {
	if fault.IsFinal(err) {
		return 5 * time.Second, time.Minute
	}
	return firstPause, longPause
}

func (k *keeper) deadline() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.due
}

// sleep waits until a wall-clock time, until it is woken or until ctx ends. At least once a minute it looks at the clock,
// which may have been set, and at the files, whose events may have been missed.
func (k *keeper) sleep(ctx context.Context, until time.Time) {
	if until.Sub(k.agent.now()) > idleAfter {
		k.agent.rest()
	}
	for {
		k.beat()
		timer := time.NewTimer(k.agent.untilCheck(until))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.woken:
			timer.Stop()
			return
		case <-timer.C:
		}
		if !until.IsZero() && !k.agent.now().Before(until) || k.changed() {
			return
		}
	}
}

// untilCheck returns how long to sleep on the way to a wall-clock time: a minute at most. All who sleep for long wake together, so that
// an idle machine is disturbed once.
func (a *Agent) untilCheck(until time.Time) time.Duration {
	d := rotate.Wake(a.now(), until)
	if d < rotate.CheckEvery {
		return d
	}
	return d - time.Since(a.begun)%rotate.CheckEvery
}
