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
	"github.com/nodejoin/nodejoin/agent/status"
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

// submit submits the certificate signing request and follows it to its end. A refusal is believed when it was repeated
// over distinct connections. A connection that ends without an answer counts as one where the credential is not valid by its own
// word; it is the end of the way, and may pass, where none of them brought a 401.
func (k *keeper) submit(ctx context.Context, app *application) ([]byte, error) {
	waiting, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer k.wakesUp(giveUp)()
	k.unsent = false
	var pause backoff
	var unknown error // the last 401
	for refusals := 1; ; refusals++ {
		k.beat()
		client, err := csr.NewClient(app.conn.Endpoint().URL(), app.way.authenticate(app.conn), k.agent.config.userAgent)
		if err != nil {
			return nil, err
		}
		chain, err := client.Obtain(waiting, app.request, func(p csr.Progress) {
			refusals, unknown = 0, nil
			k.tellBinding(app, p.Username)
			k.waitsFor(&p)
			if k.changed != nil && k.changed() { // events may have been missed
				giveUp(errAgain)
			}
		})
		refused := errors.Is(err, csr.ErrUnauthorized) || fault.Is(err, fault.Refused)
		if errors.Is(err, csr.ErrUnauthorized) {
			unknown = err
		}
		// An API server ends the HTTP/2 connection of a user whom it does not know, and that may be faster than its answer.
		cutOff := mayPass(err) && waiting.Err() == nil && k.isInvalid(ctx, app)
		if refused = refused || cutOff; cutOff && unknown != nil {
			err = unknown
		}
		switch {
		case refused && refusals >= refusalLimit && !mayPass(err):
			return nil, wayError{k.refused(ctx, app, err)}
		case refused && refusals >= refusalLimit:
			return nil, wayError{k.orInvalid(ctx, app, app.conn, err)}
		case refused:
			app.conn.Next()
			if errors.Is(err, csr.ErrUnauthorized) {
				app.way.forget()
			}
			k.agent.log.Debug("refused, and tried again over another connection", "err", err)
			if pause.wait(waiting, err) == nil {
				continue
			}
		case err == nil:
			return chain, nil
		}
		if cause := context.Cause(waiting); errors.Is(cause, errAgain) && ctx.Err() == nil {
			return nil, errAgain
		}
		return nil, k.failed(app, err)
	}
}

// mayPass reports whether an error is that of a request that got no answer, such as of a connection that broke.
func mayPass(err error) bool {
	return err != nil && !errors.Is(err, csr.ErrUnauthorized) && !fault.HasClass(err) && !isEnd(err) && !isUnproven(err)
}

// orInvalid returns the error of a way, below what its credential says of itself where that is not valid now: it is why,
// however the server ends the connection; and it is to be mended in any case.
func (k *keeper) orInvalid(ctx context.Context, app *application, conn *bootstrap.Connection, err error) error {
	if fault.HasClass(err) || isUnproven(err) {
		return err
	}
	why, early := k.whyInvalid(ctx, app, conn)
	if why == "" {
		return err
	}
	remedy := app.way.remedy
	if early { // as on a machine without a battery, before its clock is set
		remedy = "see whether this machine's clock is right: timedatectl; if it is, " + remedy
	}
	return fault.Passing(fault.Refused, remedy, "%s cannot be used: %s (%w)", app.way.name, why, err)
}

func (k *keeper) isInvalid(ctx context.Context, app *application) bool {
	why, _ := k.whyInvalid(ctx, app, app.conn)
	return why != ""
}

// whyInvalid says why the credential of a way is not valid by what it says of itself, see [bootstrap.WhyInvalid]. conn may be
// nil.
func (k *keeper) whyInvalid(ctx context.Context, app *application, conn *bootstrap.Connection) (why string, early bool) {
	if app.way.credential == nil {
		return "", false
	}
	var ahead time.Duration
	if conn != nil {
		ahead, _ = conn.Skew()
	}
	return bootstrap.WhyInvalid(ctx, app.way.credential, k.agent.now(), ahead)
}

// howToApprove says what ends the wait for approval. A request with a credential for another node is not to be approved
// without a thought: that the approver of the cluster does not do it is what the credential is bound for.
func (a *Agent) howToApprove(p *csr.Progress) string {
	approve := "kubectl certificate approve " + p.Name
	if strings.HasPrefix(p.Username, csr.NodeUser) && p.Username != csr.NodeUser+a.node() {
		return approve + ", if this is no theft of another node's credential"
	}
	return approve
}

// verified says who vouches for the server of a connection.
func verified(app *application) string {
	if via := app.way.via; via != nil && !via.Server.CA.IsZero() {
		return fmt.Sprintf("the proxy %s is verified by %s, and the API servers by %s", app.conn.Endpoint(), via.Server.CA.Subjects(), app.cluster.CA.Subjects())
	}
	return fmt.Sprintf("the API server %s is verified by %s", app.conn.Endpoint(), app.cluster.CA.Subjects())
}

// tellBinding says whether the credential could have made another node of this machine: the built-in approver lets a user
// who is called as a node become that node alone.
func (k *keeper) tellBinding(app *application, username string) {
	switch {
	case app.way.own:
	case username == csr.NodeUser+k.agent.node():
		k.agent.tell(Notice{Text: "the credential is bound to this node: its user is " + username})
	case strings.HasPrefix(username, csr.NodeUser):
		k.agent.tell(Notice{
			Text:   fmt.Sprintf("the credential is bound to another node: its user is %s, and nobody approves by himself that it becomes %s", username, k.agent.node()),
			Remedy: "give the name that it is for with --node-name, or have one made for this node: nodejoin bundle " + k.agent.node(),
		})
	default:
		k.agent.tell(Notice{Text: fmt.Sprintf("the credential is not bound to one node: the user %q may ask to become any (nodejoin bundle %s makes one that can become this node alone)", username, k.agent.node())})
	}
}

// wakesUp has giveUp called at the next wake, also if that came since the pass began. The caller calls over when nothing
// waits any more.
func (k *keeper) wakesUp(giveUp context.CancelCauseFunc) (over func()) {
	k.mu.Lock()
	k.giveUp = giveUp
	k.mu.Unlock()
	select {
	case <-k.woken:
		giveUp(errAgain)
	default:
	}
	return func() {
		k.mu.Lock()
		k.giveUp = nil
		k.mu.Unlock()
	}
}

// isEnd reports whether a request has ended: the next one wants a new key.
func isEnd(err error) bool {
	_, ended := errors.AsType[*csr.EndedError](err)
	return ended
}

// refused says whom the API server does not accept.
func (k *keeper) refused(ctx context.Context, app *application, err error) error {
	if app.way.own && errors.Is(err, csr.ErrUnauthorized) { // whatever was asked for with it
		k.agent.identity.markDead(app.way.pair, err)
		if k != k.agent.identity { // which goes on by itself
			k.agent.identity.wake()
		}
	}
	if errors.Is(err, csr.ErrUnauthorized) {
		return fault.New(fault.Refused, app.way.remedy, "%s does not accept %s: %s (401)", app.conn.Endpoint(), app.way.name, k.whyRefused(ctx, app))
	}
	return err
}

// whyRefused says what may be wrong with a credential that the API server does not know.
func (k *keeper) whyRefused(ctx context.Context, app *application) string {
	why := ""
	if app.way.credential != nil {
		ahead, _ := app.conn.Skew()
		why = bootstrap.WhyRefused(ctx, app.way.credential, k.agent.now(), ahead)
	}
	return orDefault(why, "it is wrong, expired, deleted or not meant for authentication")
}

// failed sorts out how a request failed, other than by a refusal.
func (k *keeper) failed(app *application, err error) error {
	switch {
	case errors.Is(err, csr.ErrDenied):
		if k.agent.daemon {
			return k.rememberDenial(app, err)
		}
		return err
	case isEnd(err):
		return k.endRequest(err)
	case isUnproven(err): // another credential may be at hand
		return wayError{err}
	case fault.IsFinal(err) && fault.ClassOf(err) != fault.Untrusted:
		return err
	}
	return wayError{err}
}

func isUnproven(err error) bool {
	_, unproven := errors.AsType[*bootstrap.ProofError](err)
	return unproven
}

// rememberDenial keeps the daemon, and the next one, from asking again, and fulfils the operator's wish: this is what came
// of it.
func (k *keeper) rememberDenial(app *application, err error) error {
	denial := &rotate.Denial{Request: app.request.Name, Reason: err.Error(), At: k.agent.now().UTC()}
	if end, ok := errors.AsType[*csr.EndedError](err); ok {
		denial.Reason = strings.TrimPrefix(end.Reason+": "+end.Message, ": ")
	}
	if forgotten := k.slot.Remember(func(record *rotate.Record) { record.Denied = denial }); forgotten != nil {
		return errors.Join(err, forgotten)
	}
	k.mu.Lock()
	k.forced = false
	if k.view.State != status.Valid && k.view.State != status.Due {
		k.view.State = status.Denied
	}
	k.mu.Unlock()
	return k.deniedUntil(denial)
}

// spentError is a failure that has cost a request.
type spentError struct{ error }

func (e spentError) Unwrap() error { return e.error }

func isSpent(err error) bool {
	_, spent := errors.AsType[spentError](err)
	return spent
}

// endRequest forgets the key of a request that has ended, so that the next one gets a key of its own.
func (k *keeper) endRequest(err error) error {
	if dropped := k.slot.DropPendingKey(); dropped != nil {
		return errors.Join(err, dropped)
	}
	return spentError{err}
}

// waitsFor notes what the request waits for; nil when it waits no longer. A request that is found again is told once: it
// has waited all the time.
func (k *keeper) waitsFor(p *csr.Progress) {
	k.mu.Lock()
	k.view.Beat = time.Now()
	if p == nil {
		k.waiting, k.view.Request = nil, nil
		k.mu.Unlock()
		return
	}
	told := k.told.Name == p.Name && k.told.Approved == p.Approved
	if !told {
		k.told, k.since = *p, k.agent.now()
		if !p.Approved && p.Created.Before(k.since) {
			k.since = p.Created // by a run before this one, perhaps
		}
	}
	k.waiting, k.view.Problem = p, nil
	k.view.Request = &status.Request{Name: p.Name, SignerName: p.SignerName, Username: p.Username, Created: p.Created, Since: k.since, Approved: p.Approved}
	k.mu.Unlock()
	text, remedy := "the request "+p.Name+" is approved and waits for the cluster's signer", ""
	if !p.Approved {
		text, remedy = fmt.Sprintf("the request %s (by %s) waits for approval", p.Name, p.Username), k.agent.howToApprove(p)
	}
	if k.agent.tell(Notice{Waiting: true, Text: text, Remedy: remedy}); told {
		return
	}
	k.agent.changed()
	if p.Approved {
		k.log.Info("the request is approved and waits for the signer", "request", p.Name)
	} else {
		k.log.Info("the request waits for approval", "request", p.Name, "username", p.Username, "remedy", remedy)
	}
}

func (k *keeper) waitingFor() *csr.Progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting
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
