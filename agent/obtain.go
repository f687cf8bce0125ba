package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// way is one way to ask for a certificate: an identity or a credential, and the cluster that it is shown to.
type way struct {
	name    string          // of what is shown, for a person
	remedy  string          // when it is refused
	own     bool            // it is the node's own certificate
	pair    *rotate.KeyPair // own's
	joined  bool            // the cluster is the one that the files on disk name already
	missing error           // why it cannot be tried

	credential   bootstrap.Credential // what is shown; nil for own
	via          *bootstrap.Via       // where it is shown, if not to the cluster; nil otherwise
	connect      func(ctx context.Context) (*bootstrap.Cluster, *bootstrap.Connection, error)
	authenticate func(next http.RoundTripper) http.RoundTripper
}

// forget has a credential that remembers what it was given get another.
func (w *way) forget() {
	if c, ok := w.credential.(interface{ Forget() }); ok {
		c.Forget()
	}
}

// application is one attempt to get a certificate.
type application struct {
	sight   *sight
	way     way
	cluster *bootstrap.Cluster
	conn    *bootstrap.Connection
	request *csr.Request
	unsaved []byte // what must be durable before the request is sent, and is not yet

	anchored bool // what was issued comes from a CA of the cluster's bundle
}

// obtain gets a certificate and commits it. The ways to ask for it are tried in turn, all with the same request; message
// says why it is needed.
func (k *keeper) obtain(ctx context.Context, s *sight, message string) error {
	var failures []failure
	ways := k.role.ways(s)
	if !slices.ContainsFunc(ways, func(w way) bool { return w.missing == nil }) {
		for _, w := range ways {
			failures = append(failures, failure{way: w.name, err: needed(message, w.missing)})
		}
		return allClosed(failures)
	}
	app := application{sight: s}
	preparing := make(chan error, 1)
	go func() { preparing <- k.prepareRequest(&app) }()
	prepared := sync.OnceValue(func() error { return <-preparing })
	defer func() { _ = prepared() }() // whoever writes waits for it
	for _, w := range ways {
		if w.missing != nil {
			failures = append(failures, failure{way: w.name, err: w.missing, untried: true})
			continue
		}
		app.way = w
		err := k.along(ctx, &app, prepared)
		switch {
		case err == nil:
			k.fulfilled()
			return nil
		case ctx.Err() != nil:
			return err
		}
		closed, isOfWay := errors.AsType[wayError](err)
		if !isOfWay {
			return err
		}
		failures = append(failures, failure{way: w.name, err: closed.error})
		if w.own && !fault.IsFinal(closed.error) {
			break // it is the cluster that cannot be reached, and not the certificate that does not work
		}
		k.log.Debug("one way is closed", "credential", w.name, "err", err)
	}
	return allClosed(failures)
}

// wayError is a failure of a way that another way may not have.
type wayError struct{ error }

func (e wayError) Unwrap() error { return e.error }

type failure struct {
	way     string
	err     error
	untried bool // something was missing for it
}

// decisiveOf returns the failure that says what is to be done: what no credential mends, else that of the last way that was
// tried.
func decisiveOf(failures []failure) error {
	var decisive error
	for _, f := range failures {
		if fault.Is(f.err, fault.Untrusted) {
			return f.err
		}
		if !f.untried || decisive == nil {
			decisive = f.err
		}
	}
	return decisive
}

// allClosed makes one error of the failures of all ways. It is final if all are.
func allClosed(failures []failure) error {
	last := map[string]error{} // a credential that was tried at two places has failed once
	var order []string
	for _, f := range failures {
		if last[f.way] == nil {
			order = append(order, f.way)
		}
		last[f.way] = f.err
	}
	if len(order) == 1 {
		return last[order[0]]
	}
	var passing []error
	texts := make([]string, len(order))
	for i, name := range order {
		if !fault.IsFinal(last[name]) {
			passing = append(passing, last[name])
		}
		if texts[i] = last[name].Error(); !strings.Contains(texts[i], name) {
			texts[i] = "with " + name + ": " + texts[i]
		}
	}
	text := strings.Join(texts, "; ")
	if len(passing) != 0 {
		return passingError{text, passing}
	}
	decisive := decisiveOf(failures)
	return fault.New(fault.ClassOf(decisive), fault.Remedy(decisive), "%s", text)
}

// passingError is the error of several ways of which some may open by themselves: it wraps what those said, such as when to
// come back.
type passingError struct {
	text    string
	passing []error
}

func (e passingError) Error() string { return e.text }

func (e passingError) Unwrap() []error { return e.passing }

// along goes one way: it connects, and asks. What does not depend on an answer of the network is done while that is awaited:
// the key is made durable during the discovery, and the files around the certificate while the request waits.
func (k *keeper) along(ctx context.Context, app *application, prepared func() error) error {
	k.beat()
	cluster, conn, err := app.way.connect(ctx)
	if conn != nil {
		defer conn.Close()
	}
	if unprepared := prepared(); unprepared != nil && !fault.IsFinal(err) {
		return unprepared
	}
	if err != nil {
		return wayError{k.orInvalid(ctx, app, conn, err)}
	}
	app.cluster, app.conn = cluster, conn
	k.agent.uses(app.way.name)
	k.log.Info("the cluster is verified", "endpoint", conn.Endpoint().String(), "ca", cluster.CA.String(), "credential", app.way.name)
	k.agent.tell(Notice{Text: verified(app)})
	if app.unsaved != nil {
		if err := k.savePending(app.unsaved); err != nil {
			return err
		}
		app.unsaved = nil
	}
	return k.applyAndCommit(ctx, app)
}

