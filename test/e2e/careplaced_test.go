package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// pinned trusts the cluster by the hash of its CA, and looks at its bundle all the time.
const pinned = `cluster:
  servers: [$SERVER]
  caCertHashes: ["$PIN"]
trust: {interval: 2s}
`

// TestCAReplaced gives a cluster another CA with no time between in which both are trusted, as one that was set up anew at the
// same address has. The agent believes none of it, says so, and joins again once it has the new CA's hash and a credential.
func TestCAReplaced(t *testing.T) {
	cp := testbed.New(t, testbed.Options{})
	nodejoin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(cp, t.TempDir(), "ca-replaced", nodejoin)
	inBackground(t, func(ctx context.Context) error {
		if err := errors.Join(m.configure(pinned), m.join(ctx), os.Remove(m.file("token"))); err != nil {
			return err
		}
		// Of the same name as the old one, as kubeadm's are.
		next, err := testbed.NewCA(filepath.Join(cp.Dir, "pki", "next"), "kubernetes")
		if err != nil {
			return err
		}
		if err := m.refusesOther(ctx, next); err != nil {
			return err
		}
		if err := errors.Join(m.configure(pinned), m.giveToken(ctx, testbed.TokenOptions{})); err != nil { // the hash is the new CA's now
			return err
		}
		return m.joinsAgain(ctx, next)
	})
}

// refusesOther replaces the CA, and waits until the agent says that it does not trust the server. Its files stay as they are.
func (m *machine) refusesOther(ctx context.Context, next *testbed.CA) error {
	old := m.cp.ServingCA
	before, err := os.ReadFile(m.file("pki", "kubelet-client-current.pem"))
	if err != nil {
		return err
	}
	outage, err := m.cp.Rotate(ctx, testbed.PKI{Issuer: next, Trusted: []*testbed.CA{next}})
	if err != nil {
		return err
	}
	if err := m.await(ctx, "the new CA is not trusted", func(s *status.Status) bool {
		p := s.Certificates[0].Problem
		return p != nil && p.Class == fault.Untrusted && p.Remedy != ""
	}); err != nil {
		return err
	}
	after, err := os.ReadFile(m.file("pki", "kubelet-client-current.pem"))
	if err == nil && !bytes.Equal(before, after) {
		err = errors.New("the certificate on disk is another")
	}
	events, unread := m.answered(ctx)
	for _, e := range events {
		if e.RequestReceivedTimestamp.After(outage.To) {
			err = errors.Join(err, fmt.Errorf("it has asked a server that it does not trust: %+v", e))
		}
	}
	return errors.Join(err, unread, m.bundleBecomes(ctx, old))
}

func (m *machine) joinsAgain(ctx context.Context, next *testbed.CA) error {
	if err := m.await(ctx, "it has joined again", func(s *status.Status) bool {
		return s.Certificates[0].State == status.Valid && s.Problem == nil && s.Ready(time.Now())
	}); err != nil {
		return err
	}
	certificate, err := m.certificate()
	if err == nil {
		err = certificate.CheckSignatureFrom(next.Cert)
	}
	return errors.Join(err, m.bundleBecomes(ctx, next))
}
