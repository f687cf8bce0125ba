//go:build linux

package csr

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// TestObtainSignedByHand halts the cluster's own approver and signer, so that each step can be seen.
func TestObtainSignedByHand(t *testing.T) {
	cp := controlPlane(t)
	tokenOf(t, byHand)
	if err := cp.ControllerManager.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cp.ControllerManager.Resume(); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		name   string
		change func(*x509.Certificate)
		want   string // of the gate; "": accepted
	}{
		{"as asked for", func(*x509.Certificate) {}, ""},
		{"with system:masters", func(c *x509.Certificate) {
			c.Subject.Organization = append(slices.Clone(c.Subject.Organization), "system:masters")
		}, "its organization is"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, "it expired 1h0m"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, "it becomes valid in"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := applyAs(t, byHand)
			a.start()
			a.decide(certificates.CertificateApproved, "Test", "by hand")
			if p := a.wait(); !p.Approved {
				t.Errorf("it waits for %+v", p)
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(2 * time.Hour),
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}
			template.Subject.CommonName, template.Subject.Organization = a.request.Template.CommonName, a.request.Template.Organization
			test.change(template)
			der, err := x509.CreateCertificate(rand.Reader, template, cp.ClientCA.Cert, a.request.Key.Public(), cp.ClientCA.Key)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			a.sign(func(s *certificates.CertificateSigningRequestStatus) { s.Certificate = pemOf(leaf) })
			if test.want == "" {
				a.expectIssued()
				return
			}
			r := <-a.ended
			if r.err != nil || !bytes.Equal(r.chain, pemOf(leaf)) {
				t.Fatalf("got %q, %v", r.chain, r.err)
			}
			_, err = Gate(r.chain, a.request.Template, a.request.Key.Public(), []*x509.Certificate{cp.ClientCA.Cert}, time.Now())
			expect.Fault(t, err, fault.Denied, test.want)
		})
	}
}

// TestObtainAPIServerRestarts kills the API server while a request waits. Obtain gives up with an error that passes
// (the reading after the watch has nobody to answer it), and asking again with the same key goes on with the same
// object.
func TestObtainAPIServerRestarts(t *testing.T) {
	cp := controlPlane(t)
	a := applyAs(t, byHand)
	a.start()
	uid := a.object().UID
	cp.APIServer.Kill()
	r := <-a.ended
	expect.Fault(t, r.err, 0, "connection refused")
	if err := cp.APIServer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.start()
	if now := a.object().UID; now != uid {
		t.Errorf("another object, %s instead of %s", now, uid)
	}
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	a.expectIssued()
	a.onlyOne()
	if got := creations(t, a.agent, 2); !slices.Equal(got, []int{201, 409}) {
		t.Errorf("the POSTs are answered with %d", got)
	}
}

// TestObtainLostReply cuts the connection when the API server has made the object and its answer is on the way.
func TestObtainLostReply(t *testing.T) {
	t.Parallel()
	token := tokenOf(t, byHand)
	network, through := newNetwork(t)
	a := apply(t, "https://"+network.Address(), token, through)
	if _, err := a.client.get(t.Context(), a.request.Name); !errors.Is(err, ErrGone) { // for the handshakes
		t.Fatal(err)
	}
	network.SetRTT(2 * time.Second)
	go func() {
		chain, err := a.obtain()
		a.ended <- result{chain, err}
	}()
	expect.Eventually(t, "the object is made", func() bool {
		_, err := a.objects.Get(t.Context(), a.request.Name, meta.GetOptions{})
		return err == nil
	})
	network.Cut()
	r := <-a.ended
	expect.Fault(t, r.err, 0, "cannot create the certificate signing request")
	network.SetRTT(0)
	a.start()
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	a.expectIssued()
	a.onlyOne()
	if got := creations(t, a.agent, 2); !slices.Equal(got, []int{201, 409}) {
		t.Errorf("the POSTs are answered with %d", got)
	}
}

// watched tells when a watch is open.
type watched struct {
	next http.RoundTripper
	open chan struct{}
}

func (w watched) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := w.next.RoundTrip(req)
	if err == nil && response.StatusCode == http.StatusOK && req.URL.Query().Get("watch") != "" {
		select {
		case w.open <- struct{}{}:
		case <-req.Context().Done():
		}
	}
	return response, err
}

// TestObtainCutWatch cuts every watch as soon as it is open. The approval and the certificate come while there is none.
func TestObtainCutWatch(t *testing.T) {
	t.Parallel()
	token := tokenOf(t, byHand)
	network, through := newNetwork(t)
	open := make(chan struct{})
	a := apply(t, "https://"+network.Address(), token, watched{through, open})
	go func() {
		chain, err := a.obtain()
		a.ended <- result{chain, err}
	}()
	a.wait()
	for range 4 {
		<-open
		network.Cut()
	}
	<-open
	network.Stall(true)
	a.decide(certificates.CertificateApproved, "Test", "by hand")
	expect.Eventually(t, "it is signed", func() bool { return len(a.object().Status.Certificate) != 0 })
	signed := time.Now()
	network.Cut()
	network.Stall(false)
	a.expectIssued()
	if late := time.Since(signed); late > 5*time.Second { // the pauses without a watch grow to 15 s
		t.Errorf("seen %s later", late)
	}
	if got := creations(t, a.agent, 1); !slices.Equal(got, []int{201}) {
		t.Errorf("the POSTs are answered with %d", got)
	}
}

// TestObtainStopped ends the wait for an approval that does not come; the request stays.
func TestObtainStopped(t *testing.T) {
	t.Parallel()
	a := applyAs(t, byHand)
	ctx, cancel := context.WithCancelCause(t.Context())
	tooLate := errors.New("nobody approved it")
	_, err := a.client.Obtain(ctx, a.request, func(Progress) { cancel(tooLate) })
	if !errors.Is(err, tooLate) {
		t.Errorf("got %v", err)
	}
	if object := a.object(); len(object.Status.Conditions) != 0 {
		t.Errorf("its conditions are %v", object.Status.Conditions)
	}
}
