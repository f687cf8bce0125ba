package csr

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Approval is what an approver says with an approval. Everybody who may read the request can read it.
type Approval struct {
	Reason  string // one word
	Message string // why, for a person
}

// approvals is how often an approval is tried against others that change the object at the same time.
const approvals = 5

// Approve approves a request that was submitted, with the right of the client's own credential. What is approved is what
// the request asks for: the object is compared before, and one that was changed in between is not approved. That it is
// approved already is fine. It fails as Obtain does where the request has ended, and with [fault.Refused] where the
// credential may not approve.
func (c *Client) Approve(ctx context.Context, r *Request, a Approval) error {
	for tried := 1; ; tried++ {
		object, err := c.get(ctx, r.Name)
		if err != nil {
			return err
		}
		if err := r.compare(object); err != nil {
			return err
		}
		if _, err := r.judge(object); err != nil {
			return err
		}
		if condition(object, certificates.CertificateApproved) != nil {
			return nil
		}
		object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
			Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: a.Reason, Message: a.Message,
		})
		err = c.putApproval(ctx, object)
		if !apierrors.IsConflict(err) || tried == approvals {
			return explainApproval(err, r)
		}
	}
}

func (c *Client) putApproval(ctx context.Context, object *certificates.CertificateSigningRequest) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.rest.Put().Resource(resource).Name(object.Name).SubResource("approval").Body(object).MaxRetries(0).Do(ctx).Error()
}

// explainApproval gives an error of an approval its class. To approve takes two rights, and the admission plugin
// CertificateApproval asks for the second one: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization
func explainApproval(err error, r *Request) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	switch {
	case err == nil:
		return nil
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %w", ErrUnauthorized, lineError{err})
	case apierrors.IsForbidden(err):
		return fault.New(fault.Refused,
			"ask for the right to update certificatesigningrequests/approval and to approve signers named "+r.Template.SignerName+
				", or have somebody who has it run: kubectl certificate approve "+r.Name,
			"the credential may not approve the request: %w", lineError{err})
	}
	return fmt.Errorf("cannot approve the request %s: %w", r.Name, lineError{err})
}
