package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// WhoAmI returns the username that the API server knows the kubeconfig's user by.
func (c *Client) WhoAmI(ctx context.Context) (string, error) {
	var review authentication.SelfSubjectReview
	if err := c.Create(ctx, &review); err != nil {
		return "", fmt.Errorf("cannot see who you are: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}

// MayJoin reports whether a user in these groups may create certificate signing requests, and has one for itself as a node
// approved by the cluster: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#approval
func (c *Client) MayJoin(ctx context.Context, user string, groups []string) (bool, error) {
	for _, subresource := range []string{"", "selfnodeclient"} {
		review := authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
			User: user, Groups: groups, ResourceAttributes: &authorization.ResourceAttributes{
				Verb: "create", Group: certificates.GroupName, Resource: "certificatesigningrequests", Subresource: subresource,
			},
		}}
		if err := c.Create(ctx, &review); err != nil || !review.Status.Allowed {
			return false, err
		}
	}
	return true, nil
}

// ErrUnasked says that it is not known what the kubeconfig's user may do: the question could not be asked.
var ErrUnasked = errors.New("cannot see what you may do")

// CheckApprover returns an error of [fault.Refused], with what is missing, where the kubeconfig's user may not approve the
// requests of a signer, and of [ErrUnasked] where that cannot be found out. That takes two rights, and the second one for the signer's name or for all of its domain:
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization
func (c *Client) CheckApprover(ctx context.Context, signer string) error {
	const signers, requests = "signers", "certificatesigningrequests"
	domain, _, _ := strings.Cut(signer, "/")
	var missing []string
	var unasked error
	for _, right := range []struct {
		what string
		any  []authorization.ResourceAttributes // one of which is enough
	}{
		{"update " + requests + "/approval", []authorization.ResourceAttributes{
			{Verb: "update", Group: certificates.GroupName, Resource: requests, Subresource: "approval"},
		}},
		{"approve " + signers + "/" + signer, []authorization.ResourceAttributes{
			{Verb: "approve", Group: certificates.GroupName, Resource: signers, Name: signer},
			{Verb: "approve", Group: certificates.GroupName, Resource: signers, Name: domain + "/*"},
		}},
	} {
		allowed, err := c.mayOneOf(ctx, right.any)
		switch {
		case err != nil:
			unasked = err
		case !allowed:
			missing = append(missing, right.what)
		}
	}
	if len(missing) == 0 {
		return unasked
	}
	// Of one right on signers kubectl auth can-i says no in any case: they are no resource that the API server lists.
	return fault.New(fault.Refused, "use a kubeconfig whose user may (--kubeconfig), or have it allowed; to see what yours may: kubectl auth can-i --list",
		"your user may not %s, and nothing was asked for", strings.Join(missing, ", nor "))
}

// mayOneOf reports whether the kubeconfig's user may do one of some things.
func (c *Client) mayOneOf(ctx context.Context, things []authorization.ResourceAttributes) (bool, error) {
	for _, thing := range things {
		review := authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &thing}}
		if err := c.Create(ctx, &review); err != nil {
			return false, fmt.Errorf("%w: %w", ErrUnasked, err)
		}
		if review.Status.Allowed {
			return true, nil
		}
	}
	return false, nil
}
