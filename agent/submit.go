package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

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
