//go:build linux

package csr

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// asNode returns a connection to the API server that authenticates as a node.
func asNode(t *testing.T, node string) *http.Transport {
	t.Helper()
	cert, key, err := controlPlane(t).ClientCA.Issue(testbed.Certificate{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	transport := direct(t)
	transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return transport
}

// asBootstrapper returns a connection that authenticates as one whose requests a person approves.
func asBootstrapper(t *testing.T) http.RoundTripper {
	t.Helper()
	return bearer{tokenOf(t, byHand), direct(t)}
}

// TestObtainServing has a node ask for the serving certificate of its kubelet. Nobody approves that by himself; the
// cluster's own signer signs it.
func TestObtainServing(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []Algorithm{"ECDSA-P256", "RSA-2048"} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			template, err := KubeletServing("serving-1", []string{"serving-1.example.com", "Serving-1"}, addresses("192.0.2.1", "2001:db8::1"), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			a := applyFor(t, controlPlane(t).URL, asNode(t, "serving-1"), template, algorithm)
			a.start()
			if p := a.object().Spec; p.Username != "system:node:serving-1" || p.SignerName != "kubernetes.io/kubelet-serving" || !strings.HasPrefix(a.request.Name, "nodejoin-") {
				t.Errorf("%s is by %s for %s", a.request.Name, p.Username, p.SignerName)
			}
			a.decide(certificates.CertificateApproved, "Test", "by hand")
			a.expectIssued()
			block, err := parseChain(a.object().Status.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			for _, host := range []string{"serving-1", "serving-1.example.com", "192.0.2.1", "2001:db8::1"} {
				if _, err := block[0].Verify(x509.VerifyOptions{Roots: controlPlane(t).ClientCA.Pool(), DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
					t.Error(err)
				}
			}
			if got := requests(t, a.agent); !slices.Equal(got, []string{"create", "watch"}) {
				t.Errorf("the requests are %q", got)
			}
			a.onlyOne()
		})
	}
}

// TestObtainServingOfAnother: the admission plugin NodeRestriction keeps a node to its own name.
func TestObtainServingOfAnother(t *testing.T) {
	t.Parallel()
	template, err := KubeletServing("serving-3", []string{"serving-3"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = applyFor(t, controlPlane(t).URL, asNode(t, "serving-2"), template, DefaultAlgorithm).obtain()
	expect.Fault(t, err, fault.Refused, "can only create a node CSR with CN=system:node:serving-2")
	if strings.Contains(fault.Remedy(err), "clusterrole") {
		t.Errorf("the remedy is %q", fault.Remedy(err))
	}
}

// TestChecksAreTheSigners holds what Check says against the cluster's own words.
func TestChecksAreTheSigners(t *testing.T) {
	t.Parallel()
	serving, client := servingTemplate(t), KubeletClient("node-1", 0)
	user := Template{
		SignerName: certificates.KubeAPIServerClientSignerName, CommonName: "someone",
		DNSNames: []string{"someone.example.com"}, URIs: []string{"spiffe://example.com/someone"},
		Usages: []certificates.KeyUsage{"digital signature", "client auth"},
	}
	with := func(template Template, change func(*Template)) Template {
		change(&template)
		return template
	}
	for _, test := range []struct {
		name     string
		template Template
		class    fault.Class // 0: issued
		want     string
	}{
		{"a user", user, 0, ""},
		{"a user with another usage", with(user, func(t *Template) { t.Usages = append(slices.Clone(t.Usages), "server auth") }), fault.Denied, "invalid usage for client certificate"},
		{"a user that is no client", with(user, func(t *Template) { t.Usages = t.Usages[:1] }), fault.Denied, "missing required usage"},
		{"a user of system:masters", with(user, func(t *Template) { t.Organization = []string{"system:masters"} }), fault.Refused, "with system:masters group is not allowed"},
		{"a serving certificate without names", with(serving, func(t *Template) { t.DNSNames, t.IPAddresses = nil, nil }), fault.Denied, "DNS or IP subjectAltName is required"},
		{"a serving certificate with a URI", with(serving, func(t *Template) { t.URIs = user.URIs }), fault.Denied, "URI subjectAltNames are not allowed"},
		{"a serving certificate of another group", with(serving, func(t *Template) { t.Organization = []string{"x"} }), fault.Denied, "subject organization is not system:nodes"},
		{"a serving certificate for clients", with(serving, func(t *Template) { t.Usages = client.Usages }), fault.Denied, "usages did not match"},
		{"a kubelet's with a name", with(client, func(t *Template) { t.DNSNames = user.DNSNames }), fault.Denied, "DNS subjectAltNames are not allowed"},
		{"an unknown usage", with(user, func(t *Template) { t.Usages = []certificates.KeyUsage{"clientAuth"} }), fault.Denied, "spec.usages"},
		{"no usages", with(customTemplate, func(t *Template) { t.Usages = nil }), fault.Denied, "spec.usages"},
		{"a signer of one label", with(customTemplate, func(t *Template) { t.SignerName = "example/a" }), fault.Denied, "spec.signerName"},
		{"a signer in upper case", with(customTemplate, func(t *Template) { t.SignerName = "Example.com/a" }), fault.Denied, "spec.signerName"},
		{"a signer that is too long", with(customTemplate, func(t *Template) { t.SignerName = "example.com/" + strings.Repeat("a.", 400) + "a" }), fault.Denied, "spec.signerName"},
		{"the legacy signer", with(customTemplate, func(t *Template) { t.SignerName = "kubernetes.io/legacy-unknown" }), fault.Denied, "spec.signerName"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := test.template.Check(); (err == nil) != (test.class == 0) {
				t.Errorf("the check says %v", err)
			}
			a := applyFor(t, controlPlane(t).URL, asBootstrapper(t), test.template, DefaultAlgorithm)
			go func() {
				chain, err := a.obtain()
				a.ended <- result{chain, err}
			}()
			select {
			case <-a.waits:
				a.decide(certificates.CertificateApproved, "Test", "by hand")
			case r := <-a.ended: // the API server would not have it
				a.ended <- r
			}
			if test.class == 0 {
				a.expectIssued()
				return
			}
			r := <-a.ended
			expect.Fault(t, r.err, test.class, test.want)
		})
	}
}

// TestObtainCustomSigner has somebody else than the cluster sign, with a CA that the cluster does not know.
func TestObtainCustomSigner(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Example CA", "example", nil)
	now := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	for _, test := range []struct {
		name   string
		change func(*x509.Certificate)
		want   string // of the gate; "": accepted
	}{
		{"as asked for", func(*x509.Certificate) {}, ""},
		{"a name more", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "example.com") }, `nobody asked: "DNS:example.com"`},
		{"a name less", func(c *x509.Certificate) { c.URIs = nil }, `it lacks subject alternative names that were asked for: "URI:spiffe://example.com/metrics"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			template := customTemplate
			template.IPAddresses = addresses("192.0.2.1")
			if err := template.Check(); err != nil {
				t.Fatal(err)
			}
			a := applyFor(t, controlPlane(t).URL, asBootstrapper(t), template, DefaultAlgorithm)
			a.start()
			a.decide(certificates.CertificateApproved, "Test", "by hand")
			if p := a.wait(); !p.Approved || p.SignerName != "example.com/serving" {
				t.Errorf("it waits for %+v", p)
			}
			leaf := ca.fulfil(t, a.request, now, test.change)
			a.sign(func(s *certificates.CertificateSigningRequestStatus) { s.Certificate = pemOf(leaf, ca.cert) })
			r := <-a.ended
			if r.err != nil || !bytes.Equal(r.chain, pemOf(leaf, ca.cert)) {
				t.Fatalf("got %q, %v", r.chain, r.err)
			}
			issued, err := Gate(r.chain, template, a.request.Key.Public(), []*x509.Certificate{controlPlane(t).ClientCA.Cert}, time.Now())
			if test.want != "" {
				expect.Fault(t, err, fault.Denied, test.want)
				return
			}
			if err != nil || issued.Anchored {
				t.Errorf("got %+v, %v", issued, err)
			}
		})
	}
}

// TestObtainLifetimeChanged has the cluster's admission change what is asked for. The request stays ours, and so it does
// for a second process.
func TestObtainLifetimeChanged(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	const lifetime = 20 * time.Minute
	policies := controlPlane(t).Client().AdmissionregistrationV1()
	policy := &admission.MutatingAdmissionPolicy{
		ObjectMeta: meta.ObjectMeta{GenerateName: "lifetime-"},
		Spec: admission.MutatingAdmissionPolicySpec{
			MatchConstraints: &admission.MatchResources{ResourceRules: []admission.NamedRuleWithOperations{{RuleWithOperations: admission.RuleWithOperations{
				Operations: []admission.OperationType{admission.Create},
				Rule:       admission.Rule{APIGroups: []string{certificates.GroupName}, APIVersions: []string{"v1"}, Resources: []string{resource}},
			}}}},
			MatchConditions:    []admission.MatchCondition{{Name: "ours", Expression: `object.metadata.name == "` + a.request.Name + `"`}},
			ReinvocationPolicy: admission.NeverReinvocationPolicy,
			Mutations: []admission.Mutation{{
				PatchType: admission.PatchTypeJSONPatch,
				JSONPatch: &admission.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/spec/expirationSeconds", value: 1200}]`},
			}},
		},
	}
	policy, err := policies.MutatingAdmissionPolicies().Create(t.Context(), policy, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding := &admission.MutatingAdmissionPolicyBinding{ObjectMeta: meta.ObjectMeta{GenerateName: "lifetime-"}, Spec: admission.MutatingAdmissionPolicyBindingSpec{PolicyName: policy.Name}}
	if _, err := policies.MutatingAdmissionPolicyBindings().Create(t.Context(), binding, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, "the policy is in force", func() bool {
		made, err := a.objects.Create(t.Context(), a.request.object(), meta.CreateOptions{DryRun: []string{meta.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		return seconds(made) == 1200
	})
	go func() {
		chain, err := a.obtain()
		a.ended <- result{chain, err}
	}()
	if p := a.wait(); p.Lifetime != lifetime {
		t.Errorf("it waits for %+v", p)
	}
	again := *a
	again.waits, again.ended = make(chan Progress, 100), make(chan result, 1)
	again.start()
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	a.expectIssued()
	again.expectIssued()
	a.onlyOne()
	chain, err := parseChain(a.object().Status.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(chain[0].NotAfter); left > lifetime || left < lifetime-time.Minute {
		t.Errorf("it is valid for another %s", left)
	}
}
