package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

// A token that was made just now is not known at once, and one 401 may be a balancer's: a discovery by token makes up its
// mind within that many attempts.
const (
	discoverTries = 3
	discoverPause = 600 * time.Millisecond
)

// discovered is what became of the discovery of one of the accesses.
type discovered struct {
	cluster *bootstrap.Cluster
	err     error
	skipped string // why it was not made
}

// discover makes the discoveries of all accesses.
func (e *examination) discover(ctx context.Context) []discovered {
	results := make([]discovered, len(e.Accesses))
	var all sync.WaitGroup
	for i, access := range e.Accesses {
		switch d := access.Discovery.(type) {
		case nil:
			switch results[i].err = access.DiscoveryErr; {
			case results[i].err == nil:
				results[i].skipped = "nothing says how the cluster is found"
			case access.Lacking && errors.Is(access.DiscoveryErr, access.CredentialErr) && e.handed() != "":
				results[i].err, results[i].skipped = nil, "it takes the token that systemd hands to the service"
			}
		case *bootstrap.ByToken:
			token := e.liveOf(d)
			if len(token.Site.Endpoints) == 0 {
				results[i].skipped = "there is no API server that can be connected to"
				continue
			}
			all.Go(func() { results[i].cluster, results[i].err = persist(ctx, token) })
		default:
			all.Go(func() { results[i].cluster, results[i].err = persist(ctx, d) })
		}
	}
	all.Wait()
	return results
}

// liveOf returns the same discovery by token, with those servers alone that can be connected to.
func (e *examination) liveOf(d *bootstrap.ByToken) *bootstrap.ByToken {
	live := &bootstrap.ByToken{Site: d.Site, Token: d.Token, Pins: d.Pins, SkipPins: d.SkipPins}
	if e.Cluster == nil || d.Site.ProxyURL != nil { // the ways are not known, or end at the proxy
		return live
	}
	var works, all []bootstrap.Endpoint
	for _, p := range e.paths() {
		all = append(all, p.endpoint)
		if p.works() {
			works = append(works, p.endpoint)
		}
	}
	live.Site.Endpoints = nil
	for _, endpoint := range d.Site.Endpoints {
		if slices.Contains(works, endpoint) || !slices.Contains(all, endpoint) {
			live.Site.Endpoints = append(live.Site.Endpoints, endpoint)
		}
	}
	return live
}

// persist repeats a discovery until it succeeds, fails for good, or has had its tries.
func persist(ctx context.Context, d bootstrap.Discovery) (cluster *bootstrap.Cluster, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer within %s", askLimit))
	defer cancel()
	for try := 1; ; try++ {
		cluster, err = d.Discover(ctx)
		if err == nil || fault.IsFinal(err) || try == discoverTries || !pause(ctx, discoverPause) {
			return cluster, err
		}
	}
}

// pause waits, and reports whether it did to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *examination) checkDiscovery(f *findings) {
	results := e.discovered()
	works := slices.ContainsFunc(results, func(d discovered) bool { return d.cluster != nil })
	bad := e.toJoin()
	if works {
		bad = Warning
	}
	var told []string // several accesses may share a discovery, and then its trouble
	for i, d := range results {
		switch {
		case d.err != nil:
			if text := d.err.Error(); !slices.Contains(told, text) {
				told = append(told, text)
				f.fail(bad, fmt.Errorf("%sthe cluster is not found: %w", e.later(), d.err), "look at cluster-info: kubectl --namespace kube-public get configmap cluster-info --output yaml")
			}
		case d.skipped != "":
			f.skip("%s", d.skipped)
		default:
			e.compareCA(f, e.Accesses[i].Discovery, d.cluster)
		}
	}
	if len(results) == 0 {
		f.skip("no way is configured in which a machine without a certificate finds its cluster")
	}
}

// compareCA tells what a discovery found, and whether that is the cluster that this machine trusts already.
func (e *examination) compareCA(f *findings, d bootstrap.Discovery, found *bootstrap.Cluster) {
	source := "the cluster's CA is known beforehand"
	switch d := d.(type) {
	case *bootstrap.ByToken:
		source = "cluster-info is signed with the bootstrap token " + d.Token.ID + ", which is alive"
		if d.SkipPins && len(d.Pins) == 0 {
			source += " (the CA in it is taken without a pin)"
		}
	case *bootstrap.FromURL:
		source = "the discovery file was fetched from " + d.String()
	}
	if e.Cluster != nil && !e.Cluster.CA.IsZero() && found.CA.Without(e.Cluster.CA).Equal(found.CA) {
		f.add(e.toJoin(), "find out which is right; to join that cluster: nodejoin join --force ...", "%s, but none of its CA certificates is among those that this machine trusts: %s", source, found.CA)
		return
	}
	f.ok("%s", source)
}

