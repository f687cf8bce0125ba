//go:build linux

package csr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	typed "k8s.io/client-go/kubernetes/typed/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed/proxy"
)

// direct returns a connection to the API server that trusts it and authenticates nobody.
func direct(t *testing.T) *http.Transport {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: controlPlane(t).ServingCA.Pool()},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// applicant is a node that asks for its certificate.
type applicant struct {
	t       *testing.T
	agent   string // its user agent, by which its requests are found in the audit log
	client  *Client
	request *Request
	objects typed.CertificateSigningRequestInterface // the administrator's

	waits chan Progress
	ended chan result
}

type result struct {
	chain []byte
	err   error
}

// apply prepares the request of a node that is named for the test, by a client with the bearer token.
func apply(t *testing.T, server, token string, through http.RoundTripper) *applicant {
	t.Helper()
	node := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return applyFor(t, server, bearer{token, through}, KubeletClient(node, time.Hour), DefaultAlgorithm)
}

// applyFor prepares a request for whatever the template says, by whoever the transport authenticates.
func applyFor(t *testing.T, server string, through http.RoundTripper, template Template, algorithm Algorithm) *applicant {
	t.Helper()
	key, err := GenerateKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	a := &applicant{
		t: t, objects: controlPlane(t).Client().CertificatesV1().CertificateSigningRequests(),
		waits: make(chan Progress, 100), ended: make(chan result, 1),
	}
	if a.request, err = NewRequest(template, key); err != nil {
		t.Fatal(err)
	}
	a.agent = "test/" + a.request.Name // no other run has it
	if a.client, err = NewClient(server, through, a.agent); err != nil {
		t.Fatal(err)
	}
	return a
}

// applyAs is apply for a token of the group and the network as it is.
func applyAs(t *testing.T, group string) *applicant {
	t.Helper()
	token := tokenOf(t, group)
	return apply(t, controlPlane(t).URL, token, direct(t))
}

func (a *applicant) obtain() ([]byte, error) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	return a.client.Obtain(ctx, a.request, func(p Progress) { a.waits <- p })
}

// start begins to obtain, and returns when the request waits for its approval.
func (a *applicant) start() {
	a.t.Helper()
	go func() {
		chain, err := a.obtain()
		a.ended <- result{chain, err}
	}()
	if p := a.wait(); p.Approved || p.Name != a.request.Name || p.Username == "" || p.Created.IsZero() {
		a.t.Errorf("it waits for %+v", p)
	}
}

func (a *applicant) wait() Progress {
	a.t.Helper()
	select {
	case p := <-a.waits:
		return p
	case r := <-a.ended:
		a.t.Fatalf("ended before it had to wait: %q, %v", r.chain, r.err)
		return Progress{}
	}
}

// expectIssued ends what start began.
func (a *applicant) expectIssued() {
	a.t.Helper()
	r := <-a.ended
	a.checkIssued(r.chain, r.err)
}

// checkIssued holds what was issued against the gate.
func (a *applicant) checkIssued(chain []byte, err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	issued, err := Gate(chain, a.request.Template, a.request.Key.Public(), []*x509.Certificate{controlPlane(a.t).ClientCA.Cert}, time.Now())
	if err != nil || !issued.Anchored {
		a.t.Errorf("%+v, %v", issued, err)
	}
}

// expectError ends what start began.
func (a *applicant) expectError(class fault.Class, is error, want string) {
	a.t.Helper()
	r := <-a.ended
	if r.chain != nil {
		a.t.Errorf("issued: %s", r.chain)
	}
	expect.Fault(a.t, r.err, class, want)
	if !errors.Is(r.err, is) {
		a.t.Errorf("got %v, want %v", r.err, is)
	}
}

