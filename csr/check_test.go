package csr

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestCheck(t *testing.T) {
	type change = func(*Template)
	client := KubeletClient("node-1", time.Hour)
	user := Template{
		SignerName: certificates.KubeAPIServerClientSignerName, CommonName: "system:kube-proxy", Organization: []string{"system:node-proxier"},
		Usages: []certificates.KeyUsage{"digital signature", "client auth"},
	}
	custom := customTemplate
	none := func(*Template) {}
	signer := func(name string) change { return func(t *Template) { t.SignerName = name } }
	commonName := func(name string) change { return func(t *Template) { t.CommonName = name } }
	organization := func(names ...string) change { return func(t *Template) { t.Organization = names } }
	dns := func(names ...string) change { return func(t *Template) { t.DNSNames = names } }
	ip := func(texts ...string) change { return func(t *Template) { t.IPAddresses = addresses(texts...) } }
	uri := func(uris ...string) change { return func(t *Template) { t.URIs = uris } }
	usages := func(all ...certificates.KeyUsage) change { return func(t *Template) { t.Usages = all } }
	label := strings.Repeat("a", 63)
	for _, test := range []struct {
		name     string
		template Template
		change   change
		want     string // "": nothing is wrong
	}{
		{"kubelet client", client, none, ""},
		{"kubelet client, key encipherment", client, usages("key encipherment", "digital signature", "client auth"), ""},
		{"kubelet client, another user", client, commonName("node-1"), "wants a common name of the form system:node:NAME"},
		{"kubelet client, no user", client, commonName(""), "wants a common name of the form system:node:NAME"},
		{"kubelet client, no node", client, commonName("system:node:"), "wants a common name of the form system:node:NAME"},
		{"kubelet client, no group", client, organization(), "wants the organization system:nodes"},
		{"kubelet client, one group more", client, organization("system:nodes", "x"), "wants the organization system:nodes"},
		{"kubelet client, a DNS name", client, dns("node-1"), `takes no subject alternative names ("DNS:node-1")`},
		{"kubelet client, an address", client, ip("192.0.2.1"), "takes no subject alternative names"},
		{"kubelet client, a URI", client, uri("urn:x:y"), "takes no subject alternative names"},
		{"kubelet client, server auth", client, usages("digital signature", "client auth", "server auth"), `wants the usages "digital signature" and "client auth"`},
		{"kubelet client, client auth alone", client, usages("client auth"), "wants the usages"},

		{"kubelet serving", servingTemplate(t), none, ""},
		{"kubelet serving, addresses alone", servingTemplate(t), dns(), ""},
		{"kubelet serving, names alone", servingTemplate(t), ip(), ""},
		{"kubelet serving, client auth", servingTemplate(t), usages("digital signature", "client auth"), `wants the usages "digital signature" and "server auth"`},
		{"kubelet serving, another user", servingTemplate(t), commonName("node-1"), "wants a common name of the form system:node:NAME"},
		{"kubelet serving, another group", servingTemplate(t), organization("x"), "wants the organization system:nodes"},
		{"kubelet serving, a URI", servingTemplate(t), uri("urn:x:y"), "takes no URIs"},
		{"kubelet serving, a URI alone", servingTemplate(t), func(t *Template) {
			t.DNSNames, t.IPAddresses, t.URIs = nil, nil, []string{"urn:x:y"}
		}, "wants a DNS name or an IP address"},

		{"client", user, none, ""},
		{"client, with names", user, dns("a.example.com"), ""},
		{"client, key encipherment", user, usages("client auth", "key encipherment"), ""},
		{"client, server auth", user, usages("client auth", "server auth"), `wants the usage "client auth", and takes`},
		{"client, not client auth", user, usages("digital signature"), `wants the usage "client auth", and takes`},
		{"client, no user", user, func(t *Template) { t.CommonName, t.DNSNames = "", []string{"a"} }, "a user has a common name"},
		{"client, masters", user, organization("system:masters"), `the organization "system:masters" is above all authorization`},

		{"custom", custom, none, ""},
		{"custom, masters", custom, organization("x", "system:masters"), "is above all authorization"},
		{"custom, a node", custom, commonName("system:node:a"), ""},
		{"custom, no subject", custom, func(t *Template) { t.CommonName, t.Organization = "", nil }, ""},
		{"custom, nothing", custom, func(t *Template) { t.CommonName, t.DNSNames, t.URIs = "", nil, nil }, "neither a common name nor a subject alternative name"},
		{"custom, a common name alone", custom, func(t *Template) { t.DNSNames, t.URIs = nil, nil }, ""},
		{"custom, too short", custom, func(t *Template) { t.Lifetime = time.Minute }, "is shorter than the API allows"},
		{"custom, negative", custom, func(t *Template) { t.Lifetime = -1 << 40 }, "is shorter than the API allows"},

		{"common name of white space", custom, commonName(" "), `the common name " " is not plain text`},
		{"common name with a new line", custom, commonName("a\nb"), `the common name "a\nb" is not plain text`},
		{"common name of bytes", custom, commonName("a\xff"), `the common name "a\xff" is not plain text`},
		{"common name in another alphabet", custom, commonName("Žižkov"), ""},
		{"an empty organization", custom, organization("x", ""), `the organization "" is not plain text`},
		{"an organization with white space", custom, organization("x "), `the organization "x " is not plain text`},
		{"an organization of two words", custom, organization("Example Corp."), ""},

		{"a legacy signer", custom, signer("kubernetes.io/legacy-unknown"), `the signer "kubernetes.io/legacy-unknown" is none of Kubernetes' own`},
		{"a slip in a signer", custom, signer("kubernetes.io/kubelet-servng"), "none of Kubernetes' own"},
		{"another's at kubernetes.io", custom, signer("x.kubernetes.io/y"), ""},
		{"a long signer", custom, signer("a.b-c.example/x.y-z.w"), ""},
		{"no signer", custom, signer(""), `the signer name "" is not of the form example.com/name`},
		{"a signer without a path", custom, signer("example.com"), "is not of the form"},
		{"a signer with an empty path", custom, signer("example.com/"), "is not of the form"},
		{"a signer with two paths", custom, signer("example.com/a/b"), "is not of the form"},
		{"a signer of one label", custom, signer("example/a"), "is not of the form"},
		{"a signer in upper case", custom, signer("Example.com/a"), "is not of the form"},
		{"a signer of a long label", custom, signer(label + "a.com/a"), "is not of the form"},
		{"a signer that is too long", custom, signer("example.com/" + strings.Repeat(label+".", 10) + "a"), "is not of the form"},

		{"a wildcard", custom, dns("*.example.com"), ""},
		{"a wildcard within", custom, dns("a.*.example.com"), "is not valid (RFC 1123)"},
		{"a wildcard alone", custom, dns("*"), "is not valid (RFC 1123)"},
		{"two wildcards", custom, dns("*.*.com"), "is not valid (RFC 1123)"},
		{"an empty DNS name", custom, dns(""), `the DNS name "" is not valid`},
		{"a DNS name with a final dot", custom, dns("example.com."), "is not valid (RFC 1123)"},
		{"a DNS name in upper case", custom, dns("Example.COM"), ""},
		{"a DNS name that is a path", custom, dns("/x"), "is not valid (RFC 1123)"},
		{"a DNS name that is a mailbox", custom, dns("a@example.com"), "is not valid (RFC 1123)"},
		{"a DNS name that is an IPv4 address", custom, dns("192.0.2.1"), `the DNS name "192.0.2.1" is an IP address`},
		{"a DNS name that is an IPv6 address", custom, dns("2001:db8::1"), "is an IP address"},
		{"a DNS name with a port", custom, dns("example.com:443"), "is not valid (RFC 1123)"},
		{"a DNS name in another alphabet", custom, dns("Žižkov"), "is not valid (RFC 1123)"},
		{"the longest label", custom, dns(label + ".example.com"), ""},
		{"a longer label", custom, dns("a" + label + ".example.com"), "is not valid (RFC 1123)"},
		{"254 characters", custom, dns(strings.Repeat(label+".", 3) + strings.Repeat("a", 62)), "is not valid (RFC 1123)"},
		{"a wildcard of 254 characters", custom, dns("*." + strings.Repeat(label+".", 3) + strings.Repeat("a", 60)), "is not valid (RFC 1123)"},
		{"a whole file", custom, dns(strings.Repeat("a", 1<<16)), "is not valid (RFC 1123)"},

		{"loopback", custom, ip("127.0.0.1", "::1"), ""},
		{"link-local", custom, ip("fe80::1", "169.254.1.1"), ""},
		{"a zone", custom, ip("fe80::1%eth0"), "is not that of one machine"},
		{"any address", custom, ip("0.0.0.0"), `the IP address "0.0.0.0" is not that of one machine`},
		{"any IPv6 address", custom, ip("::"), "is not that of one machine"},
		{"any address, in IPv6", custom, ip("::ffff:0.0.0.0"), "is not that of one machine"},
		{"multicast", custom, ip("224.0.0.1"), "is not that of one machine"},
		{"no address", custom, func(t *Template) { t.IPAddresses = make([]netip.Addr, 1) }, `the IP address "invalid IP"`},

		{"URIs", custom, uri("spiffe://example.com/ns/a", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "https://192.0.2.1:8443/?a=b#c", "https://[2001:db8::1]/", "file:///x", "https://Example.COM/%20"), ""},
		{"a URI with a port", custom, uri("https://example.com:8443"), ""},
		{"an empty URI", custom, uri(""), `the URI "" is not absolute`},
		{"a relative URI", custom, uri("/x"), "is not absolute"},
		{"a URI without a scheme", custom, uri("//example.com/x"), "is not absolute"},
		{"a scheme alone", custom, uri("spiffe:"), "is not absolute"},
		{"a URI with a blank", custom, uri("spiffe://example.com/a b"), "is not absolute"},
		{"a URI that is none", custom, uri("https://a:b@example.com:x"), "this is not a URI"},
		{"a URI with a password", custom, uri("https://a:b@example.com/"), "the URI has user information in it"},
		{"a URI that is not in its normal form", custom, uri("HTTPS://example.com/"), "and in its normal form"},
		{"a URI with a bad host", custom, uri("spiffe://a_b/x"), "is not absolute"},
		{"a URI with an empty label", custom, uri("spiffe://a..b/x"), "is not absolute"},
		{"a URI with a final dot", custom, uri("spiffe://example.com./x"), "is not absolute"},
		{"a URI with an empty port", custom, uri("spiffe://example.com:/x"), "is not absolute"},
		{"a URI with a wildcard", custom, uri("spiffe://*.example.com/x"), "is not absolute"},
		{"a URI with a zone", custom, uri("https://[fe80::1%25eth0]/"), "is not absolute"},
		{"a URI in another alphabet", custom, uri("spiffe://example.com/ž"), "is not absolute"},

		{"no usages", custom, usages(), "it has no usages"},
		{"an unknown usage", custom, usages("digital signature", "clientAuth"), `the usage "clientAuth" is not known`},
		{"a CA's usage", custom, usages("cert sign"), `the usage "cert sign" is a CA's`},
		{"another usage of a CA", custom, usages("server auth", "crl sign"), `the usage "crl sign" is a CA's`},
		{"extended usages alone", custom, usages("server auth", "client auth", "code signing", "s/mime"), ""},

		{"two mistakes", custom, func(t *Template) { t.SignerName, t.DNSNames = "x", []string{"_"} }, `and '*' for the first label at most; the signer name "x" is not of the form example.com/name`},
	} {
		t.Run(test.name, func(t *testing.T) {
			template := test.template
			test.change(&template)
			err := template.Check()
			if test.want != "" {
				expect.Fault(t, err, fault.Usage, "such a certificate cannot be asked for: ")
				expect.Fault(t, err, fault.Usage, test.want)
				if len(err.Error()) > 500 {
					t.Errorf("an error of %d characters", len(err.Error()))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// What may be asked for comes through a signer as it was asked for.
			key, ca := keyOf(t, "node"), newAuthority(t, "kubernetes", "ca", nil)
			request, err := NewRequest(template, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := request.compare(request.object()); err != nil {
				t.Error(err)
			}
			if _, err := Gate(pemOf(ca.fulfil(t, request)), template, key.Public(), nil, testTime); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMistakesNameTheirField(t *testing.T) {
	node := KubeletClient("node-1", time.Minute)
	node.CommonName, node.Organization, node.Usages, node.DNSNames = "a\n", []string{"system:masters", "a", " a"}, []certificates.KeyUsage{"x", "any", "cert sign"}, []string{"a.b", "_"}
	serving := servingTemplate(t)
	serving.DNSNames, serving.IPAddresses, serving.URIs = nil, nil, []string{"urn:b", "%", "https://a:b@c"}
	user := Template{SignerName: certificates.KubeAPIServerClientSignerName, IPAddresses: addresses("192.0.2.1", "::")}
	type place struct {
		Field string
		Item  int
	}
	for name, test := range map[string]struct {
		template Template
		want     []place
	}{
		"kubelet client": {node, []place{
			{"CommonName", -1},
			{"Organization", 0},
			{"Organization", 2},
			{"DNSNames", 1},
			{"Usages", 0},
			{"Usages", 2},
			{"CommonName", -1},
			{"Organization", -1},
			{"Usages", -1},
			{"SignerName", -1},
			{"Lifetime", -1},
		}},
		"kubelet serving": {serving, []place{{"URIs", 1}, {"URIs", 2}, {"DNSNames", -1}, {"URIs", -1}}},
		"client":          {user, []place{{"IPAddresses", 1}, {"Usages", -1}, {"CommonName", -1}, {"Usages", -1}}},
		"nothing":         {Template{}, []place{{"CommonName", -1}, {"Usages", -1}, {"SignerName", -1}}},
		"none":            {customTemplate, nil},
	} {
		var got []place
		for _, mistake := range test.template.Mistakes() {
			got = append(got, place{mistake.Field, mistake.Item})
			if field, found := reflect.TypeFor[Template]().FieldByName(mistake.Field); !found || (mistake.Item >= 0 && field.Type.Kind() != reflect.Slice) {
				t.Errorf("%s: a template has no such field: %+v", name, mistake)
			}
			if strings.Contains(mistake.Text, "a:b@") {
				t.Errorf("%s: what may be a password is repeated: %+v", name, mistake)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestIsSignerName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, valid := range map[string]bool{
		"example.com/a": true, "a.b/c.d": true, "kubernetes.io/kube-apiserver-client": true, "example/a": false, "example.com": false,
		"example.com/": false, "/a": false, "example.com/a/b": false, "Example.com/a": false, "example.com/a_b": false, "example..com/a": false,
		"example.com/a.": false, long + "a.com/a": false, strings.Repeat("a.", 120) + "com/" + long: true,
		strings.Repeat("a.", 126) + "ab/a": false, strings.Repeat("a.", 126) + "a/a": true,
		"a.b/" + strings.Repeat(long+".", 9) + "a": false,
	} {
		if isSignerName(name) != valid {
			t.Errorf("%q is valid: %t", name, !valid)
		}
	}
}

// FuzzTemplate: whatever a check lets through can be asked for, is found again, and passes the gate when it is signed as
// the cluster's signer signs it.
func FuzzTemplate(f *testing.F) {
	f.Add("example.com/serving", "metrics", "example", "a.example.com,*.example.com", "192.0.2.1,2001:db8::1", "spiffe://example.com/a", "digital signature,server auth")
	f.Add("kubernetes.io/kubelet-serving", "system:node:a", "system:nodes", "a", "::ffff:192.0.2.1", "", "digital signature,server auth")
	f.Add("kubernetes.io/kube-apiserver-client", "a", "", "", "", "https://[2001:db8::1]:80/?a#b", "client auth")
	f.Add("example.com/a", "", "", "/x,a@b,192.0.2.1", "fe80::1%a", "acct:a@b,//x,mailto:a@b", "any")
	ca := newAuthority(f, "kubernetes", "ca", nil)
	f.Fuzz(func(t *testing.T, signer, commonName, organizations, dns, ips, uris, usages string) {
		split := func(text string) []string {
			if text == "" {
				return nil
			}
			return strings.Split(text, ",")
		}
		template := Template{SignerName: signer, CommonName: commonName, Organization: split(organizations), DNSNames: split(dns), URIs: split(uris)}
		for _, text := range split(ips) {
			address, _ := netip.ParseAddr(text)
			template.IPAddresses = append(template.IPAddresses, address)
		}
		for _, usage := range split(usages) {
			template.Usages = append(template.Usages, certificates.KeyUsage(usage))
		}
		if err := template.Check(); err != nil {
			expect.Fault(t, err, fault.Usage, "such a certificate cannot be asked for")
			return
		}
		key := keyOf(t, "node")
		request, err := NewRequest(template, key)
		if err != nil {
			t.Fatalf("%+v: %v", template, err)
		}
		if err := request.compare(request.object()); err != nil {
			t.Errorf("%+v: not found again: %v", template, err)
		}
		if _, err := Gate(pemOf(ca.fulfil(t, request)), template, key.Public(), nil, testTime); err != nil {
			t.Errorf("%+v: %v", template, err)
		}
	})
}
