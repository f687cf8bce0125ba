package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"slices"
	"testing"

	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// withCommonName adds a common name to a subject.
func withCommonName(c *x509.Certificate, name string) {
	c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: name})
}

// TestGateNames is of certificates whose template has subject alternative names.
func TestGateNames(t *testing.T) {
	ca, key := newAuthority(t, "kubernetes", "ca", nil), keyOf(t, "node")
	serving, custom := servingTemplate(t), customTemplate
	all := custom
	all.IPAddresses = addresses("192.0.2.1", "2001:db8::1")
	many := custom
	many.Organization = nil
	many.Usages = []certificates.KeyUsage{"key encipherment", "content commitment", "code signing", "email protection", "s/mime"}
	nameless := Template{SignerName: custom.SignerName, URIs: custom.URIs, Usages: custom.Usages}
	for _, test := range []struct {
		name     string
		template Template
		change   func(*x509.Certificate)
		want     string // "": accepted
	}{
		{"serving", serving, func(*x509.Certificate) {}, ""},
		{"serving, in another order", serving, func(c *x509.Certificate) { slices.Reverse(c.DNSNames); slices.Reverse(c.IPAddresses) }, ""},
		{"serving, names in upper case and twice", serving, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "NODE-1") }, ""},
		{"serving, addresses in the long form", serving, func(c *x509.Certificate) {
			// crypto/x509 would write the short form
			c.DNSNames, c.IPAddresses = nil, nil
			c.ExtraExtensions = sanExtension(t, generalName(7, string(net.ParseIP("192.0.2.1").To16())), generalName(7, string(net.ParseIP("2001:db8::1"))), generalName(2, "node-1"), generalName(2, "node-1.example.com"))
		}, ""},
		{"serving, a DNS name more", serving, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "kubernetes.default.svc") }, `it has subject alternative names for which nobody asked: "DNS:kubernetes.default.svc"`},
		{"serving, a wildcard more", serving, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "*.example.com") }, `nobody asked: "DNS:*.example.com"`},
		{"serving, a DNS name less", serving, func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }, `it lacks subject alternative names that were asked for: "DNS:node-1.example.com"`},
		{"serving, an address more", serving, func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv4(10, 96, 0, 1)) }, `nobody asked: "IP:10.96.0.1"`},
		{"serving, an address less", serving, func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[1:] }, `that were asked for: "IP:192.0.2.1"`},
		{"serving, another address", serving, func(c *x509.Certificate) { c.IPAddresses[0] = net.IPv4(192, 0, 2, 2) }, `nobody asked ("IP:192.0.2.2"), and lacks some ("IP:192.0.2.1")`},
		{"serving, no names", serving, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, `asked for: "DNS:node-1", "DNS:node-1.example.com", "IP:192.0.2.1", "IP:2001:db8::1"`},
		{"serving, a URI", serving, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "urn", Opaque: "x"}} }, `nobody asked: "URI:urn:x"`},
		{"serving, an e-mail address", serving, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, `nobody asked: "email:a@example.com"`},
		{"serving, an other name", serving, func(c *x509.Certificate) {
			c.ExtraExtensions = sanExtension(t, generalName(2, "node-1"), generalName(2, "node-1.example.com"), generalName(7, "\xc0\x00\x02\x01"), generalName(7, string(net.ParseIP("2001:db8::1"))), generalName(8, "\x2a"))
		}, `nobody asked: "another kind (8): 2a"`},
		{"serving, a DNS name in parts", serving, func(c *x509.Certificate) { // crypto/x509 passes over it
			parts := generalName(2, "\x16\x06node-1")
			parts.IsCompound = true
			whole := generalName(2, "node-1")
			whole.IsCompound = true
			c.ExtraExtensions = sanExtension(t, parts, whole, generalName(2, "node-1.example.com"), generalName(7, "\xc0\x00\x02\x01"), generalName(7, string(net.ParseIP("2001:db8::1"))))
		}, `nobody asked ("another kind (2): 16066e6f64652d31", "another kind (2): 6e6f64652d31"), and lacks some ("DNS:node-1")`},
		{"serving, client authentication too", serving, func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		}, "not just those asked for"},
		{"serving, client authentication instead", serving, func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageClientAuth }, "not just those asked for"},
		{"serving, no digital signature", serving, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, `it lacks the key usage "digital signature"`},
		{"serving, a CA", serving, func(c *x509.Certificate) { c.IsCA = true }, "it is a CA certificate"},
		{"serving, another node", serving, func(c *x509.Certificate) { c.Subject.CommonName = "system:node:node-2" }, "its common name is"},
		{"serving, system:masters", serving, func(c *x509.Certificate) {
			c.Subject.Organization = append(c.Subject.Organization, "system:masters")
		}, "its organization is"},
		{"serving, a country", serving, func(c *x509.Certificate) { c.Subject.Country = []string{"NL"} }, "has more in it than was asked for"},

		{"custom", custom, func(*x509.Certificate) {}, ""},
		{"custom, with addresses", all, func(c *x509.Certificate) { slices.Reverse(c.IPAddresses) }, ""},
		{"custom, a country and a unit", custom, func(c *x509.Certificate) {
			c.Subject.Country, c.Subject.OrganizationalUnit = []string{"NL"}, []string{"IT"}
		}, ""},
		{"custom, another common name", custom, func(c *x509.Certificate) { c.Subject.CommonName = "metrics.example.com" }, `its common name is "metrics.example.com" instead of "metrics"`},
		{"custom, two common names", custom, func(c *x509.Certificate) {
			c.Subject.CommonName = ""
			withCommonName(c, "admin")
			withCommonName(c, "metrics")
		}, "has two common names"},
		{"custom, the common name twice", custom, func(c *x509.Certificate) {
			c.Subject.CommonName = ""
			withCommonName(c, "metrics")
			withCommonName(c, "metrics")
		}, "has two common names"},
		{"custom, an organization more", custom, func(c *x509.Certificate) {
			c.Subject.Organization = append(c.Subject.Organization, "x")
		}, `its organization is ["x" "example"] instead of ["example"]`},
		{"custom, no organization", custom, func(c *x509.Certificate) { c.Subject.Organization = nil }, "its organization is []"},
		{"custom, a URI less", custom, func(c *x509.Certificate) { c.URIs = nil }, `that were asked for: "URI:spiffe://example.com/metrics"`},
		{"custom, a URI more", custom, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "example.com", Path: "/admin"})
		}, `nobody asked: "URI:spiffe://example.com/admin"`},
		{"custom, the common name as a DNS name", custom, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "metrics") }, `nobody asked: "DNS:metrics"`},
		{"custom, key encipherment too", custom, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, ""},
		{"custom, client authentication too", custom, func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		}, "not just those asked for"},
		{"custom, it may sign certificates", custom, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "it is a CA certificate"},

		{"many usages", many, func(*x509.Certificate) {}, ""},
		{"many usages, one key usage less", many, func(c *x509.Certificate) { c.KeyUsage &^= x509.KeyUsageContentCommitment }, `it lacks the key usage "content commitment"`},
		{"many usages, one less", many, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, "not just those asked for"},

		{"no subject", nameless, func(*x509.Certificate) {}, ""},
		{"a subject, where none was asked for", nameless, func(c *x509.Certificate) { c.Subject.CommonName = "admin" }, `its common name is "admin" instead of ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			leaf := ca.fulfil(t, newRequest(t, test.template), test.change)
			_, err := Gate(pemOf(leaf), test.template, key.Public(), []*x509.Certificate{ca.cert}, testTime)
			fits := test.template.Fits(leaf)
			if test.want == "" {
				if err != nil || fits != nil {
					t.Errorf("%v; fits: %v", err, fits)
				}
				return
			}
			expect.Fault(t, err, fault.Denied, "the issued certificate is refused: ")
			expect.Fault(t, err, fault.Denied, test.want)
			expect.Fault(t, fits, 0, test.want)
		})
	}
}

// sanExtension makes subject alternative names of general names.
func sanExtension(tb testing.TB, names ...asn1.RawValue) []pkix.Extension {
	tb.Helper()
	der, err := asn1.Marshal(names)
	if err != nil {
		tb.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
}

func generalName(tag int, value string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)}
}

// TestGateForeignSigner: the cluster's CA has nothing to say about what another signer signs, even if that signer's CA
// looks like it.
func TestGateForeignSigner(t *testing.T) {
	key := keyOf(t, "node").Public()
	root, stranger := newAuthority(t, "kubernetes", "root", nil), newAuthority(t, "stranger", "stranger", nil)
	impostor := newAuthority(t, "kubernetes", "impostor", nil)
	impostor.cert.SubjectKeyId = root.cert.SubjectKeyId
	for _, test := range []struct {
		name     string
		signer   *authority
		template Template
		anchored bool
		want     string
	}{
		{"the cluster's CA", root, customTemplate, true, ""},
		{"another CA", stranger, customTemplate, false, ""},
		{"one that looks like the cluster's", impostor, customTemplate, false, ""},
		{"Kubernetes' own, the cluster's CA", root, servingTemplate(t), true, ""},
		{"Kubernetes' own, another CA", stranger, servingTemplate(t), false, ""},
		{"Kubernetes' own, one that looks like the cluster's", impostor, servingTemplate(t), false, `names the cluster's CA "CN=kubernetes" as its issuer, but`},
	} {
		t.Run(test.name, func(t *testing.T) {
			chain := pemOf(test.signer.fulfil(t, newRequest(t, test.template)))
			issued, err := Gate(chain, test.template, key, []*x509.Certificate{root.cert}, testTime)
			if test.want != "" {
				expect.Fault(t, err, fault.Denied, test.want)
				return
			}
			if err != nil || issued.Anchored != test.anchored {
				t.Errorf("got %+v, %v", issued, err)
			}
		})
	}
}
