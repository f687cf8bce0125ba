package issue

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func certificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestWith puts a new certificate into kubeconfigs, and has all else stay as it is.
func TestWith(t *testing.T) {
	const before, after = `# mine
apiVersion: v1
kind: Config
clusters:
- name: a # the first
  cluster:
    server: https://192.0.2.1:6443
users:
- name: else
  user:
    token: abc
- name: jane
  user:
`, `contexts:
- name: c
  context:
    cluster: a
    user: jane
current-context: c
preferences: {}
`
	old := base64.StdEncoding.EncodeToString(certificate(t, "jane"))
	for _, test := range []struct{ name, user, key, want string }{
		{"inline", "    client-certificate-data: " + old + "\n    client-key-data: b2xk\n", "new", "    client-certificate-data: bmV3\n    client-key-data: bmV3\n"},
		{"the key by path", "    client-certificate-data: " + old + "\n    client-key: jane.key\n", "", "    client-certificate-data: bmV3\n    client-key: jane.key\n"},
		{"both by path", "    client-key: jane.key\n    client-certificate: jane.crt\n", "", "    client-key: jane.key\n    client-certificate-data: bmV3\n"},
		{"data over a path", "    client-certificate: jane.crt\n    client-certificate-data: " + old + "\n    client-key-data: b2xk\n", "new", "    client-certificate-data: bmV3\n    client-key-data: bmV3\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "kubeconfig")
			for name, data := range map[string]string{"kubeconfig": before + test.user + after, "jane.crt": string(certificate(t, "jane"))} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			owned, err := ReadOwned(path)
			if err != nil {
				t.Fatal(err)
			}
			if owned.Leaf.Subject.CommonName != "jane" || (owned.KeyPath != "") != (test.key == "") {
				t.Errorf("got %+v, %q", owned.Leaf.Subject, owned.KeyPath)
			}
			got, err := owned.With([]byte("new"), []byte(test.key))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before+test.want+after, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadOwnedKeepsSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte("users: [{name: a, user: {token: s3cret}}]\ncontexts: s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOwned(path); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}
