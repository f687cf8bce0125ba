package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// issueClient makes a client certificate of the user, with its key, both PEM.
func (a *authority) issueClient(tb testing.TB, user string) (cert, key []byte) {
	tb.Helper()
	pair := a.issue(tb, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: user}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	der, err := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		tb.Fatal(err)
	}
	return pemOf("CERTIFICATE", pair.Leaf.Raw), pemOf("EC PRIVATE KEY", der)
}

// wantNoKey checks that no line of a PEM-encoded key, and no part of one, is in text.
func wantNoKey(tb testing.TB, text string, key []byte) {
	tb.Helper()
	for line := range strings.Lines(string(key)) {
		line = strings.TrimSpace(line)
		if len(line) < 8 || strings.Contains(line, "-----") || strings.Contains(line, ": ") {
			continue
		}
		for i := range len(line) - 7 {
			if strings.Contains(text, line[i:i+8]) {
				tb.Fatalf("a part of the key is in %q", text)
			}
		}
	}
}

// keyPairRow is a certificate and a key, and what is said of them; "" for success.
type keyPairRow struct {
	name      string
	cert, key []byte
	want      string
}

func keyPairRows(tb testing.TB) []keyPairRow {
	tb.Helper()
	ca := newAuthority(tb, "client-ca")
	cert, key := ca.issueClient(tb, "system:node:a")
	otherCert, otherKey := ca.issueClient(tb, "system:node:a")
	block, _ := pem.Decode(key)
	pkcs8 := func() []byte {
		parsed, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			tb.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(parsed)
		if err != nil {
			tb.Fatal(err)
		}
		return pemOf("PRIVATE KEY", der)
	}()
	legacy := pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: block.Bytes, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,000102030405060708090A0B0C0D0E0F"},
	})
	const encrypted = "the private key is encrypted, and nobody is there to give its passphrase: decrypt it with `openssl pkey`"
	join := func(parts ...[]byte) (all []byte) {
		for _, part := range parts {
			all = append(all, part...)
		}
		return all
	}
	return []keyPairRow{
		{"SEC 1", cert, key, ""},
		{"PKCS #8", cert, pkcs8, ""},
		{"with its chain", join(cert, ca.pem()), key, ""},
		{"with the curve before it, as openssl ecparam leaves it", cert, join(pemOf("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}), key), ""},
		{"with text around", join([]byte("subject=CN=a\n"), cert), join([]byte("Key Attributes: none\n"), key), ""},
		{"encrypted PKCS #8", cert, pemOf("ENCRYPTED PRIVATE KEY", block.Bytes), encrypted},
		{"encrypted, beside one that is not", cert, join(key, pemOf("ENCRYPTED PRIVATE KEY", block.Bytes)), encrypted},
		{"encrypted by the legacy way", cert, legacy, encrypted},
		{"of another certificate", cert, otherKey, "the private key is not the certificate's"},
		{"of the chain's second certificate", join(otherCert, cert), key, "the private key is not the certificate's"},
		{"no key", cert, nil, "there is no private key in PEM"},
		{"a certificate in the place of the key", cert, cert, "there is no private key in PEM"},
		{"a public key", cert, pemOf("PUBLIC KEY", block.Bytes), "there is no private key in PEM"},
		{"a key in DER", cert, block.Bytes, "there is no private key in PEM"},
		{"a key that is cut off", cert, key[:len(key)-20], "there is no private key in PEM"},
		{"two keys", cert, join(key, otherKey), "there are 2 private keys"},
		{"no certificate", nil, key, "there is no certificate in PEM"},
		{"a key in the place of the certificate", key, key, "there is no certificate in PEM"},
		{"a damaged certificate", pemOf("CERTIFICATE", []byte("damaged")), key, "the certificate or its key is damaged: "},
		{"a certificate that is cut off", cert[:len(cert)-20], key, "the certificate or its key is damaged: "},
		{"a damaged key", cert, pemOf("EC PRIVATE KEY", block.Bytes[:40]), "the certificate or its key is damaged: "},
		{"a key of another form than it says", cert, pemOf("RSA PRIVATE KEY", block.Bytes[:60]), "the certificate or its key is damaged: "},
	}
}

func TestParseKeyPair(t *testing.T) {
	for _, row := range keyPairRows(t) {
		t.Run(row.name, func(t *testing.T) {
			pair, err := ParseKeyPair(row.cert, row.key)
			if row.want != "" {
				wantFault(t, fault.New(fault.Usage, "mend it", "%w", err), fault.Usage, row.want) // the caller gives the class
				wantNoKey(t, err.Error(), row.key)
				if pair != nil {
					t.Error("a pair came with the error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if pair.Leaf == nil || pair.Leaf.Subject.CommonName != "system:node:a" {
				t.Errorf("the leaf is %v", pair.Leaf)
			}
		})
	}
}

func TestCertificateFile(t *testing.T) {
	for _, row := range keyPairRows(t) {
		if row.cert == nil || row.key == nil {
			continue // one file would lack nothing but the other
		}
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := writeFile(t, dir, "tls.crt", string(row.cert), 0o644), writeFile(t, dir, "tls.key", string(row.key), 0o600)
			credential := &CertificateFile{CertificatePath: cert, KeyPath: key}
			proof, err := credential.Proof(t.Context())
			if checked := credential.Check(); fmt.Sprint(checked) != fmt.Sprint(err) {
				t.Errorf("Check says %v, Proof %v", checked, err)
			}
			if row.want != "" {
				wantFault(t, err, fault.Usage, cert+" with the key in "+key+": "+row.want)
				wantNoKey(t, err.Error()+fault.Remedy(err), row.key)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			leaf := proof.Certificate.Leaf
			if !proof.NotAfter.Equal(leaf.NotAfter) || !proof.NotBefore.Equal(leaf.NotBefore) || NodeOf(leaf) != "a" {
				t.Errorf("%+v of %v", proof, leaf.Subject)
			}
			if got, want := proof.Explain(time.Now(), 0), `it is of "CN=system:node:a", issued by "CN=client-ca", whose CA must be in the API server's --client-ca-file`; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if got := proof.Explain(leaf.NotAfter.Add(time.Minute), 0); !strings.HasSuffix(got, ", 1m0s ago by this machine's clock") {
				t.Errorf("after its end: %q", got)
			}
		})
	}
}

func TestCertificateFileAndItsMode(t *testing.T) {
	ca := newAuthority(t, "client-ca")
	cert, key := ca.issueClient(t, "u")
	dir := t.TempDir()
	for _, test := range []struct {
		name     string
		mode     fs.FileMode // of the file that holds the key
		together bool
		want     string
	}{
		{"two files", 0o600, false, ""},
		{"two files, the key readable by the group", 0o640, false, ""},
		{"two files, the key readable by all", 0o644, false, "holds a secret and is open to every user of this machine (mode 0644)"},
		{"one file", 0o600, true, ""},
		{"one file, readable by all", 0o644, true, "holds a secret and is open to every user of this machine (mode 0644)"},
		{"one file, writable by all", 0o602, true, "holds a secret and is open to every user of this machine (mode 0602)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			credentials := []*CertificateFile{{CertificatePath: writeFile(t, dir, "tls.crt", string(cert), 0o644), KeyPath: writeFile(t, dir, "tls.key", string(key), test.mode)}}
			if test.together {
				path := writeFile(t, dir, "both.pem", string(key)+string(cert), test.mode)
				credentials = []*CertificateFile{{CertificatePath: path}, {CertificatePath: path, KeyPath: path}}
			}
			for _, credential := range credentials {
				_, err := credential.Proof(t.Context())
				if test.want == "" {
					if err != nil {
						t.Error(err)
					}
					continue
				}
				wantFault(t, err, fault.Usage, test.want)
				if !strings.HasPrefix(fault.Remedy(err), "chmod 0600 "+dir) {
					t.Errorf("the remedy is %q", fault.Remedy(err))
				}
			}
		})
	}
	absent := filepath.Join(dir, "absent")
	for _, credential := range []*CertificateFile{{CertificatePath: absent}, {CertificatePath: filepath.Join(dir, "tls.crt"), KeyPath: absent}} {
		_, err := credential.Proof(t.Context())
		wantFault(t, err, fault.Usage, "cannot read the client certificate")
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(fault.Remedy(err), absent) {
			t.Errorf("%v; %s", err, fault.Remedy(err))
		}
	}
}

// TestCertificateFileOnAConnection replaces the files while a connection is in use: the next handshake presents what is there
// then, and nothing is presented where they cannot be read.
func TestCertificateFileOnAConnection(t *testing.T) {
	serving, clients := newAuthority(t, "ca"), newAuthority(t, "client-ca")
	s := serve(t, serverOptions{certificate: serving.issue(t), clientAuth: tls.RequestClientCert}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, cert := range r.Context().Value(connKey{}).(*serverConn).session.ConnectionState().PeerCertificates {
			_, _ = w.Write([]byte(cert.Subject.CommonName))
		}
	}))
	path := filepath.Join(t.TempDir(), "both.pem")
	conn := connect(t, serving, s.Endpoint)
	conn.Certificate = Certificate(&CertificateFile{CertificatePath: path})
	if err := conn.Open(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	if got := s.received(); len(got) != 0 {
		t.Errorf("without the file there were requests: %+v", got)
	}
	for _, user := range []string{"first", "second"} {
		cert, key := clients.issueClient(t, user)
		writeFile(t, filepath.Dir(path), "both.pem", string(cert)+string(key), 0o600)
		if user == "second" {
			if got := mustGet(t, conn, "/"); got != "first" {
				t.Errorf("on the same connection: %q", got)
			}
			conn.Close()
		}
		if got := mustGet(t, conn, "/"); got != user {
			t.Errorf("%q was presented, want %q", got, user)
		}
	}
	conn.Close()
	conn.Certificate = Certificate(testToken.Credential()) // which has none
	if got := mustGet(t, conn, "/"); got != "" {
		t.Errorf("a bootstrap token presented %q", got)
	}
}

func TestNodeOf(t *testing.T) {
	for user, want := range map[string]string{"system:node:a": "a", "system:node:": "", "system:nodes": "", "a": "", "": "", "x:system:node:a": ""} {
		if got := NodeOf(&x509.Certificate{Subject: pkix.Name{CommonName: user}}); got != want {
			t.Errorf("%q: %q, want %q", user, got, want)
		}
	}
}

func TestBasicAuth(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name, content string
		mode          os.FileMode
		password      string
		want          string
	}{
		{"a password", testTokenSecret, 0o600, testTokenSecret, ""},
		{"a newline at the end", testTokenSecret + "\n", 0o640, testTokenSecret, ""},
		{"CRLF at the end", testTokenSecret + "\r\n", 0o600, testTokenSecret, ""},
		{"two newlines", testTokenSecret + "\n\n", 0o600, "", "has control characters or line breaks in it"},
		{"two lines", testTokenSecret + "\nx\n", 0o600, "", "has control characters or line breaks in it"},
		{"a control character", "\x1b" + testTokenSecret, 0o600, "", "has control characters or line breaks in it"},
		{"white space and a colon", " a: " + testTokenSecret + " ", 0o600, " a: " + testTokenSecret + " ", ""},
		{"empty", "", 0o600, "", "there is no password in "},
		{"a newline alone", "\n", 0o600, "", "there is no password in "},
		{"readable by all", testTokenSecret, 0o644, "", "open to every user of this machine (mode 0644)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, dir, "password", test.content, test.mode)
			credential := &BasicAuth{Username: "machine-1", PasswordPath: path}
			proof, err := credential.Proof(t.Context())
			if checked := credential.Check(); fmt.Sprint(checked) != fmt.Sprint(err) {
				t.Errorf("Check says %v, Proof %v", checked, err)
			}
			if test.want != "" {
				wantFault(t, err, fault.Usage, test.want)
				wantSilence(t, fmt.Sprintf("%v %+v %#v %s", err, err, err, fault.Remedy(err)))
				if !strings.Contains(fault.Remedy(err), path) {
					t.Errorf("the remedy %q does not name the file", fault.Remedy(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if proof.Username != "machine-1" || proof.Password.Reveal() != test.password || !proof.Token.IsZero() {
				t.Errorf("%+v", proof)
			}
			wantSilence(t, fmt.Sprintf("%s %s %v %+v %#v", credential, credential.Remedy(), *proof, proof, *proof))
		})
	}
	_, err := (&BasicAuth{Username: "u", PasswordPath: filepath.Join(dir, "absent")}).Proof(t.Context())
	wantFault(t, err, fault.Usage, "cannot read the password")
}

// failing is a credential that cannot be had.
type failing struct {
	Credential
	err error
}

func (f failing) Proof(context.Context) (*Proof, error) { return nil, f.err }

func TestAuthenticate(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.issueClient(t, "u")
	dir := t.TempDir()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+testTokenSecret))
	for _, test := range []struct {
		name       string
		credential Credential
		want       string
	}{
		{"a token", testToken.Credential(), "Bearer " + testTokenText},
		{"a password", &BasicAuth{Username: "u", PasswordPath: writeFile(t, dir, "password", testTokenSecret+"\n", 0o600)}, basic},
		{"a certificate", &CertificateFile{CertificatePath: writeFile(t, dir, "pair", string(cert)+string(key), 0o600)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kubernetes/apis", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := Authenticate(test.credential, connect(t, ca, s.Endpoint)).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if diff := cmp.Diff([]request{{protocol: "h2", path: "/apis", bearer: test.want}}, s.received(), cmp.AllowUnexported(request{})); diff != "" {
				t.Errorf("the requests (-want +got):\n%s", diff)
			}
			if len(req.Header) != 0 {
				t.Error("the caller's request was changed")
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
		body := &closing{Reader: strings.NewReader("{}")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://kubernetes/apis", body)
		if err != nil {
			t.Fatal(err)
		}
		wrong := errors.New("it cannot be had")
		resp, err := Authenticate(failing{err: wrong}, connect(t, ca, s.Endpoint)).RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if unproven, ok := errors.AsType[*ProofError](err); !ok || !errors.Is(unproven, wrong) || err.Error() != wrong.Error() {
			t.Errorf("%v", err)
		}
		if !body.closed || len(s.accepted()) != 0 {
			t.Errorf("the body is closed: %t, connections: %d", body.closed, len(s.accepted()))
		}
	})
}

// closing is a body that notes whether it was closed.
type closing struct {
	*strings.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}
