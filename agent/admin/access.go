package admin

import (
	"context"
	"fmt"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	certificates "k8s.io/api/certificates/v1"
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
