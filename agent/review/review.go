// Package review asks an API server who a caller is, and what it may do about its certificates: the SelfSubjectReview and
// SelfSubjectAccessReviews of a connection with a credential.
//
// It asks once, all questions at the same time. Whether a refusal is believed is the caller's affair: one may come from a
// balancer, or from a server that is just starting.
package review

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

// What a caller may create: certificate signing requests, and the subresources that the approver of kube-controller-manager
// asks about when a node wants its first certificate and its next one
// (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#approval).
const (
	Request = ""
	Join    = "nodeclient"
	Rotate  = "selfnodeclient"
)

// JoinersGroup is the group of identities that can become one node only: whose user name is that of the node, and who are not
// in the group of nodes, so that they may do nothing else.
const JoinersGroup = "nodejoin:joiners"

// ErrForbidden is wrapped in the error of a review that the API server forbids.
var ErrForbidden = errors.New("forbidden")

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// Subject is who a caller is to the API server.
type Subject struct {
	Username string
	Groups   []string

	may    map[string]bool
	mayErr error
}

// May reports whether it may create one of what was asked for.
func (s *Subject) May(create string) bool { return s.may[create] }

// MayErr returns why it is not known what the subject may do; nil if it is known.
func (s *Subject) MayErr() error { return s.mayErr }

// Asker asks.
type Asker struct {
	Transport http.RoundTripper // a connection to an API server, which is the host of every request
	UserAgent string
}

// Ask asks who that is, and whether it may create what is listed. The error wraps [csr.ErrUnauthorized] where the API server
// does not know the credential, and [ErrForbidden] where it says nothing of it.
func (a *Asker) Ask(ctx context.Context, mayCreate ...string) (*Subject, error) {
	s := &Subject{may: map[string]bool{}}
	errs := make([]error, len(mayCreate))
	allowed := make([]bool, len(mayCreate))
	var all sync.WaitGroup
	for i, subresource := range mayCreate {
		all.Go(func() { allowed[i], errs[i] = a.may(ctx, subresource) })
	}
	var self authentication.SelfSubjectReview
	err := a.post(ctx, "/apis/authentication.k8s.io/v1/selfsubjectreviews", authentication.SelfSubjectReview{}, &self)
	all.Wait()
	for i, asked := range errs {
		switch {
		case errors.Is(asked, csr.ErrUnauthorized):
			err = asked // with 401 the API server ends the connection, and the other requests may see no more than that
		case asked != nil && s.mayErr == nil:
			s.mayErr = asked
		}
		s.may[mayCreate[i]] = allowed[i]
	}
	if err != nil {
		return nil, err
	}
	s.Username, s.Groups = self.Status.UserInfo.Username, self.Status.UserInfo.Groups
	return s, nil
}

func (a *Asker) may(ctx context.Context, subresource string) (bool, error) {
	var access authorization.SelfSubjectAccessReview
	err := a.post(ctx, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", authorization.SelfSubjectAccessReview{
		Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorization.ResourceAttributes{
			Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: subresource,
		}},
	}, &access)
	return access.Status.Allowed, err
}

// post creates an object of the API and reads the answer into out.
func (a *Asker) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api-server"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", a.UserAgent)
	resp, err := a.Transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("cannot ask the API server: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("the API server's answer broke off: %w", err)
	case resp.StatusCode != http.StatusCreated:
		return refusal(resp.StatusCode, path, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the API server's answer to %s is none: %w", path, err)
	}
	return nil
}

// refusal returns the error of an answer that is not what was asked for.
func refusal(code int, path string, answer []byte) error {
	var status struct{ Message string } // of meta/v1, if it is an API server that answers
	_ = json.Unmarshal(answer, &status)
	text := fmt.Sprintf("the API server answered %d %s to %s: %s", code, http.StatusText(code), path, status.Message)
	switch code {
	case http.StatusUnauthorized:
		return csr.ErrUnauthorized
	case http.StatusForbidden:
		return fault.New(fault.Unexpected, "give every user what every cluster gives: kubectl create clusterrolebinding system:basic-user --clusterrole=system:basic-user --group=system:authenticated",
			"this machine may not ask who it is (%w): %s", ErrForbidden, text)
	case http.StatusNotFound:
		return fault.New(fault.Unexpected, "the cluster must run Kubernetes 1.28 or later", "the API server does not tell users who they are: %s", text)
	}
	return errors.New(text)
}
