package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
)

// testTime is when the gate looks at certificates.
var testTime = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

var testTemplate = KubeletClient("node-1", 0)

// customTemplate is for a signer that is not Kubernetes' own.
var customTemplate = Template{
	SignerName: "example.com/serving", CommonName: "metrics", Organization: []string{"example"},
	DNSNames: []string{"metrics.example.com"}, URIs: []string{"spiffe://example.com/metrics"},
	Usages: []certificates.KeyUsage{"digital signature", "server auth"},
}

// servingTemplate is that of a kubelet's serving certificate.
func servingTemplate(tb testing.TB) Template {
	tb.Helper()
	template, err := KubeletServing("node-1", []string{"node-1", "node-1.example.com"}, addresses("192.0.2.1", "2001:db8::1"), 0)
	if err != nil {
		tb.Fatal(err)
	}
	return template
}

// keyOf returns the key that belongs to a name, always the same: a fuzzer's workers are processes of their own.
func keyOf(tb testing.TB, name string) *ecdsa.PrivateKey {
	tb.Helper()
	scalar := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// authority is a certificate authority. Its key follows from the name of the key alone.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes a CA that is signed by parent, or by itself.
func newAuthority(tb testing.TB, subject, keyName string, parent *authority) *authority {
	tb.Helper()
	a := &authority{key: keyOf(tb, keyName)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: subject},
		NotBefore:    testTime.AddDate(-1, 0, 0), NotAfter: testTime.AddDate(9, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	signer := &authority{cert: template, key: a.key}
	if parent != nil {
		signer = parent
	}
	a.cert = signer.sign(tb, template, a.key.Public())
	return a
}

func (a *authority) sign(tb testing.TB, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	tb.Helper()
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

// issue makes the certificate that testTemplate asks for, with changes.
func (a *authority) issue(tb testing.TB, public crypto.PublicKey, changes ...func(*x509.Certificate)) *x509.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: testTemplate.CommonName, Organization: testTemplate.Organization},
		NotBefore:    testTime.Add(-5 * time.Minute), NotAfter: testTime.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, change := range changes {
		change(template)
	}
	return a.sign(tb, template, public)
}

// fulfil signs what a request asks for, as the cluster's signer does it: from what crypto/x509 reads in the request
// (Sign in k8s.io/kubernetes/pkg/controller/certificates/authority).
func (a *authority) fulfil(tb testing.TB, r *Request, changes ...func(*x509.Certificate)) *x509.Certificate {
	tb.Helper()
	block, _ := pem.Decode(r.object().Spec.Request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: asked.Subject,
		DNSNames: asked.DNSNames, IPAddresses: asked.IPAddresses, EmailAddresses: asked.EmailAddresses, URIs: asked.URIs,
		NotBefore: testTime.Add(-5 * time.Minute), NotAfter: testTime.Add(time.Hour), BasicConstraintsValid: true,
	}
	for _, usage := range r.object().Spec.Usages {
		template.KeyUsage |= keyUsages[usage]
		if extended, ok := extendedUsages[usage]; ok && !slices.Contains(template.ExtKeyUsage, extended) {
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	for _, change := range changes {
		change(template)
	}
	return a.sign(tb, template, asked.PublicKey)
}

func pemOf(certs ...*x509.Certificate) []byte {
	var all []byte
	for _, cert := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return all
}
