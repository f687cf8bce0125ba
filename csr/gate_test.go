package csr

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// gateCase is a certificate that a gate looks at.
type gateCase struct {
	name   string
	change func(*x509.Certificate)
	want   string // what the refusal says
}

var refusedCertificates = []gateCase{
	{"another common name", func(c *x509.Certificate) { c.Subject.CommonName = "system:node:node-2" }, `its common name is "system:node:node-2" instead of "system:node:node-1"`},
	{"a longer common name", func(c *x509.Certificate) { c.Subject.CommonName += "0" }, "its common name is"},
	{"no common name", func(c *x509.Certificate) { c.Subject.CommonName = "" }, "its common name is"},
	{"two common names", func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "admin"}}
	}, "its common name is"},
	{"the same common name twice", func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: testTemplate.Organization[0]},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: c.Subject.CommonName},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: c.Subject.CommonName},
		}
	}, "has more in it than was asked for"},
	{"system:masters added", func(c *x509.Certificate) { c.Subject.Organization = []string{"system:nodes", "system:masters"} }, `its organization is ["system:nodes" "system:masters"]`},
	{"system:masters instead", func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} }, `its organization is ["system:masters"]`},
	{"the organization twice", func(c *x509.Certificate) { c.Subject.Organization = []string{"system:nodes", "system:nodes"} }, "its organization is"},
	{"no organization", func(c *x509.Certificate) { c.Subject.Organization = nil }, `its organization is []`},
	{"an organizational unit", func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"x"} }, "has more in it than was asked for"},
	{"an attribute of its own", func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: "x"}}
	}, "has more in it than was asked for"},
	{"a CA", func(c *x509.Certificate) { c.IsCA = true }, "it is a CA certificate"},
	{"it may sign certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "it is a CA certificate"},
	{"it may sign revocations", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, "it is a CA certificate"},
	{"no digital signature", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, `it lacks the key usage "digital signature"`},
	{"no key usage", func(c *x509.Certificate) { c.KeyUsage = 0 }, `it lacks the key usage "digital signature"`},
	{"no client authentication", func(c *x509.Certificate) { c.ExtKeyUsage = nil }, "not just those asked for"},
	{"server authentication instead", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "not just those asked for"},
	{"server authentication too", func(c *x509.Certificate) {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}, "not just those asked for"},
	{"any usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, "not just those asked for"},
	{"an unknown usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3, 4}} }, "not just those asked for"},
	{"a DNS name", func(c *x509.Certificate) { c.DNSNames = []string{"kubernetes.default.svc"} }, "subject alternative names"},
	{"an IP address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 96, 0, 1)} }, "subject alternative names"},
	{"an e-mail address", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, "subject alternative names"},
	{"a URI", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/x"}} }, "subject alternative names"},
	{"a name of another kind", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x05, 0x88, 0x03, 0x2a, 0x03, 0x04}}} // a registered ID
	}, "subject alternative names"},
}

