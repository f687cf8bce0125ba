package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// application is one attempt to get a certificate.
type application struct {
	disk    *rotate.Disk // as it was found
	cluster *bootstrap.Cluster
	conn    *bootstrap.Connection
	request *csr.Request
	unsaved []byte // what must be durable before the request is sent, and is not yet
}

// obtain gets a certificate and commits it. What does not depend on an answer of the network is done while that is
// awaited: the key is made durable during the discovery, and the files around the certificate while the request waits.
func (a *Agent) obtain(ctx context.Context, disk *rotate.Disk) error {
	app := application{disk: disk}
	prepared := make(chan error, 1)
	go func() { prepared <- a.prepareRequest(&app) }()
	cluster, conn, err := bootstrap.Connect(ctx, a.config.discovery, a.log)
	if unprepared := <-prepared; unprepared != nil && !fault.IsFinal(err) {
		err = unprepared
	}
	if conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return err
	}
	app.cluster, app.conn = cluster, conn
	a.log.Info("the cluster is verified", "endpoint", conn.Endpoint().String(), "ca", cluster.CA.String())
	a.tell(Notice{Text: fmt.Sprintf("the API server %s is verified by %s", conn.Endpoint(), cluster.CA.Subjects())})
	if app.unsaved != nil {
		if err := a.savePending(app.unsaved); err != nil {
			return err
		}
	}
	if err := a.applyAndCommit(ctx, &app); err != nil {
		return err
	}
	a.forced, a.dead, a.joined = false, "", true
	return nil
}

// applyAndCommit gets a certificate that may become the identity, and makes it that. Where the files around it cannot
// be written there is no use in waiting for it.
func (a *Agent) applyAndCommit(ctx context.Context, app *application) error {
	waiting, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	staging := make(chan *rotate.Staged, 1)
	go func() {
		staged, err := a.store.Stage(kubeconfigOf(app.cluster, app.conn, nil))
		if err != nil {
			giveUp(err)
		}
		staging <- staged
	}()
	pair, err := a.apply(waiting, app)
	staged := <-staging
	if staged == nil {
		return context.Cause(waiting)
	}
	if err == nil {
		err = staged.Commit(pair, time.Now())
	}
	if err := errors.Join(err, staged.Discard()); err != nil {
		return err
	}
	a.log.Info("the identity is on disk", "node", a.node, "until", pair.Leaf.NotAfter)
	return nil
}

// prepareRequest makes the request: the one that is under way, or a new one with a new key. The key is durable when it
// returns, unless it would take the place of another: then nothing is written until the cluster has been found.
func (a *Agent) prepareRequest(app *application) error {
	template := csr.KubeletClient(a.node, a.config.lifetime)
	if len(app.disk.PendingKey) != 0 && !a.freshKey {
		request, err := csr.ResumeRequest(app.disk.PendingKey, template, a.config.algorithm)
		if err == nil || fault.IsFinal(err) {
			app.request = request
			return err
		}
		aside, err := a.store.SetAsidePendingKey()
		if err != nil {
			return err
		}
		app.disk.PendingKey = nil
		a.tell(Notice{Text: "the key of the pending request was damaged and is set aside as " + aside})
	}
	key, err := csr.GenerateKey(a.config.algorithm)
	if err != nil {
		return err
	}
	if app.request, err = csr.NewRequest(template, key); err != nil {
		return err
	}
	pending, err := app.request.MarshalPending()
	if err != nil {
		return err
	}
	if len(app.disk.PendingKey) != 0 {
		app.unsaved = pending
		return nil
	}
	return a.savePending(pending)
}

// savePending makes a new request durable.
func (a *Agent) savePending(pending []byte) error {
	if err := a.store.SavePendingKey(pending); err != nil {
		return err
	}
	a.freshKey, a.unsent = false, true
	return nil
}

// apply gets a certificate that may become the identity.
func (a *Agent) apply(ctx context.Context, app *application) (*rotate.KeyPair, error) {
	chain, err := a.submit(ctx, app)
	if err != nil {
		return nil, err
	}
	a.waiting = nil
	return a.admit(ctx, app, chain)
}