// applyAndCommit gets a certificate that may be the one wanted, and makes it that. Where the files around it cannot be
// written there is no use in waiting for it.
func (k *keeper) applyAndCommit(ctx context.Context, app *application) error {
	waiting, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	staging := make(chan staged, 1)
	go func() {
		files, err := k.role.stage(app)
		if err != nil {
			giveUp(err)
		}
		staging <- files
	}()
	pair, err := k.apply(waiting, app)
	files := <-staging
	if files == nil {
		return context.Cause(waiting)
	}
	if err == nil {
		err = files.Commit(pair, k.agent.now())
	}
	if err := errors.Join(err, files.Discard()); err != nil {
		return err
	}
	if err := k.slot.Remember(func(record *rotate.Record) { record.ObtainedWith = app.way.name }); err != nil {
		return err
	}
	k.log.Info("the certificate is on disk", "node", k.agent.node(), "serial", pair.Leaf.SerialNumber.Text(16), "until", pair.Leaf.NotAfter)
	return nil
}

// prepareRequest makes the request: the one that is under way, or a new one with a new key. The key is durable when it
// returns, unless it would take the place of another: then nothing is written until the cluster has been found.
func (k *keeper) prepareRequest(app *application) error {
	found, template := app.sight.found, app.sight.template
	if len(found.PendingKey) != 0 && !k.wants().freshKey {
		request, err := csr.ResumeRequest(found.PendingKey, template, k.algorithm)
		switch {
		case err == nil:
			app.request = request
			return nil
		case errors.Is(err, csr.ErrOtherWish) && k.agent.daemon: // what is wanted has changed, and what was asked for is of no use any more
			k.log.Info("the request that is under way is given up: something else is wanted now", "err", err)
		case fault.IsFinal(err):
			return err
		default:
			aside, err := k.slot.SetAsidePendingKey()
			if err != nil {
				return err
			}
			found.PendingKey = nil
			k.agent.tell(Notice{Text: "the key of the pending request was damaged and is set aside as " + aside})
		}
	}
	key, err := csr.GenerateKey(k.algorithm)
	if err != nil {
		return err
	}
	request, err := csr.NewRequest(template, key)
	if err != nil {
		return err
	}
	pending, err := request.MarshalPending()
	if err != nil {
		return err
	}
	app.request = request
	if len(found.PendingKey) != 0 {
		app.unsaved = pending
		return nil
	}
	return k.savePending(pending)
}

// savePending makes a new request durable.
func (k *keeper) savePending(pending []byte) error {
	if err := k.slot.SavePendingKey(pending); err != nil {
		return err
	}
	k.mu.Lock()
	k.freshKey = false
	k.mu.Unlock()
	k.unsent = true
	return nil
}

// apply gets a certificate that may become the current one.
func (k *keeper) apply(ctx context.Context, app *application) (*rotate.KeyPair, error) {
	chain, err := k.submit(ctx, app)
	if err != nil {
		return nil, err
	}
	k.waitsFor(nil)
	return k.letIn(ctx, app, chain)
}

// verified says who vouches for the server of a connection.
func verified(app *application) string {
	if via := app.way.via; via != nil && !via.Server.CA.IsZero() {
		return fmt.Sprintf("the proxy %s is verified by %s, and the API servers by %s", app.conn.Endpoint(), via.Server.CA.Subjects(), app.cluster.CA.Subjects())
	}
	return fmt.Sprintf("the API server %s is verified by %s", app.conn.Endpoint(), app.cluster.CA.Subjects())
}

// letIn lets an issued certificate in: through the gate, and then as its role wants it.
func (k *keeper) letIn(ctx context.Context, app *application, chain []byte) (*rotate.KeyPair, error) {
	issued, err := csr.Gate(chain, app.request.Template, app.request.Key.Public(), app.cluster.CA.Certificates(), k.agent.now())
	if err != nil {
		return nil, k.refuse(app, err)
	}
	key, err := csr.MarshalKey(app.request.Key)
	if err != nil {
		return nil, err
	}
	pair, err := rotate.NewKeyPair(issued.Chain, key)
	if err != nil {
		return nil, err
	}
	app.anchored = issued.Anchored
	return pair, k.role.admit(ctx, app, pair)
}

// refuse says why an issued certificate did not pass the gate, and lets go of its key where no other clock can find it
// good.
func (k *keeper) refuse(app *application, err error) error {
	switch {
	case errors.Is(err, csr.ErrExpired) && !k.expired: // issued while this machine was off, say
		k.expired = true
		return k.endRequest(errors.New(err.Error())) // not final: a new request is in order
	case errors.Is(err, csr.ErrClock):
		return fault.New(fault.Denied, "check this machine's clock (timedatectl) and run it again, or get another certificate with --force; nothing was written", "%w", err)
	}
	return k.endRequest(fault.New(fault.Denied, "look at the cluster's signer: kubectl describe csr "+app.request.Name+"; nothing was written", "%w", err))
}

// slotCommit is the commit of a certificate that has nothing around it.
type slotCommit struct{ slot *rotate.Slot }

func (c slotCommit) Commit(pair *rotate.KeyPair, now time.Time) error {
	return c.slot.Commit(pair, now)
}

func (c slotCommit) Discard() error { return nil }