func (a *applicant) object() *certificates.CertificateSigningRequest {
	a.t.Helper()
	object, err := a.objects.Get(a.t.Context(), a.request.Name, meta.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	return object
}

// decide is what an approver does.
func (a *applicant) decide(kind certificates.RequestConditionType, reason, message string) {
	a.t.Helper()
	object := a.object()
	object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: kind, Status: core.ConditionTrue, Reason: reason, Message: message,
	})
	if _, err := a.objects.UpdateApproval(a.t.Context(), a.request.Name, object, meta.UpdateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

// sign is what a signer does.
func (a *applicant) sign(change func(*certificates.CertificateSigningRequestStatus)) {
	a.t.Helper()
	object := a.object()
	change(&object.Status)
	if _, err := a.objects.UpdateStatus(a.t.Context(), object, meta.UpdateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

// onlyOne checks that there is just one object for this node.
func (a *applicant) onlyOne() {
	a.t.Helper()
	all, err := a.objects.List(a.t.Context(), meta.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	n := 0
	for _, object := range all.Items {
		name := object.Name
		object.Name = a.request.Name
		switch {
		case name == a.request.Name:
			n++
		case a.request.compare(&object) == nil:
			a.t.Errorf("another object for the same request: %s", name)
		}
	}
	if n != 1 {
		a.t.Errorf("%d objects", n)
	}
}

func TestObtainApproved(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []Algorithm{"ECDSA-P256", "ECDSA-P384", "RSA-2048"} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			a := applyAs(t, "system:bootstrappers:kubeadm:default-node-token")
			key, err := GenerateKey(algorithm)
			if err != nil {
				t.Fatal(err)
			}
			if a.request, err = NewRequest(a.request.Template, key); err != nil {
				t.Fatal(err)
			}
			a.checkIssued(a.obtain())
			// All that it takes: no GET, no LIST.
			if got := requests(t, a.agent); !slices.Equal(got, []string{"create", "watch"}) {
				t.Errorf("the requests are %q", got)
			}
			object := a.object()
			if got := object.Status.Conditions[0].Reason; got != "AutoApproved" {
				t.Errorf("approved by %q", got)
			}
		})
	}
}

// TestObtainTwice has a second process ask with the key of the first, as after a crash.
func TestObtainTwice(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	a.start()
	again := *a
	again.waits, again.ended = make(chan Progress, 100), make(chan result, 1)
	again.start()
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	a.expectIssued()
	again.expectIssued()
	a.checkIssued(a.obtain()) // it is there already
	a.onlyOne()
	if got := creations(t, a.agent, 3); !slices.Equal(got, []int{201, 409, 409}) {
		t.Errorf("the POSTs are answered with %d", got)
	}
}

func TestObtainDenied(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	a.start()
	a.decide(certificates.CertificateDenied, "RackFull", "no room for this node")
	a.expectError(fault.Denied, ErrDenied, "the request was denied: "+a.request.Name+": RackFull: no room for this node")
	_, err := a.obtain() // and it stays so
	if ended := wantEnded(t, err, a.request.Name); ended.Reason != "RackFull" || ended.Message != "no room for this node" {
		t.Errorf("got %+v", ended)
	}
}

// TestObtainFailed has the cluster's own signer refuse a request that a person approved.
func TestObtainFailed(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	template := a.request.Template
	template.CommonName = "no-node"
	var err error
	if a.request, err = NewRequest(template, a.request.Key); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	a.expectError(fault.Denied, ErrFailed, "SignerValidationFailure")
}

func TestObtainDeleted(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	a.start()
	if err := a.objects.Delete(t.Context(), a.request.Name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	a.expectError(0, ErrGone, a.request.Name+" was deleted")
}

// TestObtainReplaced has the object replaced under the same name while the network is down.
func TestObtainReplaced(t *testing.T) {
	t.Parallel()
	stranger, err := GenerateKey(DefaultAlgorithm)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]func(*Request) *certificates.CertificateSigningRequest{
		"with the same content": (*Request).object,
		"with another's": func(r *Request) *certificates.CertificateSigningRequest {
			other, err := NewRequest(r.Template, stranger)
			if err != nil {
				t.Fatal(err)
			}
			object := other.object()
			object.Name = r.Name
			return object
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := tokenOf(t, byHand)
			network, through := newNetwork(t)
			a := apply(t, "https://"+network.Address(), token, through)
			a.start()
			network.Stall(true)
			if err := a.objects.Delete(t.Context(), a.request.Name, meta.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := a.objects.Create(t.Context(), content(a.request), meta.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			network.Cut() // and with it what the watch had to say
			network.Stall(false)
			a.expectError(fault.Untrusted, ErrReplaced, "was replaced by another object of that name")
		})
	}
}

// TestObtainTaken finds another's object under the name at the start.
func TestObtainTaken(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	other := applyAs(t, byHand).request.object()
	other.Name = a.request.Name
	if _, err := a.objects.Create(t.Context(), other, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := a.obtain()
	expect.Fault(t, err, fault.Untrusted, "has the key another's instead of ours")
	if !errors.Is(err, ErrReplaced) {
		t.Error(err)
	}
}

func TestObtainUnknownToken(t *testing.T) {
	t.Parallel()
	a := apply(t, controlPlane(t).URL, "abcdef.0123456789abcdef", direct(t))
	_, err := a.obtain()
	expect.Fault(t, err, 0, "the API server does not know the credential (401)")
	if !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
}

func TestObtainWithoutRights(t *testing.T) {
	t.Parallel()
	a := applyAs(t, noRights)
	_, err := a.obtain()
	expect.Fault(t, err, fault.Refused, `User "system:bootstrap:`)
	if !strings.Contains(fault.Remedy(err), "kubectl create clusterrolebinding") {
		t.Errorf("the remedy is %q", fault.Remedy(err))
	}
}

func TestObtainWithoutWatch(t *testing.T) {
	t.Parallel()
	a := applyAs(t, noWatch)
	a.checkIssued(a.obtain())
	got := strings.Join(requests(t, a.agent), " ")
	if !regexp.MustCompile(`^create( get)+ watch$`).MatchString(got) {
		t.Errorf("the requests are %q", got)
	}
}

// TestObtainInvalid asks for what the API server's validation does not take.
func TestObtainInvalid(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	template := a.request.Template
	template.Lifetime = time.Minute
	var err error
	if a.request, err = NewRequest(template, a.request.Key); err != nil {
		t.Fatal(err)
	}
	_, err = a.obtain()
	expect.Fault(t, err, fault.Denied, "spec.expirationSeconds")
}

// newNetwork returns a proxy before the API server and a transport that goes through it.
func newNetwork(t *testing.T) (*proxy.Proxy, *http.Transport) {
	t.Helper()
	network, err := proxy.New(controlPlane(t).Endpoint, proxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	transport := direct(t)
	t.Cleanup(func() { // the proxy ends last
		transport.CloseIdleConnections()
		network.Close()
	})
	return network, transport
}
