package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// Dates of the CAs: they are valid in synctest's year 2000 and in ours.
var (
	longAgo  = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	farAhead = time.Date(2190, 1, 1, 0, 0, 0, 0, time.UTC)
)

// serials are the serial numbers of all that is signed here.
var serials atomic.Int64

// authority is a certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string) *authority {
	tb.Helper()
	a := &authority{key: newKey(tb)}
	a.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: longAgo, NotAfter: farAhead,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	a.cert = a.sign(tb, a.cert, a.key.Public())
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func (a *authority) sign(tb testing.TB, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	tb.Helper()
	template.SerialNumber = big.NewInt(serials.Add(1))
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func (a *authority) pem() []byte { return certPEM(a.cert) }

func (a *authority) bundle(tb testing.TB) bootstrap.Bundle { tb.Helper(); return bundleOf(tb, a) }

func bundleOf(tb testing.TB, authorities ...*authority) bootstrap.Bundle {
	tb.Helper()
	var data []byte
	for _, a := range authorities {
		data = append(data, a.pem()...)
	}
	if len(data) == 0 {
		return bootstrap.Bundle{}
	}
	bundle, err := bootstrap.ParseBundle(data, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return bundle
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// serving returns a certificate for a server on the loopback interface.
func (a *authority) serving(tb testing.TB) *tls.Certificate {
	tb.Helper()
	key := newKey(tb)
	cert := a.sign(tb, &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: longAgo, NotAfter: farAhead,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key.Public())
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// nodeTemplate is what a node's client certificate looks like.
func nodeTemplate(node string, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// pair makes a key and a certificate for it.
func (a *authority) pair(tb testing.TB, template *x509.Certificate) *rotate.KeyPair {
	tb.Helper()
	key := newKey(tb)
	return pairOf(tb, a.sign(tb, template, key.Public()), key)
}

func pairOf(tb testing.TB, cert *x509.Certificate, key *ecdsa.PrivateKey) *rotate.KeyPair {
	tb.Helper()
	pair, err := rotate.NewKeyPair(certPEM(cert), keyPEM(tb, key))
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

func keyPEM(tb testing.TB, key *ecdsa.PrivateKey) []byte {
	tb.Helper()
	data, err := csr.MarshalKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
