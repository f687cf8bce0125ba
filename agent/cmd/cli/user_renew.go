package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/issue"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

// renewUser puts a new certificate into a kubeconfig.
func (p *program) renewUser(cmd *cobra.Command, o *userOptions) error {
	owned, err := issue.ReadOwned(o.renew)
	if err != nil {
		return err
	}
	if o.name != "" && o.name != owned.Leaf.Subject.CommonName {
		return fault.New(fault.Usage, "leave the name out", "the kubeconfig %s is of the user %q, not %q", o.renew, owned.Leaf.Subject.CommonName, o.name)
	}
	o.name, o.groups = owned.Leaf.Subject.CommonName, owned.Leaf.Subject.Organization
	if err := o.checkSubject(); err != nil {
		return err
	}
	place, err := openCluster(o.kubeconfig, "")
	if err != nil {
		return err
	}
	if ca, err := bootstrap.ParseBundle(owned.CA, time.Now()); err == nil && ca.Without(place.forOthers.CA).Equal(ca) {
		return fault.New(fault.Usage, "give an administrator's kubeconfig of the same cluster with --kubeconfig",
			"the kubeconfig %s is of another cluster than that of %s: their CAs differ", o.renew, place.admin.Kubeconfig())
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	if err := p.checkUsersApprover(ctx, o, place); err != nil {
		return err
	}
	keep := issue.Pending{Path: o.renew + issue.PendingSuffix}
	request, err := o.renewalRequest(owned, keep)
	if err != nil {
		return err
	}
	inline := owned.KeyPath == ""
	issued, err := p.issueUser(ctx, o, place, request)
	if err != nil {
		return o.giveUp(keep, inline, err)
	}
	var key []byte
	if inline {
		if key, err = csr.MarshalKey(request.Key); err != nil {
			return err
		}
	}
	data, err := owned.With(issued.Chain, key)
	if err != nil {
		return err
	}
	if err := issue.Replace(o.renew, data); err != nil {
		return err
	}
	if err := keep.Done(); err != nil {
		return err
	}
	p.userNotes(o, place, issued)
	return p.bind(ctx, o, place, issued)
}

// renewalRequest returns a request with a new key, or with the one that lies in a file of its own.
func (o *userOptions) renewalRequest(owned *issue.Owned, keep issue.Pending) (*csr.Request, error) {
	template := issue.UserTemplate(o.name, o.groups, o.lifetime)
	if owned.KeyPath == "" {
		if o.csrFile != "" {
			return nil, fault.New(fault.Usage, "leave --csr out", "the kubeconfig %s has its key in it: it gets a new one", o.renew)
		}
		return keep.Request(template, csr.Algorithm(o.algorithm))
	}
	if o.csrFile != "" {
		return o.readCSR()
	}
	data, err := issue.ReadSmall(owned.KeyPath)
	if err != nil {
		return nil, fault.New(fault.Usage, "have the key's owner make a request (openssl req -new -key KEY -subj ...), and give it with --csr", "the key of the kubeconfig %s cannot be read: %w", o.renew, err)
	}
	key, err := csr.ParseKey(data)
	if err != nil {
		return nil, fault.New(fault.Usage, "have the key's owner make a request (openssl req -new -key KEY -subj ...), and give it with --csr", "there is no usable key in %s", owned.KeyPath)
	}
	return csr.NewRequest(template, key)
}

// readCSR reads the request of a key's owner. It must be for the user who is named, in the groups that are named.
func (o *userOptions) readCSR() (*csr.Request, error) {
	subject := ""
	if len(o.groups) != 0 {
		subject = "/O=" + strings.Join(o.groups, "/O=")
	}
	anew := fmt.Sprintf("openssl req -new -key KEY -subj '%s/CN=%s' -out %s", subject, o.name, o.csrFile)
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Usage, "have the key's owner make it anew: "+anew, "the request %s "+format, append([]any{o.csrFile}, args...)...)
	}
	data, err := issue.ReadSmall(o.csrFile)
	if err != nil {
		return nil, wrong("cannot be read: %w", err)
	}
	request, err := csr.ParseRequest(data, issue.UserTemplate(o.name, nil, o.lifetime))
	if err != nil {
		return nil, wrong("cannot be used: %w", err)
	}
	if request.Template.CommonName != o.name {
		return nil, wrong("is for the user %q, not %q", request.Template.CommonName, o.name)
	}
	if len(o.groups) != 0 && !issue.SameGroups(request.Template.Organization, o.groups) {
		return nil, wrong("is for the groups %q, not %q", request.Template.Organization, o.groups)
	}
	return request, issue.CheckGroups(request.Template.Organization)
}
