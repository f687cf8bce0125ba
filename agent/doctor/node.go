package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

const (
	// The roles that allow to create what package review asks about.
	roleJoin   = "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
	roleRotate = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"

	refusalTries = 3 // one 401 may be a balancer's
	refusalPause = 200 * time.Millisecond
)

// caller is somebody at a connection.
type caller struct {
	conn      *bootstrap.Connection
	transport http.RoundTripper // of conn, with a credential
}

// review asks who the caller is and what it may do. The error wraps [csr.ErrUnauthorized] if the API server does not
// know it, over several connections.
func (e *examination) review(ctx context.Context, c *caller) (*review.Subject, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer within %s", askLimit))
	defer cancel()
	asker := review.Asker{Transport: c.transport, UserAgent: e.UserAgent}
	for try := 1; ; try++ {
		user, err := asker.Ask(ctx, review.Request, review.Join, review.Rotate)
		if err == nil {
			err = user.MayErr()
		}
		if !errors.Is(err, csr.ErrUnauthorized) || try == refusalTries {
			return user, err
		}
		c.conn.Next()
		if !pause(ctx, refusalPause) {
			return nil, err
		}
	}
}

// identity is what an API server says of this node's certificate.
type identity struct {
	user    *review.Subject
	err     error
	skipped string // why it was not asked
}

func (e *examination) askAsNode(ctx context.Context) identity {
	if !e.joined() {
		return identity{skipped: "this machine has no valid certificate of the node"}
	}
	cluster := e.verified()
	if cluster == nil {
		return identity{skipped: notVerified}
	}
	conn := bootstrap.ConnectionTo(cluster, nil)
	conn.Present(e.Disk.Pair.TLS())
	defer conn.Close()
	user, err := e.review(ctx, &caller{conn: conn, transport: conn})
	return identity{user: user, err: err}
}

// checkRotation looks whether the API server knows this node and will have its next certificate approved.
func (e *examination) checkRotation(f *findings) {
	node := e.asNode()
	switch {
	case node.skipped != "":
		f.skip("%s", node.skipped)
		return
	case errors.Is(node.err, csr.ErrUnauthorized):
		f.add(Failure, "if the CA that signs clients was rotated, let this machine join again with a credential: nodejoin join --force ...; else look at the API server's --client-ca-file",
			"the API server does not know this node's certificate (401)")
		return
	case node.err != nil:
		f.add(Warning, "run it again", "could not find out what this node may do: %s", node.err)
		return
	}
	user := node.user
	if user.Username != csr.NodeUser+e.Node || !slices.Contains(user.Groups, csr.NodesGroup) {
		f.add(Failure, "look at the API server's authentication configuration: something maps the certificate to another user",
			"the API server takes this node for %q in %q instead of %q in %s", user.Username, user.Groups, csr.NodeUser+e.Node, csr.NodesGroup)
		return
	}
	f.ok("this machine authenticates as %q", user.Username)
	if !user.May(review.Request) {
		f.add(Failure, "have the node authorizer on (--authorization-mode=Node,RBAC), or: kubectl create clusterrolebinding nodejoin:nodes-request --clusterrole=system:node-bootstrapper --group="+csr.NodesGroup,
			"this node may not create certificate signing requests: it cannot ask for its next certificate")
		return
	}
	if !user.May(review.Rotate) {
		f.add(Failure, "kubectl create clusterrolebinding kubeadm:node-autoapprove-certificate-rotation --clusterrole="+roleRotate+" --group="+csr.NodesGroup,
			"this node's requests for its next certificate are not approved by themselves: a ClusterRoleBinding is missing, and without it the certificate will expire (unless the cluster has an approver of its own)")
		return
	}
	f.ok("this node may ask for its next certificate and have it approved")
}

// checkTrust looks where the cluster's CA bundle can be followed from, before its CA is rotated.
func (e *examination) checkTrust(ctx context.Context, f *findings) {
	if e.FixedTrust {
		f.skip("the CA bundle is not to follow the cluster's (trust.follow: false)")
		return
	}
	cluster := e.verified()
	if cluster == nil {
		f.skip(notVerified)
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer within %s", askLimit))
	defer cancel()
	sources := []struct {
		name string
		read func() (bootstrap.Bundle, error)
		ca   bootstrap.Bundle
		err  error
	}{
		{name: "the ClusterTrustBundles of the cluster", read: func() (bootstrap.Bundle, error) {
			if !e.joined() {
				return bootstrap.Bundle{}, errors.New("they are read as the node, which this machine is not yet")
			}
			conn := bootstrap.ConnectionTo(cluster, nil)
			conn.Present(e.Disk.Pair.TLS())
			defer conn.Close()
			return bootstrap.FetchTrustBundle(ctx, conn, e.UserAgent, e.Now())
		}},
		{name: "cluster-info", read: func() (bootstrap.Bundle, error) { return bootstrap.FetchClusterInfoCA(ctx, cluster, e.Now()) }},
	}
	var all sync.WaitGroup
	for i := range sources {
		all.Go(func() { sources[i].ca, sources[i].err = sources[i].read() })
	}
	all.Wait()
	for _, source := range sources {
		if source.err != nil {
			continue
		}
		differs := ""
		if !source.ca.Equal(cluster.CA) {
			differs = "; what they say now is not what this machine trusts"
		}
		f.ok("the cluster's CA can be followed: from %s%s", source.name, differs)
		return
	}
	f.add(Warning, "publish it, on a control-plane node: kubeadm init phase bootstrap-token; or let nodes read ClusterTrustBundles (Kubernetes 1.37)",
		"the cluster's CA cannot be followed when it is rotated: %s; %s", sources[0].err, sources[1].err)
}
