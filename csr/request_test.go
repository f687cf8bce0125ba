package csr

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func newRequest(tb testing.TB, template Template) *Request {
	tb.Helper()
	request, err := NewRequest(template, keyOf(tb, "node"))
	if err != nil {
		tb.Fatal(err)
	}
	return request
}

// asking returns a change that puts another PKCS#10 request into an object.
func asking(tb testing.TB, key crypto.Signer, changes ...func(*x509.CertificateRequest)) func(*certificates.CertificateSigningRequest) {
	tb.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: testTemplate.CommonName, Organization: testTemplate.Organization}}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		tb.Fatal(err)
	}
	return func(object *certificates.CertificateSigningRequest) {
		object.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
}

func TestCompare(t *testing.T) {
	key, hour := keyOf(t, "node"), KubeletClient("node-1", time.Hour)
	badSignature := func(object *certificates.CertificateSigningRequest) {
		block, _ := pem.Decode(object.Spec.Request)
		// The last byte is the signature's.
		block.Bytes[len(block.Bytes)-1] ^= 1
		object.Spec.Request = pem.EncodeToMemory(block)
	}
	for _, test := range []struct {
		name   string
		change func(*certificates.CertificateSigningRequest)
		want   string // "": it is ours
	}{
		{"nothing", func(*certificates.CertificateSigningRequest) {}, ""},
		{"signed anew by our key", asking(t, key), ""},
		{"who submitted it", func(o *certificates.CertificateSigningRequest) {
			o.Spec.Username, o.Spec.UID, o.Spec.Groups = "system:bootstrap:abcdef", "1", []string{"system:bootstrappers"}
		}, ""},
		{"labels", func(o *certificates.CertificateSigningRequest) { o.Labels = map[string]string{"a": "b"} }, ""},
		{"the order of the usages", func(o *certificates.CertificateSigningRequest) { slices.Reverse(o.Spec.Usages) }, ""},
		{"name", func(o *certificates.CertificateSigningRequest) { o.Name += "0" }, "has the name node-csr-"},
		{"signer", func(o *certificates.CertificateSigningRequest) {
			o.Spec.SignerName = certificates.KubeAPIServerClientSignerName
		}, "has the signer kubernetes.io/kube-apiserver-client instead of kubernetes.io/kube-apiserver-client-kubelet"},
		{"one usage more", func(o *certificates.CertificateSigningRequest) { o.Spec.Usages = append(o.Spec.Usages, "server auth") }, "has the usages [digital signature client auth server auth] instead of"},
		{"one usage less", func(o *certificates.CertificateSigningRequest) { o.Spec.Usages = o.Spec.Usages[:1] }, "has the usages"},
		{"a usage twice", func(o *certificates.CertificateSigningRequest) { o.Spec.Usages[1] = o.Spec.Usages[0] }, "has the usages"},
		{"no lifetime", func(o *certificates.CertificateSigningRequest) { o.Spec.ExpirationSeconds = nil }, ""},
		{"a longer lifetime", func(o *certificates.CertificateSigningRequest) { *o.Spec.ExpirationSeconds++ }, ""},
		{"a shorter lifetime", func(o *certificates.CertificateSigningRequest) { *o.Spec.ExpirationSeconds = 600 }, ""},
		{"no request", func(o *certificates.CertificateSigningRequest) { o.Spec.Request = nil }, "has the request something else"},
		{"a torn request", func(o *certificates.CertificateSigningRequest) { o.Spec.Request = o.Spec.Request[:100] }, "has the request something else"},
		{"something behind the request", func(o *certificates.CertificateSigningRequest) { o.Spec.Request = append(o.Spec.Request, 'x') }, "has the request something else"},
		{"two requests", func(o *certificates.CertificateSigningRequest) { o.Spec.Request = bytes.Repeat(o.Spec.Request, 2) }, "has the request something else"},
		{"a block of another type", func(o *certificates.CertificateSigningRequest) {
			o.Spec.Request = bytes.ReplaceAll(o.Spec.Request, []byte("CERTIFICATE REQUEST"), []byte("CERTIFICATE"))
		}, "has the request something else"},
		{"a request that cannot be read", func(o *certificates.CertificateSigningRequest) {
			o.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})
		}, "instead of a PKCS#10 request"},
		{"common name", asking(t, key, func(r *x509.CertificateRequest) { r.Subject.CommonName += "0" }), "has the subject CN=system:node:node-10,O=system:nodes instead of system:node:node-1"},
		{"organization", asking(t, key, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }), "has the subject"},
		{"an organization more", asking(t, key, func(r *x509.CertificateRequest) {
			r.Subject.Organization = []string{"system:nodes", "system:masters"}
		}), "has the subject"},
		{"no organization", asking(t, key, func(r *x509.CertificateRequest) { r.Subject.Organization = nil }), "has the subject"},
		{"an attribute more", asking(t, key, func(r *x509.CertificateRequest) { r.Subject.Country = []string{"NL"} }), "has the subject"},
		{"a DNS name", asking(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes"} }), `asks for other names: it has subject alternative names for which nobody asked: "DNS:kubernetes"`},
		{"an IP address", asking(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4zero} }), `asks for other names: it has subject alternative names for which nobody asked: "IP:0.0.0.0"`},
		{"an e-mail address", asking(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), `asks for other names: it has subject alternative names for which nobody asked: "email:a@b"`},
		{"a name of another kind", asking(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x05, 0x88, 0x03, 0x2a, 0x03, 0x04}}}
		}), `asks for other names: it has subject alternative names for which nobody asked: "another kind (8): 2a0304"`},
		{"an empty list of names", asking(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x00}}}
		}), "asks for other names: its subject alternative names cannot be read"},
		{"key", asking(t, keyOf(t, "other")), "has the key another's instead of ours"},
		{"signature", badSignature, "has the signature x509: ECDSA verification failure instead of"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := newRequest(t, hour)
			found := request.object()
			found.Spec.Usages = slices.Clone(found.Spec.Usages)
			test.change(found)
			err := request.compare(found)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect.Fault(t, err, fault.Untrusted, test.want)
			if !errors.Is(err, ErrReplaced) {
				t.Errorf("not ErrReplaced: %v", err)
			}
			wantEnded(t, err, request.Name)
		})
	}
}

