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
	disk     *rotate.Disk // as it was found
	cluster  *bootstrap.Cluster
	conn     *bootstrap.Connection
	template csr.Template
	key      preparedKey
}

// obtain gets a certificate and commits it.
func (a *Agent) obtain(ctx context.Context, disk *rotate.Disk) error {
	if err := a.config.missing(); err != nil {
		return err
	}
	app := application{disk: disk, template: csr.KubeletClient(a.node, a.config.lifetime)}
	// The key is made durable while the cluster is being discovered: neither waits for the other.
	prepared := make(chan preparedKey, 1)
	go func() { prepared <- a.prepareKey(disk) }()
	var err error
	app.cluster, app.conn, err = bootstrap.Connect(ctx, a.config.discovery, a.config.proxy, a.config.serverName, a.log)
	app.key = <-prepared
	if err != nil {
		return err
	}
	defer app.conn.Close()
	if app.key.err != nil {
		return app.key.err
	}
	a.log.Info("the cluster is verified", "endpoint", app.conn.Endpoint().String(), "ca", app.cluster.CA.String())

	chain, err := a.request(ctx, &app)
	if err != nil {
		return err
	}
	pair, err := a.admit(ctx, &app, chain)
	if err != nil {
		return err
	}
	if err := a.store.Commit(kubeconfigOf(app.cluster, app.conn.Endpoint(), pair), time.Now()); err != nil {
		return err
	}
	a.forced, a.dead, a.joined, a.waiting = false, "", true, nil
	a.log.Info("the identity is on disk", "node", a.node, "until", pair.Leaf.NotAfter)
	return nil
}

type preparedKey struct {
	signer crypto.Signer
	pem    []byte
	err    error
}

// prepareKey returns the key of the request that is under way, or a new one, durable.
func (a *Agent) prepareKey(disk *rotate.Disk) preparedKey {
	if len(disk.PendingKey) != 0 && !a.freshKey {
		signer, err := csr.ParseKey(disk.PendingKey)
		if err == nil {
			return preparedKey{signer: signer, pem: disk.PendingKey}
		}
		aside, err := a.store.SetAsidePendingKey()
		if err != nil {
			return preparedKey{err: err}
		}
		a.tell(Notice{Text: "the key of the pending request was damaged and is set aside as " + aside})
	}
	signer, err := csr.GenerateKey(a.config.algorithm)
	if err != nil {
		return preparedKey{err: err}
	}
	data, err := csr.MarshalKey(signer)
	if err != nil {
		return preparedKey{err: err}
	}
	if err := a.store.SavePendingKey(data); err != nil {
		return preparedKey{err: err}
	}
	a.freshKey = false
	return preparedKey{signer: signer, pem: data}
}

// request submits the certificate signing request and follows it to its end.
func (a *Agent) request(ctx context.Context, app *application) ([]byte, error) {
	client, err := csr.NewClient(app.conn.Endpoint().URL(), a.config.credential.Authenticate(app.conn), a.config.userAgent)
	if err != nil {
		return nil, err
	}
	request, err := csr.NewRequest(app.template, app.key.signer)
	if err != nil {
		return nil, err
	}
	chain, err := client.Obtain(ctx, request, a.reportProgress)
	if !errors.Is(err, csr.ErrUnauthorized) {
		a.unauthorized = 0
	}
	switch {
	case err == nil:
		return chain, nil
	case errors.Is(err, csr.ErrUnauthorized):
		if a.unauthorized++; a.unauthorized >= unauthorizedLimit {
			return nil, fault.New(fault.Refused, a.config.credential.Remedy(), "%s does not accept %s: it is wrong, expired or deleted (401)", app.conn.Endpoint(), a.config.credential)
		}
		return nil, err
	case errors.Is(err, csr.ErrGone), errors.Is(err, csr.ErrFailed), errors.Is(err, csr.ErrReplaced):
		a.waiting = nil
		return nil, a.endRequest(err)
	}
	return nil, err
}

// endRequest forgets the key of a request that has ended, so that the next one gets a key of its own.
func (a *Agent) endRequest(err error) error {
	if dropped := a.store.DropPendingKey(); dropped != nil {
		return errors.Join(err, dropped)
	}
	return err
}

func (a *Agent) reportProgress(p csr.Progress) {
	a.waiting = &p
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
	issued, err := csr.Gate(chain, app.template, app.key.signer.Public(), app.cluster.CA.Certificates(), time.Now())
	if err != nil {
		if errors.Is(err, csr.ErrClock) {
			return nil, err // another clock may find it good: its key is kept
		}
		return nil, a.endRequest(err)
	}
	pair, err := rotate.NewKeyPair(issued.Chain, app.key.pem)
	if err != nil {
		return nil, err
	}
	if issued.Anchored && app.disk.Pair == nil {
		return pair, nil
	}
	if _, err := a.authenticate(ctx, app.cluster, pair); err != nil {
		if errors.Is(err, csr.ErrUnauthorized) {
			return nil, a.endRequest(fault.New(fault.Denied, "the signer's CA must be in the API server's --client-ca-file; nothing was written",
				"the issued certificate is refused: the API server does not accept it, and its issuer %q is not in the cluster's CA bundle", pair.Leaf.Issuer))
		}
		return nil, err
	}
	return pair, nil
}
