package csr

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestParseNodeName(t *testing.T) {
	long := strings.Repeat("a", 63) + "."
	for _, test := range []struct{ name, text, want, mistake string }{
		{"plain", "node-1", "node-1", ""},
		{"white space around it", " \tnode-1\n", "node-1", ""},
		{"upper case", "Node-1.Example.COM", "node-1.example.com", ""},
		{"digits", "10.0.0.1", "10.0.0.1", ""},
		{"253 characters", strings.Repeat(long, 3) + strings.Repeat("a", 61), strings.Repeat(long, 3) + strings.Repeat("a", 61), ""},
		{"254 characters", strings.Repeat(long, 3) + strings.Repeat("a", 62), "", "not a valid DNS subdomain"},
		{"empty", "", "", "is empty"},
		{"white space alone", " \n", "", "is empty"},
		{"white space inside", "node 1", "", "not a valid DNS subdomain"},
		{"an underscore", "node_1", "", "not a valid DNS subdomain"},
		{"a slash", "node/1", "", "not a valid DNS subdomain"},
		{"the parent directory", "..", "", "not a valid DNS subdomain"},
		{"a path upwards", "../../etc", "", "not a valid DNS subdomain"},
		{"two dots", "node..1", "", "not a valid DNS subdomain"},
		{"a final dot", "node.", "", "not a valid DNS subdomain"},
		{"a first hyphen", "-node", "", "not a valid DNS subdomain"},
		{"a user name", "system:node:node-1", "", "is a user name"},
		{"a user name in upper case", "System:Node:node-1", "", "is a user name"},
		{"a NUL byte", "node\x001", "", "not a valid DNS subdomain"},
		{"invalid UTF-8", "node\xff", "", "not a valid DNS subdomain"},
		{"another alphabet", "nöde", "", "not a valid DNS subdomain"},
		{"a line of its own in a log", "node\nlevel=ERROR", "", "not a valid DNS subdomain"},
		{"a whole file", strings.Repeat("a", 1<<16), "", "not a valid DNS subdomain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseNodeName(test.text)
			if test.mistake != "" {
				expect.Fault(t, err, fault.Usage, test.mistake)
				if len(err.Error()) > 200 {
					t.Errorf("an error of %d characters", len(err.Error()))
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestParseLifetime(t *testing.T) {
	const most = math.MaxInt32 * time.Second
	for _, test := range []struct {
		name    string
		text    time.Duration
		want    time.Duration
		mistake string
	}{
		{"none", 0, 0, ""},
		{"negative", -time.Hour, 0, "shorter than the API allows"},
		{"a nanosecond", 1, 0, "shorter than the API allows"},
		{"a second", time.Second, 0, "shorter than the API allows"},
		{"just too short", 9*time.Minute + 59*time.Second, 0, "the lifetime 9m59s is shorter than the API allows (10m0s)"},
		{"the shortest", 10 * time.Minute, 10 * time.Minute, ""},
		{"part of a second", 10*time.Minute + time.Second/2, 10 * time.Minute, ""},
		{"a year", 365 * 24 * time.Hour, 365 * 24 * time.Hour, ""},
		{"the longest", most, most, ""},
		{"just too long", most + 1, 0, "longer than the API allows"},
		{"as long as can be", math.MaxInt64, 0, "longer than the API allows"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseLifetime(test.text)
			if test.mistake != "" {
				expect.Fault(t, err, fault.Usage, test.mistake)
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
			request, err := NewRequest(KubeletClient("node-1", got), keyOf(t, "node"))
			if err != nil {
				t.Fatal(err)
			}
			if got := seconds(request.object()); time.Duration(got)*time.Second != test.want {
				t.Errorf("%d seconds are asked for, want %s", got, test.want)
			}
		})
	}
}

func TestName(t *testing.T) {
	key := keyOf(t, "node")
	name := func(template Template) string {
		t.Helper()
		name, err := template.name(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	seen := make(map[string]string)
	for what, change := range map[string]func(*Template){
		"nothing":            func(*Template) {},
		"signer":             func(t *Template) { t.SignerName = certificates.KubeAPIServerClientSignerName },
		"common name":        func(t *Template) { t.CommonName += "0" },
		"organization":       func(t *Template) { t.Organization = []string{"system:masters"} },
		"no organization":    func(t *Template) { t.Organization = nil },
		"one more":           func(t *Template) { t.Organization = []string{"system:nodes", "x"} },
		"usages":             func(t *Template) { t.Usages = t.Usages[:1] },
		"lifetime":           func(t *Template) { t.Lifetime = time.Hour },
		"another lifetime":   func(t *Template) { t.Lifetime = time.Hour + time.Second },
		"a field, moved on":  func(t *Template) { t.CommonName, t.Organization = t.SignerName, []string{t.CommonName} },
		"fields that run on": func(t *Template) { t.CommonName += "O=system:nodes"; t.Organization = nil },
		"a delimiter":        func(t *Template) { t.CommonName += "|O=system:nodes"; t.Organization = nil },
		"its encoding":       func(t *Template) { t.CommonName += "|Tz1zeXN0ZW06bm9kZXM"; t.Organization = nil },
		"organizations as one": func(t *Template) {
			t.Organization = []string{"system:nodesO=x"}
		},
		"a DNS name":           func(t *Template) { t.DNSNames = []string{"example.com"} },
		"another DNS name":     func(t *Template) { t.DNSNames = []string{"www.example.com"} },
		"two DNS names":        func(t *Template) { t.DNSNames = []string{"example.com", "www.example.com"} },
		"two DNS names as one": func(t *Template) { t.DNSNames = []string{"example.comDNS:www.example.com"} },
		"an address":           func(t *Template) { t.IPAddresses = addresses("192.0.2.1") },
		"an address as a name": func(t *Template) { t.DNSNames = []string{"192.0.2.1"} },
		"an address and a name": func(t *Template) {
			t.DNSNames, t.IPAddresses = []string{"example.com"}, addresses("192.0.2.1")
		},
		"a URI":           func(t *Template) { t.URIs = []string{"spiffe://example.com/a"} },
		"a URI as a name": func(t *Template) { t.DNSNames = []string{"spiffe://example.com/a"} },
		"a usage as organization": func(t *Template) {
			t.Organization, t.Usages = append(slices.Clone(t.Organization), "usage="+string(t.Usages[0])), t.Usages[1:]
		},
	} {
		template := testTemplate
		change(&template)
		got := name(template)
		if other, taken := seen[got]; taken {
			t.Errorf("%q has the same name as %q", what, other)
		}
		seen[got] = what
		if again := name(template); again != got {
			t.Errorf("%q: %s, then %s", what, got, again)
		}
		prefix := "node-csr-"
		if template.SignerName != testTemplate.SignerName {
			prefix = "nodejoin-"
		}
		if len(got) > 63 || !strings.HasPrefix(got, prefix) || len(content.IsPathSegmentName(got)) != 0 {
			t.Errorf("%q: the name is %q", what, got)
		}
	}
	if other, err := testTemplate.name(keyOf(t, "other").Public()); err != nil || seen[other] != "" {
		t.Errorf("another key has the name %s, %v", other, err)
	}
}

// TestNameIsStable: a request that an earlier version made must be found by a later one, in the middle of its wait. The
// names are those that nodejoin made before there were templates with subject alternative names.
func TestNameIsStable(t *testing.T) {
	node, other := keyOf(t, "node").Public(), keyOf(t, "other").Public()
	modulus := &rsa.PublicKey{N: new(big.Int).SetBytes(bytes.Repeat([]byte{0xc5}, 256)), E: 65537}
	for _, test := range []struct {
		template Template
		key      crypto.PublicKey
		want     string
	}{
		{KubeletClient("node-1", 0), node, "node-csr-Wu_pFPealtEqGKjoWtMHjDalk6ryTZZ2DhlpAu49r_A"},
		{KubeletClient("node-1", time.Hour), node, "node-csr-DhRTQsNV1XNI-wAnYI6hK96zU9_SkLeuxreTM41mv6I"},
		{KubeletClient("node-1", time.Hour+time.Second/2), node, "node-csr-DhRTQsNV1XNI-wAnYI6hK96zU9_SkLeuxreTM41mv6I"},
		{KubeletClient("worker.rack-7.example.com", 365*24*time.Hour), other, "node-csr-AF7mlteemgWR2QSPS7xzhwjTu-nXBXeWXXg7lqoqepU"},
		{KubeletClient("node-1", 0), modulus, "node-csr-5ilQSxtw9gFB8jNw2zUu8TK6ztqRdALWIqnaQSXJzzU"},
		{KubeletClient("node-1", 10*time.Minute), modulus, "node-csr-msitMDvQt5hoRb3vjOEFXa4-7bO0RK9RFxNXPfLLppQ"},
		// From the first version on that had such templates.
		{servingTemplate(t), node, "nodejoin-2xKQ7QIy0wXoqqQCgfTbcOS7Uywq7tF2D31O2XSS148"},
		{customTemplate, node, "nodejoin-mbYuVr6i456gqj6087awWJo9L-4QSsXYCF1ev7wvJYw"},
	} {
		if got, err := test.template.name(test.key); err != nil || got != test.want {
			t.Errorf("%s, %s: the name has changed: %s, %v; want %s", test.template.CommonName, test.template.Lifetime, got, err, test.want)
		}
	}
}

// TestSameWish: however a wish is written, its object has the same name and asks for the same.
func TestSameWish(t *testing.T) {
	key := keyOf(t, "node")
	plain := Template{
		SignerName: "example.com/serving", CommonName: "metrics", Organization: []string{"a", "b"},
		DNSNames: []string{"a.example.com", "b.example.com"}, IPAddresses: addresses("192.0.2.1", "192.0.2.10", "2001:db8::1"),
		URIs: []string{"spiffe://example.com/a", "urn:x:y"}, Usages: []certificates.KeyUsage{"digital signature", "server auth", "client auth"}, Lifetime: time.Hour,
	}
	want, err := NewRequest(plain, key)
	if err != nil {
		t.Fatal(err)
	}
	other := Template{
		SignerName: "example.com/serving", CommonName: "metrics", Organization: []string{"b", "a", "b"},
		DNSNames: []string{"B.example.com", "a.EXAMPLE.com", "b.example.com"}, IPAddresses: addresses("2001:0db8:0::1", "192.0.2.10", "::ffff:192.0.2.1", "192.0.2.1"),
		URIs: []string{"urn:x:y", "spiffe://example.com/a", "urn:x:y"}, Usages: []certificates.KeyUsage{"server auth", "client auth", "digital signature", "client auth"}, Lifetime: time.Hour + 1,
	}
	before := fmt.Sprint(other)
	got, err := NewRequest(other, key)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != want.Name {
		t.Errorf("two names, %s and %s", got.Name, want.Name)
	}
	if diff := cmp.Diff(want.Template, got.Template, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("two templates:\n%s", diff)
	}
	if err := want.compare(got.object()); err != nil {
		t.Errorf("what it asks for is not the same: %v", err)
	}
	if err := other.Check(); err != nil {
		t.Error(err)
	}
	if after := fmt.Sprint(other); after != before {
		t.Errorf("the caller's template was changed: %s, then %s", before, after)
	}
}

// addresses parses IP addresses.
func addresses(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestKubeletServing(t *testing.T) {
	template, err := KubeletServing("node-1", []string{"NODE-1.example.com", "node-1", "node-1"}, addresses("::ffff:192.0.2.7", "192.0.2.7", "2001:db8::7"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	want := Template{
		SignerName: "kubernetes.io/kubelet-serving", CommonName: "system:node:node-1", Organization: []string{"system:nodes"},
		DNSNames: []string{"node-1", "node-1.example.com"}, IPAddresses: addresses("192.0.2.7", "2001:db8::7"),
		Usages: []certificates.KeyUsage{"digital signature", "server auth"}, Lifetime: time.Hour,
	}
	if diff := cmp.Diff(want, template, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	rsaKey, err := GenerateKey("RSA-2048")
	if err != nil {
		t.Fatal(err)
	}
	if got := template.usages(rsaKey.Public()); !slices.Equal(got, []certificates.KeyUsage{"key encipherment", "digital signature", "server auth"}) {
		t.Errorf("for RSA: %q", got)
	}
	for name, test := range map[string]struct {
		node      string
		dns       []string
		addresses []netip.Addr
		lifetime  time.Duration
		want      string
	}{
		"no names":          {"node-1", nil, nil, 0, "wants a DNS name or an IP address"},
		"no node":           {"", []string{"node-1"}, nil, 0, "wants a common name of the form system:node:NAME"},
		"a node's path":     {"a/b", []string{"node-1"}, nil, 0, "wants a common name of the form system:node:NAME"},
		"a bad name":        {"node-1", []string{"node_1"}, nil, 0, `the DNS name "node_1" is not valid`},
		"a zone":            {"node-1", nil, addresses("fe80::1%eth0"), 0, `the IP address "fe80::1%eth0" is not that of one machine`},
		"the zero address":  {"node-1", nil, []netip.Addr{{}}, 0, `the IP address "invalid IP" is not`},
		"too short a while": {"node-1", []string{"node-1"}, nil, time.Minute, "is shorter than the API allows"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := KubeletServing(test.node, test.dns, test.addresses, test.lifetime)
			expect.Fault(t, err, fault.Usage, test.want)
		})
	}
}

func TestPKCS10(t *testing.T) {
	request, err := NewRequest(testTemplate, keyOf(t, "node"))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(request.object().Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		t.Fatalf("got %q", request.object().Spec.Request)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.CheckSignature(); err != nil {
		t.Error(err)
	}
	if got := parsed.Subject.String(); got != "CN=system:node:node-1,O=system:nodes" || len(parsed.Subject.Names) != 2 {
		t.Errorf("the subject is %q (%d parts)", got, len(parsed.Subject.Names))
	}
	if len(parsed.Extensions) != 0 {
		t.Errorf("it asks for extensions: %v", parsed.Extensions)
	}
	if !sameKey(parsed.PublicKey, request.Key.Public()) {
		t.Error("it is for another key")
	}
}

// TestPKCS10Names: each name goes into the request as the kind that was said, whatever it looks like. Some of these no
// Check lets through.
func TestPKCS10Names(t *testing.T) {
	for _, test := range []struct {
		name      string
		dns       []string
		addresses []netip.Addr
		uris      []string
	}{
		{"one of each", []string{"example.com"}, addresses("192.0.2.1"), []string{"spiffe://example.com/a"}},
		{"many", []string{"*.example.com", "a", "b.example.com"}, addresses("127.0.0.1", "::1", "2001:db8::1"), []string{"https://example.com/?a=b", "urn:x:y"}},
		{"a DNS name that looks like a path", []string{"/x"}, nil, nil},
		{"a DNS name that looks like a mailbox", []string{"a@example.com"}, nil, nil},
		{"a DNS name that looks like an address", []string{"192.0.2.1"}, nil, nil},
		{"a DNS name that looks like a URI", []string{"spiffe://example.com/a"}, nil, nil},
		{"a URI that looks like a mailbox", nil, nil, []string{"acct:a@example.com"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			template := customTemplate
			template.DNSNames, template.IPAddresses, template.URIs = test.dns, test.addresses, test.uris
			request := newRequest(t, template)
			if err := request.compare(request.object()); err != nil {
				t.Error(err)
			}
			block, _ := pem.Decode(request.object().Spec.Request)
			parsed, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			var found []netip.Addr
			for _, address := range parsed.IPAddresses {
				ip, _ := netip.AddrFromSlice(address)
				found = append(found, ip)
			}
			var uris []string
			for _, uri := range parsed.URIs {
				uris = append(uris, uri.String())
			}
			if !slices.Equal(parsed.DNSNames, test.dns) || !slices.Equal(found, test.addresses) || !slices.Equal(uris, test.uris) || len(parsed.EmailAddresses) != 0 {
				t.Errorf("it asks for DNS %q, IP %v, URI %q, email %q", parsed.DNSNames, found, uris, parsed.EmailAddresses)
			}
			if len(parsed.Extensions) != 1 || parsed.Extensions[0].Critical {
				t.Errorf("the extensions are %v", parsed.Extensions)
			}
		})
	}
	t.Run("no subject", func(t *testing.T) { // RFC 5280, 4.1.2.6: then the names are critical
		template := Template{SignerName: "example.com/serving", URIs: []string{"spiffe://example.com/a"}, Usages: customTemplate.Usages}
		request := newRequest(t, template)
		if err := request.compare(request.object()); err != nil {
			t.Error(err)
		}
		block, _ := pem.Decode(request.object().Spec.Request)
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(parsed.Subject.Names) != 0 || len(parsed.Extensions) != 1 || !parsed.Extensions[0].Critical {
			t.Errorf("the subject is %q, the extensions are %v", parsed.Subject, parsed.Extensions)
		}
	})
}

func TestUsages(t *testing.T) {
	rsa, err := GenerateKey("RSA-2048")
	if err != nil {
		t.Fatal(err)
	}
	want := []certificates.KeyUsage{"digital signature", "client auth"}
	if diff := cmp.Diff(want, testTemplate.usages(keyOf(t, "node").Public())); diff != "" {
		t.Errorf("for ECDSA (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append([]certificates.KeyUsage{"key encipherment"}, want...), testTemplate.usages(rsa.Public())); diff != "" {
		t.Errorf("for RSA (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, testTemplate.Usages); diff != "" {
		t.Errorf("the template has changed (-want +got):\n%s", diff)
	}
	for name, change := range map[string]func(*Template){
		"key encipherment is asked for": func(t *Template) { t.Usages = append(slices.Clone(want), "key encipherment") },
		"in another order":              func(t *Template) { t.Usages = []certificates.KeyUsage{"client auth", "digital signature"} },
		"twice":                         func(t *Template) { t.Usages = append(slices.Clone(want), want...) },
	} {
		template := testTemplate
		change(&template)
		if diff := cmp.Diff(append([]certificates.KeyUsage{"key encipherment"}, want...), template.usages(rsa.Public())); diff != "" {
			t.Errorf("for RSA, %s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(customTemplate.Usages, customTemplate.usages(rsa.Public())); diff != "" {
		t.Errorf("another signer's, for RSA (-want +got):\n%s", diff)
	}
}
