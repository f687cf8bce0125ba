package bootstrap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// The credential of these tests. No run of the characters of its secret turns up by chance in a port, a hash or a
// message.
const (
	testTokenID     = "k3l9m2"
	testTokenSecret = "q7x2w9z4k8v3j6y5"
	testTokenText   = testTokenID + "." + testTokenSecret
)

var testToken = Token{ID: testTokenID, Secret: NewSecret(testTokenSecret)}

// machineCA is the only CA in the trust store of the machine that the tests run on, as crypto/x509 sees it.
var machineCA *authority

// deadProxy is what the environment names as proxy for everything: whoever asks the environment gets nowhere.
const deadProxy = "http://127.0.0.1:1"

// TestMain sets up the environment that crypto/x509 and net/http read once for each process.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bootstrap-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if machineCA, err = makeAuthority("machine"); err != nil {
		panic(err)
	}
	trustStore := filepath.Join(dir, "ca-certificates.crt")
	if err := os.WriteFile(trustStore, machineCA.pem(), 0o600); err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"SSL_CERT_FILE": trustStore, "SSL_CERT_DIR": dir, "HTTPS_PROXY": deadProxy, "HTTP_PROXY": deadProxy, "NO_PROXY": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// authority is a certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string, changes ...func(*x509.Certificate)) *authority {
	tb.Helper()
	a, err := makeAuthority(name, changes...)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func makeAuthority(name string, changes ...func(*x509.Certificate)) (*authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, change := range changes {
		change(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := sign(template, template, key, key)
	return &authority{cert: cert, key: key}, err
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issue makes a serving certificate for all that the servers of these tests are called.
func (a *authority) issue(tb testing.TB, changes ...func(*x509.Certificate)) *tls.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"api.example.com"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4zero},
	}
	for _, change := range changes {
		change(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := sign(template, a.cert, key, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// lasting returns a change that makes a certificate valid from and until so long from now.
func lasting(from, until time.Duration) func(*x509.Certificate) {
	return func(cert *x509.Certificate) {
		cert.NotBefore, cert.NotAfter = time.Now().Add(from), time.Now().Add(until)
	}
}

// nameOnly is a change that leaves a serving certificate without addresses: its server must be called by name.
func nameOnly(cert *x509.Certificate) { cert.IPAddresses = nil }

func (a *authority) pem() []byte { return pemOf("CERTIFICATE", a.cert.Raw) }

func (a *authority) pin() Pin { return PinOf(a.cert) }

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func bundleOf(authorities ...*authority) Bundle {
	var bundle Bundle
	for _, a := range authorities {
		bundle.certs = append(bundle.certs, a.cert)
	}
	return bundle
}

// wantFault expects a fault with no part of a secret in it.
func wantFault(tb testing.TB, err error, class fault.Class, want string) {
	tb.Helper()
	expect.Fault(tb, err, class, want)
	wantSilence(tb, fmt.Sprintf("%v %+v", err, err)+fault.Remedy(err))
}

// wantSilence checks that no part of the tests' secret is in text.
func wantSilence(tb testing.TB, text string) {
	tb.Helper()
	for i := range len(testTokenSecret) - 3 {
		for _, part := range []string{testTokenSecret[i : i+4], strings.ToUpper(testTokenSecret[i : i+4])} {
			if strings.Contains(text, part) {
				tb.Fatalf("a part of the secret (%q) is in %q", part, text)
			}
		}
	}
}

func mustEndpoint(tb testing.TB, text string) Endpoint {
	tb.Helper()
	e, err := ParseEndpoint(text)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func writeFile(tb testing.TB, dir, name, content string, mode os.FileMode) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		tb.Fatal(err)
	}
	return path
}