// submit submits the certificate signing request and follows it to its end.
func (a *Agent) submit(ctx context.Context, app *application) ([]byte, error) {
	client, err := csr.NewClient(app.conn.Endpoint().URL(), a.config.credential.Authenticate(app.conn), a.config.userAgent)
	if err != nil {
		return nil, err
	}
	a.unsent = false
	chain, err := client.Obtain(ctx, app.request, a.reportProgress)
	switch {
	case errors.Is(err, csr.ErrUnauthorized):
		if a.refusals++; a.refusals >= refusalLimit {
			return nil, fault.New(fault.Refused, a.config.credential.Remedy(), "%s does not accept %s: it is wrong, expired, deleted or not meant for authentication (401)",
				app.conn.Endpoint(), a.config.credential)
		}
	case fault.ClassOf(err) == fault.Refused:
		if a.refusals++; a.refusals < refusalLimit {
			return nil, errors.New(err.Error()) // not final yet
		}
	case errors.Is(err, csr.ErrGone), errors.Is(err, csr.ErrFailed), errors.Is(err, csr.ErrReplaced):
		return nil, a.endRequest(err)
	}
	return chain, err
}

// endRequest forgets the key of a request that has ended, so that the next one gets a key of its own.
func (a *Agent) endRequest(err error) error {
	if dropped := a.store.DropPendingKey(); dropped != nil {
		return errors.Join(err, dropped)
	}
	return err
}

func (a *Agent) reportProgress(p csr.Progress) {
	a.waiting, a.refusals = &p, 0
	if p.Approved {
		a.tell(Notice{Waiting: true, Text: "the request " + p.Name + " is approved and waits for the cluster's signer"})
		return
	}
	a.tell(Notice{
		Waiting: true, Text: fmt.Sprintf("the request %s (by %s) waits for approval", p.Name, p.Username),
		Remedy: "kubectl certificate approve " + p.Name,
	})
}

// admit lets an issued certificate in: through the gate, and, where it would replace another or where the bundle cannot
// tell whether the cluster knows its issuer, only after it has authenticated.
func (a *Agent) admit(ctx context.Context, app *application, chain []byte) (*rotate.KeyPair, error) {
	now := time.Now()
	issued, err := csr.Gate(chain, app.request.Template, app.request.Key.Public(), app.cluster.CA.Certificates(), now)
	if err != nil {
		return nil, a.refuse(app, err)
	}
	key, err := csr.MarshalKey(app.request.Key)
	if err != nil {
		return nil, err
	}
	pair, err := rotate.NewKeyPair(issued.Chain, key)
	if err != nil {
		return nil, err
	}
	if issued.Anchored && app.disk.Pair == nil {
		return pair, nil
	}
	a.tell(Notice{Waiting: true, Text: "the request " + app.request.Name + " is issued; authenticating with the certificate before it becomes this node's"})
	if _, err := a.authenticate(ctx, app.cluster, pair); err != nil {
		if errors.Is(err, csr.ErrUnauthorized) {
			return nil, a.endRequest(fault.New(fault.Denied, "the signer's CA must be in the API server's --client-ca-file; nothing was written",
				"the issued certificate is refused: the API server does not accept it (401); its issuer is %q", pair.Leaf.Issuer))
		}
		return nil, err
	}
	return pair, nil
}

// refuse says why an issued certificate did not pass the gate, and lets go of its key where no other clock can find it
// good.
func (a *Agent) refuse(app *application, err error) error {
	switch {
	case errors.Is(err, csr.ErrExpired) && !a.expired: // issued while this machine was off, say
		a.expired = true
		return a.endRequest(errors.New(err.Error())) // not final: a new request is in order
	case errors.Is(err, csr.ErrClock):
		return fault.New(fault.Denied, "check this machine's clock (timedatectl) and run it again, or get another certificate with --force; nothing was written", "%w", err)
	}
	return a.endRequest(fault.New(fault.Denied, "look at the cluster's signer: kubectl describe csr "+app.request.Name+"; nothing was written", "%w", err))
}