// checkCredentials looks whether there is something to show to the cluster, and what the cluster lets it do.
func (e *examination) checkCredentials(ctx context.Context, f *findings) {
	verified := e.verified()
	results := make([]findings, len(e.Accesses))
	var all sync.WaitGroup
	for i, access := range e.Accesses {
		switch {
		case access.Credential != nil && access.Spends:
			results[i].ok("there is %s", access.Credential)
			results[i].skip("what the cluster lets it do: to ask would spend its refresh token")
		case access.Credential != nil && verified != nil:
			all.Go(func() { e.tryCredential(ctx, &results[i], verified, access) })
		case access.Credential != nil:
			results[i].ok("there is %s", access.Credential)
			results[i].skip("what the cluster lets it do: %s", notVerified)
		case access.Lacking && e.handed() != "":
			results[i].add(Warning, "start it, and run this again: systemctl start "+unit,
				"%sthere is no credential in a file; systemd hands a token to the service (%s), which is looked at here once the service runs with it", e.later(), e.handed())
		case access.CredentialErr != nil:
			results[i].fail(Failure, access.CredentialErr, "give one with --token-file")
		}
	}
	all.Wait()
	enough := slices.ContainsFunc(results, func(one findings) bool { return len(one) != 0 && !one.has(Failure) })
	for _, one := range results {
		for _, finding := range one {
			switch {
			case finding.Level == Failure && e.joined():
				finding.Level, finding.Text = Warning, e.later()+finding.Text
			case finding.Level == Failure && enough:
				finding.Level = Warning // another one will do
			}
			*f = append(*f, finding)
		}
	}
	if len(*f) == 0 {
		f.add(e.toJoin(), "give one with --token-file; make one with: kubeadm token create", "there is no credential to ask for a certificate with")
	}
}

// tryCredential asks a verified API server about a credential, or the proxy in front of it that the credential is for.
func (e *examination) tryCredential(ctx context.Context, f *findings, cluster *bootstrap.Cluster, access Access) {
	credential := access.Credential
	if access.Via != nil {
		cluster = access.Via.To(cluster)
	}
	conn := bootstrap.ConnectionTo(cluster, nil)
	conn.Certificate = bootstrap.Certificate(credential)
	defer conn.Close()
	who, err := e.review(ctx, &caller{conn: conn, transport: bootstrap.Authenticate(credential, conn)})
	switch {
	case errors.Is(err, csr.ErrUnauthorized):
		f.add(Failure, credential.Remedy(), "%s is refused (401): %s", credential, cmp.Or(bootstrap.WhyRefused(ctx, credential, e.Now(), 0), "it expired, was deleted, or is of another cluster"))
		return
	case slices.Contains([]fault.Class{fault.Usage, fault.Refused, fault.Untrusted}, fault.ClassOf(err)):
		f.fail(Failure, err, credential.Remedy())
		return
	case err != nil:
		f.add(Warning, "run it again", "could not find out whether %s is accepted: %s", credential, err)
		return
	}
	if node, isNode := strings.CutPrefix(who.Username, csr.NodeUser); isNode && node != e.Node {
		f.add(Failure, credential.Remedy(), "%s can become the node %q alone, and this machine is %q", credential, node, e.Node)
		return
	}
	f.ok("%s authenticates as %q", credential, who.Username)
	if !who.May(review.Request) {
		f.add(Failure, bind(who, "kubeadm:kubelet-bootstrap", "system:node-bootstrapper"), "%q may not create certificate signing requests", who.Username)
		return
	}
	itself := who.Username == csr.NodeUser+e.Node && who.May(review.Rotate) // a joiner that can become this node alone
	if !who.May(review.Join) && !itself {
		f.add(Warning, bind(who, "kubeadm:node-autoapprove-bootstrap", roleJoin), "nobody approves the requests of %q by itself, unless the cluster has an approver of its own: a person has to", who.Username)
	}
}

// kubeadmGroup is the group that kubeadm's own bindings are for.
const kubeadmGroup = "system:bootstrappers:kubeadm:default-node-token"

// bind returns the command that binds a role to the group that a user is likely to have been put into for it. A cluster of
// kubeadm has a binding of kubeadm's name already, for kubeadm's group: one for another is called after that.
func bind(u *review.Subject, name, role string) string {
	flag, whom := "--user=", u.Username
	for _, group := range u.Groups {
		switch {
		case group == "system:bootstrappers" && flag == "--user=", strings.HasPrefix(group, "system:bootstrappers:"), group == review.JoinersGroup:
			flag, whom = "--group=", group
		}
	}
	if whom != kubeadmGroup {
		name = "nodejoin:" + strings.TrimPrefix(name, "kubeadm:") + ":" + fault.Name(strings.TrimPrefix(whom, "system:"))
	}
	return fmt.Sprintf("kubectl create clusterrolebinding %s --clusterrole=%s %s%s", name, role, flag, fault.Word(whom))
}