func TestGateRefusesCertificate(t *testing.T) {
	ca, key := newAuthority(t, "kubernetes", "ca", nil), keyOf(t, "node").Public()
	for _, test := range refusedCertificates {
		t.Run(test.name, func(t *testing.T) {
			issued, err := Gate(pemOf(ca.issue(t, key, test.change)), testTemplate, key, []*x509.Certificate{ca.cert}, testTime)
			expect.Fault(t, err, fault.Denied, "the issued certificate is refused: ")
			expect.Fault(t, err, fault.Denied, test.want)
			if issued != nil || errors.Is(err, ErrClock) {
				t.Errorf("got %v, %v", issued, err)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		_, err := Gate(pemOf(ca.issue(t, keyOf(t, "other").Public())), testTemplate, key, []*x509.Certificate{ca.cert}, testTime)
		expect.Fault(t, err, fault.Denied, "it is for another key")
	})
}

func TestGateDates(t *testing.T) {
	ca, key := newAuthority(t, "kubernetes", "ca", nil), keyOf(t, "node").Public()
	chain := pemOf(ca.issue(t, key)) // from 15:04:26 to 16:09:26
	for _, test := range []struct {
		name string
		now  time.Time
		want string // "": accepted
	}{
		{"the first instant", testTime.Add(-5 * time.Minute), ""},
		{"the last instant", testTime.Add(time.Hour - 1), ""},
		{"a second early", testTime.Add(-5*time.Minute - time.Second), "it becomes valid in 1s (2026-03-14T15:04:26Z)"},
		{"an hour behind", testTime.Add(-time.Hour), "it becomes valid in 55m0s (2026-03-14T15:04:26Z)"},
		{"1970", time.Unix(0, 0), "it becomes valid in 492639h4m26s"},
		{"the end", testTime.Add(time.Hour), "it expired 0s ago (2026-03-14T16:09:26Z)"},
		{"an hour later", testTime.Add(2 * time.Hour), "it expired 1h0m0s ago (2026-03-14T16:09:26Z)"},
		{"three centuries late", testTime.AddDate(300, 0, 0), "it expired 2562047h47m"}, // as far as a Duration reaches
	} {
		t.Run(test.name, func(t *testing.T) {
			issued, err := Gate(chain, testTemplate, key, []*x509.Certificate{ca.cert}, test.now)
			if test.want == "" {
				if err != nil || !issued.Anchored {
					t.Errorf("got %v, %v", issued, err)
				}
				return
			}
			expect.Fault(t, err, fault.Denied, test.want)
			if !errors.Is(err, ErrClock) || issued != nil {
				t.Errorf("got %v, %v; want ErrClock", issued, err)
			}
		})
	}
}

func TestGateRefusesText(t *testing.T) {
	ca, signer := newAuthority(t, "kubernetes", "ca", nil), keyOf(t, "node")
	good := pemOf(ca.issue(t, signer.Public()))
	private, err := MarshalKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	noCertificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	for _, test := range []struct {
		name, text, want string
	}{
		{"empty", "", "it is empty"},
		{"white space", " \n\n", "it is empty"},
		{"truncated", string(good[:len(good)/2]), "not a chain of PEM-encoded certificates"},
		{"without its last line", string(good[:bytes.LastIndex(good, []byte("-----END"))]), "not a chain of PEM-encoded certificates"},
		{"a key behind it", string(good) + string(private), "not a chain of PEM-encoded certificates"},
		{"a key before it", string(private) + string(good), "not a chain of PEM-encoded certificates"},
		{"garbage behind it", string(good) + "garbage\n", "not a chain of PEM-encoded certificates"},
		{"a torn certificate behind it", string(good) + string(good[:100]), "not a chain of PEM-encoded certificates"},
		{"a block that is no certificate", string(noCertificate), "malformed certificate"},
		{"one behind it", string(good) + string(noCertificate), "malformed certificate"},
		{"DER", string(ca.cert.Raw), "not a chain of PEM-encoded certificates"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Gate([]byte(test.text), testTemplate, signer.Public(), []*x509.Certificate{ca.cert}, testTime)
			expect.Fault(t, err, fault.Denied, test.want)
		})
	}
}

func TestGateChain(t *testing.T) {
	key := keyOf(t, "node").Public()
	root := newAuthority(t, "kubernetes", "root", nil)
	stranger := newAuthority(t, "stranger", "stranger", nil)
	namesake := newAuthority(t, "kubernetes", "namesake", nil)
	// An impostor's certificates name the root's key, too.
	impostor := newAuthority(t, "kubernetes", "impostor", nil)
	impostor.cert.SubjectKeyId = root.cert.SubjectKeyId
	anonymous := newAuthority(t, "kubernetes", "impostor", nil)
	anonymous.cert.SubjectKeyId = nil
	middle := newAuthority(t, "middle", "middle", root)
	forgedMiddle := newAuthority(t, "middle", "middle", impostor)
	for _, test := range []struct {
		name     string
		chain    []*x509.Certificate
		roots    []*x509.Certificate
		anchored bool
		mistake  string // "": accepted
	}{
		{"by the bundle's CA", []*x509.Certificate{root.issue(t, key)}, []*x509.Certificate{root.cert}, true, ""},
		{"by one of two", []*x509.Certificate{root.issue(t, key)}, []*x509.Certificate{stranger.cert, root.cert}, true, ""},
		{"by one of two of the same name", []*x509.Certificate{root.issue(t, key)}, []*x509.Certificate{namesake.cert, root.cert}, true, ""},
		{"with the root", []*x509.Certificate{root.issue(t, key), root.cert}, []*x509.Certificate{root.cert}, true, ""},
		{"with an intermediate", []*x509.Certificate{middle.issue(t, key), middle.cert}, []*x509.Certificate{root.cert}, true, ""},
		{"with the intermediate in the bundle", []*x509.Certificate{middle.issue(t, key)}, []*x509.Certificate{middle.cert}, true, ""},
		{"without its intermediate", []*x509.Certificate{middle.issue(t, key)}, []*x509.Certificate{root.cert}, false, ""},
		{"by another CA", []*x509.Certificate{stranger.issue(t, key)}, []*x509.Certificate{root.cert}, false, ""},
		{"by another CA, which is sent along", []*x509.Certificate{stranger.issue(t, key), stranger.cert}, []*x509.Certificate{root.cert}, false, ""},
		{"by a new CA of the same name", []*x509.Certificate{namesake.issue(t, key)}, []*x509.Certificate{root.cert}, false, ""},
		{"no bundle", []*x509.Certificate{root.issue(t, key)}, nil, false, ""},
		{"by one that claims to be the bundle's", []*x509.Certificate{impostor.issue(t, key)}, []*x509.Certificate{root.cert}, false, `names the cluster's CA "CN=kubernetes" as its issuer, but`},
		{"by one of the same name and no key ID", []*x509.Certificate{anonymous.issue(t, key)}, []*x509.Certificate{root.cert}, false, "as its issuer, but"},
		{"by a forged intermediate", []*x509.Certificate{forgedMiddle.issue(t, key), forgedMiddle.cert}, []*x509.Certificate{root.cert}, false, "as its issuer, but"},
		{"with an extension that nobody knows, critical", []*x509.Certificate{root.issue(t, key, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		})}, []*x509.Certificate{root.cert}, false, "unhandled critical extension"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := bytes.ReplaceAll(pemOf(test.chain...), []byte("-----BEGIN"), []byte("Bag Attributes\n-----BEGIN"))
			issued, err := Gate(text, testTemplate, key, test.roots, testTime)
			if test.mistake != "" {
				expect.Fault(t, err, fault.Denied, test.mistake)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if issued.Anchored != test.anchored {
				t.Errorf("anchored: %t", issued.Anchored)
			}
			if !issued.Leaf.Equal(test.chain[0]) || !bytes.Equal(issued.Chain, pemOf(test.chain...)) {
				t.Errorf("the leaf is %q, the chain %s", issued.Leaf.Subject, issued.Chain)
			}
		})
	}
}

// TestGateServing holds a template of another kind against what fits the one of these tests.
func TestGateServing(t *testing.T) {
	ca, key := newAuthority(t, "kubernetes", "ca", nil), keyOf(t, "node").Public()
	template := testTemplate
	template.Usages = append(template.Usages[:1:1], "server auth")
	_, err := Gate(pemOf(ca.issue(t, key)), template, key, []*x509.Certificate{ca.cert}, testTime)
	expect.Fault(t, err, fault.Denied, "not just those asked for")
	serving := ca.issue(t, key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	if _, err := Gate(pemOf(serving), template, key, []*x509.Certificate{ca.cert}, testTime); err != nil {
		t.Error(err)
	}
}
