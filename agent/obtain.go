package agent

import (
	"context"
	"crypto"
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
	key     []byte // of request, PEM
}

// obtain gets a certificate and commits it. What does not depend on an answer of the network is done while that is
// awaited: the key is made durable during the discovery, and the files around the certificate while the request waits.
func (a *Agent) obtain(ctx context.Context, disk *rotate.Disk) error {
	if err := a.config.missing(); err != nil {
		return err
	}
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

	type stagedFiles struct {
		*rotate.Staged
		err error
	}
	staging := make(chan stagedFiles, 1)
	go func() {
		files, err := a.store.Stage(kubeconfigOf(cluster, conn.Endpoint(), nil))
		staging <- stagedFiles{files, err}
	}()
	pair, err := a.apply(ctx, &app)
	staged := <-staging
	if staged.err != nil {
		return errors.Join(staged.err, err)
	}
	if err == nil {
		err = staged.Commit(pair, time.Now())
	}
	if err := errors.Join(err, staged.Discard()); err != nil {
		return err
	}
	a.forced, a.dead, a.joined, a.waiting = false, "", true, nil
	a.log.Info("the identity is on disk", "node", a.node, "until", pair.Leaf.NotAfter)
	return nil
}

// prepareRequest makes the request with the key of the one that is under way, or with a new key, durable.
func (a *Agent) prepareRequest(app *application) error {
	signer, err := a.pendingKey(app.disk)
	if err != nil {
		return err
	}
	if signer != nil {
		app.key = app.disk.PendingKey
	} else {
		if signer, err = csr.GenerateKey(a.config.algorithm); err != nil {
			return err
		}
		if app.key, err = csr.MarshalKey(signer); err != nil {
			return err
		}
		if err := a.store.SavePendingKey(app.key); err != nil {
			return err
		}
		a.freshKey, a.unsent = false, true
	}
	app.request, err = csr.NewRequest(csr.KubeletClient(a.node, a.config.lifetime), signer)
	return err
}

// pendingKey returns the key of the request that is under way, or nil where there is none to go on with.
func (a *Agent) pendingKey(disk *rotate.Disk) (crypto.Signer, error) {
	if len(disk.PendingKey) == 0 || a.freshKey {
		return nil, nil
	}
	signer, damaged := csr.ParseKey(disk.PendingKey)
	if damaged == nil {
		return signer, nil
	}
	aside, err := a.store.SetAsidePendingKey()
	if err != nil {
		return nil, err
	}
	a.tell(Notice{Text: "the key of the pending request was damaged and is set aside as " + aside})
	return nil, nil
}

// apply gets a certificate that may become the identity.
func (a *Agent) apply(ctx context.Context, app *application) (*rotate.KeyPair, error) {
	chain, err := a.submit(ctx, app)
	if err != nil {
		return nil, err
	}
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
		if a.unauthorized++; a.unauthorized >= unauthorizedLimit {
			return nil, fault.New(fault.Refused, a.config.credential.Remedy(), "%s does not accept %s: it is wrong, expired, deleted or not meant for authentication (401)",
				app.conn.Endpoint(), a.config.credential)
		}
	case errors.Is(err, csr.ErrGone), errors.Is(err, csr.ErrFailed), errors.Is(err, csr.ErrReplaced):
		a.waiting = nil
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
	a.waiting, a.unauthorized = &p, 0
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
	issued, err := csr.Gate(chain, app.request.Template, app.request.Key.Public(), app.cluster.CA.Certificates(), time.Now())
	if errors.Is(err, csr.ErrClock) { // another clock may find it good: its key is kept
		return nil, fault.New(fault.Denied, "check this machine's clock (timedatectl) and run it again, or get another certificate with --force; nothing was written", "%w", err)
	}
	if err != nil {
		return nil, a.endRequest(fault.New(fault.Denied, "look at the cluster's signer: kubectl describe csr "+app.request.Name+"; nothing was written", "%w", err))
	}
	pair, err := rotate.NewKeyPair(issued.Chain, app.key)
	if err != nil {
		return nil, err
	}
	if issued.Anchored && app.disk.Pair == nil {
		return pair, nil
	}
	if _, err := a.authenticate(ctx, app.cluster, pair); err != nil {
		if errors.Is(err, csr.ErrUnauthorized) {
			return nil, a.endRequest(fault.New(fault.Denied, "the signer's CA must be in the API server's --client-ca-file; nothing was written",
				"the issued certificate is refused: the API server does not accept it (401); its issuer is %q", pair.Leaf.Issuer))
		}
		return nil, err
	}
	return pair, nil
}
