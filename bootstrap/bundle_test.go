package bootstrap

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

func TestParseBundle(t *testing.T) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	expired := newAuthority(t, "old", lasting(-48*time.Hour, -24*time.Hour))
	future := newAuthority(t, "future", lasting(time.Hour, 2*time.Hour))
	for _, test := range []struct {
		name string
		data []byte
		want Bundle
	}{
		{"one", a.pem(), bundleOf(a)},
		{"two, in order", join(b.pem(), a.pem()), bundleOf(b, a)},
		{"with text around them, as openssl writes it", join([]byte("Certificate:\n    Data:\n"), a.pem(), []byte("\n# next\n"), b.pem(), []byte("end")), bundleOf(a, b)},
		{"with CRLF", bytes.ReplaceAll(a.pem(), []byte("\n"), []byte("\r\n")), bundleOf(a)},
		{"expired beside live", join(expired.pem(), a.pem()), bundleOf(a)},
		{"not yet valid", future.pem(), bundleOf(future)}, // the clock may be behind; the handshake decides
		{"a hundred", bytes.Repeat(a.pem(), 100), Bundle{slices.Repeat([]*x509.Certificate{a.cert}, 100)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseBundle(test.data, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(test.want.PEM()), string(got.PEM())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.IsZero() || len(got.Certificates()) != len(test.want.certs) {
				t.Errorf("%d certificates, want %d", len(got.Certificates()), len(test.want.certs))
			}
			pool := x509.NewCertPool()
			for _, cert := range test.want.certs {
				pool.AddCert(cert)
			}
			if !pool.Equal(got.Pool()) {
				t.Error("the pool does not hold the bundle's certificates")
			}
		})
	}
}

// badBundles returns what ParseBundle must refuse.
func badBundles(tb testing.TB) []struct {
	name string
	data []byte
	want string
} {
	tb.Helper()
	ca := newAuthority(tb, "ca")
	expired := newAuthority(tb, "old", lasting(-48*time.Hour, -24*time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	ecKey, err := x509.MarshalECPrivateKey(ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf := pemOf("CERTIFICATE", ca.issue(tb).Leaf.Raw)
	noConstraints := newAuthority(tb, "version 1", func(cert *x509.Certificate) { cert.BasicConstraintsValid, cert.IsCA = false, false })
	return []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "no PEM-encoded certificate"},
		{"garbage", []byte("garbage\x00\xff"), "no PEM-encoded certificate"},
		{"DER", ca.cert.Raw, "no PEM-encoded certificate"},
		{"a path", []byte("/etc/kubernetes/pki/ca.crt\n"), "no PEM-encoded certificate"},
		{"a key", pemOf("PRIVATE KEY", key), "entry 1 of the CA bundle: it is a private key"},
		{"a key behind a certificate", join(ca.pem(), pemOf("EC PRIVATE KEY", ecKey)), "entry 2 of the CA bundle: it is a private key"},
		{"a key in front of one", join(pemOf("RSA PRIVATE KEY", key), ca.pem()), "entry 1 of the CA bundle: it is a private key"},
		{"an encrypted key", pemOf("ENCRYPTED PRIVATE KEY", key), "it is a private key"},
		{"a request", pemOf("CERTIFICATE REQUEST", request), `it is a "CERTIFICATE REQUEST"`},
		{"a trusted certificate of openssl", pemOf("TRUSTED CERTIFICATE", ca.cert.Raw), `it is a "TRUSTED CERTIFICATE"`},
		{"a leaf", leaf, "is not a CA certificate"},
		{"a leaf behind a CA", join(ca.pem(), leaf), `entry 2 of the CA bundle: the certificate "CN=kube-apiserver" is not a CA`},
		{"no basic constraints", noConstraints.pem(), "is not a CA certificate"},
		{"expired alone", expired.pem(), `the CA certificate "CN=old" expired at ` + expired.cert.NotAfter.Format(time.RFC3339)},
		{"expired twice", join(expired.pem(), expired.pem()), "this machine's clock says"},
		{"a hundred and one", bytes.Repeat(ca.pem(), 101), "101 entries"},
		{"a thousand", bytes.Repeat(ca.pem(), 1000), "1000 entries"},
		{"larger than a megabyte", bytes.Repeat([]byte("#"), maxBundleBytes+1), "larger than 1048576 bytes"},
		{"cut off", ca.pem()[:200], "damaged or cut off"},
		{"cut off behind a whole one", join(ca.pem(), ca.pem()[:200]), "damaged or cut off"},
		{"cut off in front of a whole one", join(ca.pem()[:200], ca.pem()), "damaged or cut off"},
		{"not base64", []byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), "damaged or cut off"},
		{"not a certificate", pemOf("CERTIFICATE", []byte("not DER")), "entry 1 of the CA bundle: x509: malformed"},
		{"a certificate cut off in DER", pemOf("CERTIFICATE", ca.cert.Raw[:100]), "entry 1 of the CA bundle: x509: malformed"},
		{"bytes behind the certificate", pemOf("CERTIFICATE", append(slices.Clone(ca.cert.Raw), 0)), "entry 1 of the CA bundle: x509"},
	}
}

func TestParseBundleRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, test := range badBundles(t) {
		t.Run(test.name, func(t *testing.T) {
			bundle, err := ParseBundle(test.data, time.Now())
			wantFault(t, err, 0, test.want) // whose bundle it is makes the class
			if !bundle.IsZero() {
				t.Error("a bundle came with the error")
			}

			path := writeFile(t, dir, "ca.crt", string(test.data), 0o644)
			_, err = ReadBundle(path, time.Now())
			wantFault(t, err, fault.Usage, test.want)
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestParseBundleAtTheEdgeOfALife(t *testing.T) {
	ca := newAuthority(t, "ca")
	if _, err := ParseBundle(ca.pem(), ca.cert.NotAfter); err != nil {
		t.Errorf("refused in the last second of its life: %v", err)
	}
	_, err := ParseBundle(ca.pem(), ca.cert.NotAfter.Add(time.Second))
	wantFault(t, err, 0, "expired")
}

func TestReadBundle(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	bundle, err := ReadBundle(writeFile(t, dir, "ca.crt", string(ca.pem()), 0o644), time.Now())
	if err != nil || string(bundle.PEM()) != string(ca.pem()) {
		t.Errorf("got %s, %v", bundle, err)
	}
	_, err = ReadBundle(filepath.Join(dir, "absent"), time.Now())
	wantFault(t, err, fault.Usage, "cannot read the CA file")
	_, err = ReadBundle(dir, time.Now())
	wantFault(t, err, fault.Usage, "is a directory")
	_, err = ReadBundle("/dev/zero", time.Now())
	wantFault(t, err, fault.Usage, "is not a regular file")
	_, err = ReadBundle(writeFile(t, dir, "large", strings.Repeat("x", maxBundleBytes+1), 0o644), time.Now())
	wantFault(t, err, fault.Usage, "larger than")
}

func TestBundleAlgebra(t *testing.T) {
	a, b, c := newAuthority(t, "a"), newAuthority(t, "b"), newAuthority(t, "c")
	again := reissue(t, a) // another certificate of the same name and key
	for _, test := range []struct {
		name           string
		x, y           Bundle
		union, without Bundle
		contains       bool // x contains y
		equal          bool
	}{
		{"empty", Bundle{}, Bundle{}, Bundle{}, Bundle{}, true, true},
		{"one and none", bundleOf(a), Bundle{}, bundleOf(a), bundleOf(a), true, false},
		{"none and one", Bundle{}, bundleOf(a), bundleOf(a), Bundle{}, false, false},
		{"the same", bundleOf(a, b), bundleOf(a, b), bundleOf(a, b), Bundle{}, true, true},
		{"another order", bundleOf(b, a), bundleOf(a, b), bundleOf(b, a), Bundle{}, true, true},
		{"twice the same", bundleOf(a, a), bundleOf(a), bundleOf(a), Bundle{}, true, true},
		{"once and twice", bundleOf(b), bundleOf(a, a, b), bundleOf(b, a), Bundle{}, false, false},
		{"overlapping", bundleOf(a, b), bundleOf(c, b), bundleOf(a, b, c), bundleOf(a), false, false},
		{"wider", bundleOf(c, a, b), bundleOf(b), bundleOf(c, a, b), bundleOf(c, a), true, false},
		{"disjoint", bundleOf(b), bundleOf(c, a), bundleOf(b, c, a), bundleOf(b), false, false},
		{"reissued with the same key", bundleOf(a), bundleOf(again), bundleOf(a, again), bundleOf(a), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, y := string(test.x.PEM()), string(test.y.PEM())
			for what, pair := range map[string][2]Bundle{
				"union": {test.x.Union(test.y), test.union}, "without": {test.x.Without(test.y), test.without},
			} {
				if got, want := pair[0], pair[1]; string(got.PEM()) != string(want.PEM()) || got.IsZero() != want.IsZero() {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
			}
			if got := test.x.Contains(test.y); got != test.contains {
				t.Errorf("contains: %t", got)
			}
			if got := test.x.Equal(test.y); got != test.equal || got != test.y.Equal(test.x) {
				t.Errorf("equal: %t", got)
			}
			if x != string(test.x.PEM()) || y != string(test.y.PEM()) {
				t.Error("an operand was changed")
			}
		})
	}
}

func TestBundleString(t *testing.T) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b\n\x1b[2J") // whoever makes the cluster-info chooses the name
	if got, want := bundleOf(a, b).String(), `"CN=a" (`+a.pin().String()+`), "CN=b\n\x1b[2J" (`+b.pin().String()+`)`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }
