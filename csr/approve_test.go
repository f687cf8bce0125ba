//go:build linux

package csr

import (
	"errors"
	"testing"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// TestApprove has an administrator approve a request that a node waits for.
func TestApprove(t *testing.T) {
	a := applyAs(t, byHand)
	a.start()
	approval := Approval{Reason: "Test", Message: "because it is a test"}

	t.Run("without the right", func(t *testing.T) {
		expect.Fault(t, a.client.Approve(t.Context(), a.request, approval), fault.Refused, "may not approve the request")
	})
	admin := administrator(t)
	t.Run("another's under its name", func(t *testing.T) {
		other := newRequest(t, a.request.Template)
		other.Name = a.request.Name
		if err := admin.Approve(t.Context(), other, approval); !errors.Is(err, ErrReplaced) {
			t.Errorf("got %v", err)
		}
	})
	for range 2 { // the second time there is nothing to do
		if err := admin.Approve(t.Context(), a.request, approval); err != nil {
			t.Fatal(err)
		}
	}
	a.expectIssued()
	object, err := a.objects.Get(t.Context(), a.request.Name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := object.Status.Conditions; len(c) != 1 || c[0].Reason != approval.Reason || c[0].Message != approval.Message {
		t.Errorf("the conditions are %+v", c)
	}
}

func TestApproveEnded(t *testing.T) {
	a := applyAs(t, byHand)
	a.start()
	object, err := a.objects.Get(t.Context(), a.request.Name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	object.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateDenied, Status: core.ConditionTrue, Reason: "No"}}
	if _, err := a.objects.UpdateApproval(t.Context(), a.request.Name, object, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := administrator(t).Approve(t.Context(), a.request, Approval{Reason: "Test"}); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v", err)
	}
	a.expectError(fault.Denied, ErrDenied, "No")
}

func administrator(t *testing.T) *Client {
	t.Helper()
	transport, err := rest.TransportFor(controlPlane(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(controlPlane(t).URL, transport, "test")
	if err != nil {
		t.Fatal(err)
	}
	return client
}
