package csr

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
)

var userTemplate = Template{
	SignerName: certificates.KubeAPIServerClientSignerName, Lifetime: time.Hour,
	Usages: []certificates.KeyUsage{"digital signature", "client auth"},
}

func TestParseRequest(t *testing.T) {
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaOf := func(bits int) *rsa.PrivateKey {
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	made := func(key crypto.Signer, subject pkix.Name, changes ...func(*x509.CertificateRequest)) []byte {
		template := &x509.CertificateRequest{Subject: subject}
		for _, change := range changes {
			change(template)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	key := keyOf(t, "jane")
	jane := pkix.Name{CommonName: "jane", Organization: []string{"developers", "admins"}}
	plain := made(key, jane)
	forged := slices.Clone(plain)
	{
		block, _ := pem.Decode(plain)
		block.Bytes[len(block.Bytes)-1] ^= 1
		forged = append(forged[:0], pem.EncodeToMemory(block)...)
	}
	for _, test := range []struct {
		name string
		data []byte
		key  crypto.PublicKey
		want string // "": it is accepted
	}{
		{"ECDSA", plain, key.Public(), ""},
		{"openssl's of old, with text around", []byte("Certificate Request:\n" + strings.ReplaceAll(string(plain), "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST") + "\n"), key.Public(), ""},
		{"Ed25519", made(edKey, jane), edPublic, ""},
		{"empty", nil, nil, "no PEM block"},
		{"another kind", []byte(strings.ReplaceAll(string(plain), "CERTIFICATE REQUEST", "CERTIFICATE")), nil, `it is a "CERTIFICATE"`},
		{"two", slices.Concat(plain, plain), nil, "more than one PEM block"},
		{"damaged", []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), nil, "no PKCS#10 request"},
		{"signed by another", forged, nil, "signature"},
		{"a country", made(key, pkix.Name{CommonName: "jane", Country: []string{"DE"}}), nil, "has more in it than"},
		{"a group twice", made(key, pkix.Name{CommonName: "jane", Organization: []string{"a", "a"}}), nil, "each once"},
		{"a DNS name", made(key, jane, func(r *x509.CertificateRequest) { r.DNSNames = []string{"jane.example.com"} }), nil, `subject alternative names ("DNS:jane.example.com")`},
		{"an address", made(key, jane, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }), nil, "subject alternative names"},
		{"a short RSA key", made(rsaOf(1024), jane), nil, "1024 bits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := ParseRequest(test.data, userTemplate)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Template.CommonName != "jane" || !slices.Equal(r.Template.Organization, []string{"admins", "developers"}) || r.Key != nil || !sameKey(r.Public(), test.key) {
				t.Errorf("got %+v", r)
			}
			again, err := ParseRequest(test.data, userTemplate)
			if err != nil || again.Name != r.Name || r.compare(again.object()) != nil {
				t.Errorf("a second reading is another request: %v", err)
			}
		})
	}
}

// TestParseRequestName has a request that was made elsewhere be the same object as one with the same key that was made here.
func TestParseRequestName(t *testing.T) {
	wish := userTemplate
	wish.CommonName, wish.Organization = "jane", []string{"developers"}
	own, err := NewRequest(wish, keyOf(t, "jane"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ParseRequest(own.pkcs10, userTemplate)
	if err != nil || foreign.Name != own.Name {
		t.Errorf("got %v, %v, want %s", foreign, err, own.Name)
	}
}
