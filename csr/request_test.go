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
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
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
		{"no lifetime", func(o *certificates.CertificateSigningRequest) { o.Spec.ExpirationSeconds = nil }, "has the lifetime 0s instead of 1h0m0s"},
		{"lifetime", func(o *certificates.CertificateSigningRequest) { *o.Spec.ExpirationSeconds++ }, "has the lifetime 1h0m1s instead of 1h0m0s"},
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
		{"a DNS name", asking(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes"} }), "has the subject alternative names some"},
		{"an IP address", asking(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4zero} }), "has the subject alternative names some"},
		{"an e-mail address", asking(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), "has the subject alternative names some"},
		{"a name of another kind", asking(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x05, 0x88, 0x03, 0x2a, 0x03, 0x04}}}
		}), "has the subject alternative names some"},
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
			wantFault(t, err, fault.Untrusted, test.want)
			if !errors.Is(err, ErrReplaced) {
				t.Errorf("not ErrReplaced: %v", err)
			}
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
				wantFault(t, err, fault.Denied, test.want)
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
				object.Name != want.Name || object.Spec.SignerName != want.Spec.SignerName || *object.Spec.ExpirationSeconds != 3600 {
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
