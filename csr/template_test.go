package csr

import (
	"crypto/x509"
	"encoding/pem"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
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
				wantFault(t, err, fault.Usage, test.mistake)
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
				wantFault(t, err, fault.Usage, test.mistake)
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
	// The name of an object that an earlier version made must be found by a later one.
	if got, want := name(testTemplate), "node-csr-Wu_pFPealtEqGKjoWtMHjDalk6ryTZZ2DhlpAu49r_A"; got != want {
		t.Errorf("the name of the same key and template has changed: %s, want %s", got, want)
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
		if len(got) > 63 || strings.ToLower(got[:9]) != "node-csr-" {
			t.Errorf("%q: the name is %q", what, got)
		}
	}
	if other, err := testTemplate.name(keyOf(t, "other").Public()); err != nil || seen[other] != "" {
		t.Errorf("another key has the name %s, %v", other, err)
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
}