// TestCompareNames is of a request that asks for subject alternative names.
func TestCompareNames(t *testing.T) {
	key := keyOf(t, "node")
	template := Template{
		SignerName: "example.com/serving", CommonName: testTemplate.CommonName, Organization: testTemplate.Organization, Usages: customTemplate.Usages,
		DNSNames: []string{"a.example.com", "b.example.com"}, IPAddresses: addresses("192.0.2.1", "2001:db8::1"), URIs: []string{"spiffe://example.com/a"},
	}
	names := func(r *x509.CertificateRequest) { // out of order
		r.DNSNames = []string{"b.example.com", "A.example.com"}
		r.IPAddresses = []net.IP{net.ParseIP("2001:db8::1"), net.ParseIP("192.0.2.1")}
		r.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/a"}}
	}
	none := func(*x509.CertificateRequest) {}
	for _, test := range []struct {
		name   string
		first  func(*x509.CertificateRequest)
		change func(*x509.CertificateRequest)
		want   string
	}{
		{"in another order", names, none, ""},
		{"one twice", names, func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, r.DNSNames[0]) }, ""},
		{"none", none, none, `it lacks subject alternative names that were asked for: "DNS:a.example.com", "DNS:b.example.com", "IP:192.0.2.1", "IP:2001:db8::1", "URI:spiffe://example.com/a"`},
		{"a DNS name more", names, func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, "c") }, `"DNS:c"`},
		{"a DNS name less", names, func(r *x509.CertificateRequest) { r.DNSNames = r.DNSNames[1:] }, `it lacks subject alternative names that were asked for: "DNS:b.example.com"`},
		{"another DNS name", names, func(r *x509.CertificateRequest) { r.DNSNames[0] = "kubernetes" }, `it has subject alternative names for which nobody asked ("DNS:kubernetes"), and lacks some ("DNS:b.example.com")`},
		{"an address more", names, func(r *x509.CertificateRequest) { r.IPAddresses = append(r.IPAddresses, net.IPv4zero) }, `"IP:0.0.0.0"`},
		{"an address less", names, func(r *x509.CertificateRequest) { r.IPAddresses = r.IPAddresses[1:] }, `lacks subject alternative names that were asked for: "IP:2001:db8::1"`},
		{"a URI more", names, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, &url.URL{Scheme: "urn", Opaque: "x"}) }, `"URI:urn:x"`},
		{"a URI less", names, func(r *x509.CertificateRequest) { r.URIs = nil }, `lacks subject alternative names that were asked for: "URI:spiffe`},
		{"a URI in upper case", names, func(r *x509.CertificateRequest) { r.URIs[0].Path = "/A" }, `"URI:spiffe://example.com/A"`},
		{"an e-mail address too", names, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }, `"email:a@b"`},
		{"a DNS name as an e-mail address", names, func(r *x509.CertificateRequest) {
			r.DNSNames, r.EmailAddresses = r.DNSNames[1:], r.DNSNames[:1]
		}, `"email:b.example.com"`},
		{"a URI as a DNS name", names, func(r *x509.CertificateRequest) {
			r.URIs, r.DNSNames = nil, append(r.DNSNames, "spiffe://example.com/a")
		}, `"DNS:spiffe://example.com/a"`},
		{"an other name too", none, func(r *x509.CertificateRequest) {
			extensions, err := template.extensions()
			if err != nil {
				t.Fatal(err)
			}
			var values []asn1.RawValue
			if _, err := asn1.Unmarshal(extensions[0].Value, &values); err != nil {
				t.Fatal(err)
			}
			values = append(values, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0x06, 0x01, 0x2a}})
			if extensions[0].Value, err = asn1.Marshal(values); err != nil {
				t.Fatal(err)
			}
			r.ExtraExtensions = extensions
		}, `"another kind (0): 06012a"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := newRequest(t, template)
			found := request.object()
			asking(t, key, test.first, test.change)(found)
			err := request.compare(found)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect.Fault(t, err, fault.Untrusted, "asks for other names: it ")
			expect.Fault(t, err, fault.Untrusted, test.want)
		})
	}
}

func TestJudge(t *testing.T) {
	type conditions []certificates.CertificateSigningRequestCondition
	approved := certificates.CertificateSigningRequestCondition{Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "AutoApproved"}
	denied := certificates.CertificateSigningRequestCondition{Type: certificates.CertificateDenied, Status: core.ConditionTrue, Reason: "Policy", Message: "this rack is full"}
	failed := certificates.CertificateSigningRequestCondition{Type: certificates.CertificateFailed, Status: core.ConditionTrue, Reason: "SignerValidationFailure", Message: "no"}
	with := func(c certificates.CertificateSigningRequestCondition, change func(*certificates.CertificateSigningRequestCondition)) certificates.CertificateSigningRequestCondition {
		change(&c)
		return c
	}
	withStatus := func(c certificates.CertificateSigningRequestCondition, status core.ConditionStatus) certificates.CertificateSigningRequestCondition {
		return with(c, func(c *certificates.CertificateSigningRequestCondition) { c.Status = status })
	}
	unknown := certificates.CertificateSigningRequestCondition{Type: "Pondered", Status: core.ConditionTrue}
	for _, test := range []struct {
		name       string
		conditions conditions
		issued     bool   // there is a certificate
		is         error  // nil: it is issued, or it waits
		want       string // what the error says
	}{
		{"new", nil, false, nil, ""},
		{"issued and not approved", nil, true, nil, ""},
		{"approved", conditions{approved}, false, nil, ""},
		{"issued", conditions{approved}, true, nil, ""},
		{"issued, of unknown status", conditions{withStatus(approved, "")}, true, nil, ""}, // as v1beta1 had it
		{"denied", conditions{denied}, false, ErrDenied, "the request was denied: NAME: Policy: this rack is full"},
		{"denied without a message", conditions{with(denied, func(c *certificates.CertificateSigningRequestCondition) { c.Message = "" })}, false, ErrDenied, ": Policy"},
		{"denied without a reason", conditions{with(denied, func(c *certificates.CertificateSigningRequestCondition) { c.Reason = "" })}, false, ErrDenied, ": this rack is full"},
		{"denied, with a certificate", conditions{denied}, true, ErrDenied, "was denied"},
		{"failed", conditions{failed}, false, ErrFailed, "the signer failed the request: NAME: SignerValidationFailure: no"},
		{"approved and failed", conditions{approved, failed}, false, ErrFailed, "the signer failed"},
		{"approved and failed, with a certificate", conditions{approved, failed}, true, ErrFailed, "the signer failed"},
		{"approved and denied", conditions{approved, denied}, true, ErrReplaced, "is both approved and denied"},
		{"denied and approved", conditions{denied, approved}, false, ErrReplaced, "is both approved and denied"},
		{"a condition that nobody knows", conditions{unknown}, false, nil, ""},
		{"issued, and a condition that nobody knows", conditions{unknown, approved}, true, nil, ""},
		{"approved has the status False", conditions{withStatus(approved, core.ConditionFalse)}, true, nil, ""},
		{"denied has the status False", conditions{approved, withStatus(denied, core.ConditionFalse)}, true, nil, ""},
		{"failed has the status False", conditions{approved, withStatus(failed, core.ConditionFalse)}, true, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := newRequest(t, testTemplate)
			request.Name = "NAME"
			object := request.object()
			object.Status.Conditions = test.conditions
			if test.issued {
				object.Status.Certificate = []byte("chain")
			}
			chain, err := request.judge(object)
			if test.is != nil {
				expect.Fault(t, err, fault.Denied, test.want)
				wantEnded(t, err, "NAME")
				if !errors.Is(err, test.is) || chain != nil {
					t.Errorf("got %q, %v; want %v", chain, err, test.is)
				}
				return
			}
			mayUse := test.issued && slices.ContainsFunc(test.conditions, func(c certificates.CertificateSigningRequestCondition) bool {
				return c.Type == certificates.CertificateApproved && c.Status != core.ConditionFalse
			})
			if err != nil || (chain != nil) != mayUse {
				t.Errorf("got %q, %v", chain, err)
			}
		})
	}
}

// wantEnded returns what an error says of the request that it ends.
func wantEnded(tb testing.TB, err error, name string) EndedError {
	tb.Helper()
	ended, ok := errors.AsType[*EndedError](err)
	if !ok {
		tb.Fatalf("not an EndedError: %v", err)
	}
	if ended.Name != name || ended.Message == "" && ended.Reason == "" {
		tb.Errorf("it says %+v", ended)
	}
	return *ended
}

func TestEnded(t *testing.T) {
	long := strings.Repeat("é", 1000)
	for _, test := range []struct {
		name, reason, message       string // of the condition
		wantReason, wantMessage, as string
	}{
		{"both", "Policy", "no room", "Policy", "no room", "the request was denied: NAME: Policy: no room"},
		{"no reason", "", "no room", "", "no room", "the request was denied: NAME: no room"},
		{"no message", "Policy", "", "Policy", "", "the request was denied: NAME: Policy"},
		{"nothing", "", "", "", "", "the request was denied: NAME"},
		{"many lines", "Pol\nicy", " no\r\n\troom\x1b[31m\u2028!\x00\n", "Pol icy", "no room [31m !", "the request was denied: NAME: Pol icy: no room [31m !"},
		{"a book", "Policy", long, "Policy", long[:1000] + "…", "the request was denied: NAME: Policy: " + long[:1000] + "…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := newRequest(t, testTemplate)
			request.Name = "NAME"
			object := request.object()
			object.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateDenied, Status: core.ConditionTrue, Reason: test.reason, Message: test.message}}
			_, err := request.judge(object)
			expect.Fault(t, err, fault.Denied, test.as)
			ended, ok := errors.AsType[*EndedError](err)
			if !ok || ended.Name != "NAME" || ended.Reason != test.wantReason || ended.Message != test.wantMessage || err.Error() != test.as {
				t.Errorf("got %+v in %q", ended, err)
			}
		})
	}
}

// FuzzCSRObject reads an object of whatever content: what is taken for ours asks for just what we asked for, and a
// certificate is taken only from an object that is approved and nothing else.
func FuzzCSRObject(f *testing.F) {
	request := newRequest(f, KubeletClient("node-1", time.Hour))
	for _, change := range []func(*certificates.CertificateSigningRequest){
		func(*certificates.CertificateSigningRequest) {},
		func(o *certificates.CertificateSigningRequest) {
			o.Status.Certificate = []byte("chain")
			o.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: "Approved", Status: "True", Reason: "a", Message: "b"}}
		},
		func(o *certificates.CertificateSigningRequest) {
			o.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: "Denied", Status: "True"}, {Type: "Failed", Status: "False"}}
		},
		asking(f, keyOf(f, "other")),
		asking(f, keyOf(f, "node"), func(r *x509.CertificateRequest) { r.DNSNames = []string{"x"} }),
	} {
		object := request.object()
		change(object)
		data, err := json.Marshal(object)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var object certificates.CertificateSigningRequest
		if json.Unmarshal(data, &object) != nil {
			t.Skip("not an object")
		}
		before := object.DeepCopy()
		if err := request.compare(&object); err != nil {
			if !errors.Is(err, ErrReplaced) || fault.ClassOf(err) != fault.Untrusted {
				t.Errorf("class %d: %v", fault.ClassOf(err), err)
			}
		} else {
			want := request.object()
			block, _ := pem.Decode(object.Spec.Request)
			parsed, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil || parsed.CheckSignature() != nil || !sameKey(parsed.PublicKey, request.Key.Public()) ||
				parsed.Subject.ToRDNSequence().String() != "CN=system:node:node-1,O=system:nodes" ||
				object.Name != want.Name || object.Spec.SignerName != want.Spec.SignerName || !sameSet(object.Spec.Usages, want.Spec.Usages) || len(parsed.DNSNames)+len(parsed.IPAddresses)+len(parsed.URIs)+len(parsed.EmailAddresses) != 0 {
				t.Errorf("taken for ours: %s", data)
			}
		}
		chain, err := request.judge(&object)
		types := make(map[certificates.RequestConditionType]bool)
		for _, c := range object.Status.Conditions {
			types[c.Type] = types[c.Type] || c.Status != core.ConditionFalse
		}
		if err != nil {
			if fault.ClassOf(err) != fault.Denied || !types["Denied"] && !types["Failed"] {
				t.Errorf("class %d, with the conditions %v: %v", fault.ClassOf(err), object.Status.Conditions, err)
			}
		}
		if chain != nil && (!types["Approved"] || types["Denied"] || types["Failed"]) {
			t.Errorf("issued, with the conditions %v", object.Status.Conditions)
		}
		if diff := cmp.Diff(before, &object); diff != "" {
			t.Errorf("the object was changed (-before +after):\n%s", diff)
		}
	})
}
