package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Trust decides which servers are the cluster's. It may still be open when a connection is made: the handshake then
// stops after the server's certificate and before this side's last message, until Discovery has settled the matter.
// That is what lets the connection that will carry the credential be opened at the same time as the one that asks
// for the CA, with nothing sent on it before its server is verified.
type Trust struct {
	settled chan struct{}
	once    sync.Once
	pool    *x509.CertPool
	err     error
}

// NewTrust returns a Trust that is open.
func NewTrust() *Trust { return &Trust{settled: make(chan struct{})} }

// Settle makes the bundle's certificates the trust anchors, or, with an error, closes the door to everyone. Only the
// first call counts.
func (t *Trust) Settle(ca Bundle, err error) {
	t.once.Do(func() {
		t.pool, t.err = ca.Pool(), err
		close(t.settled)
	})
}

// verifyConnection returns the check that [tls.Config.VerifyConnection] wants, for a server of the given name. It
// stands in the place of the check that crypto/tls does itself, with the same rules (RFC 5280 and RFC 6125 as
// [x509.Certificate.Verify] has them).
func (t *Trust) verifyConnection(ctx context.Context, serverName string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		select {
		case <-t.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if t.err != nil {
			return t.err
		}
		return verifyPeer(state.PeerCertificates, t.pool, serverName)
	}
}

// verifyPeer checks the chain that a server presented. An error is final and says why the server is not trusted.
func verifyPeer(chain []*x509.Certificate, roots *x509.CertPool, serverName string) error {
	if len(chain) == 0 {
		return errors.New("the server presented no certificate")
	}
	now := time.Now()
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: serverName, CurrentTime: now})
	if err == nil {
		return nil
	}
	return fault.New(fault.Untrusted, untrustedRemedy(err), "the certificate of %s is not to be trusted: %w%s", serverName, err, clockHint(err, chain[0], now))
}

func untrustedRemedy(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the server is not of this cluster, or its CA was rotated: compare with `openssl s_client -connect HOST:PORT -showcerts` and get the CA certificate (and its hash) anew from a control-plane node"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "use a name or address that the certificate carries, or give the name with --tls-server-name"
	}
	return "check this machine's clock (timedatectl) and the API server's certificate (kubeadm certs check-expiration)"
}

// clockHint says how far this machine's clock is outside the certificate's life, when that is the trouble.
func clockHint(err error, cert *x509.Certificate, now time.Time) string {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok || invalid.Reason != x509.Expired {
		return ""
	}
	if now.Before(cert.NotBefore) {
		return fmt.Sprintf(" (by this machine's clock it becomes valid in %s)", cert.NotBefore.Sub(now).Round(time.Second))
	}
	return fmt.Sprintf(" (by this machine's clock it expired %s ago)", now.Sub(cert.NotAfter).Round(time.Second))
}
