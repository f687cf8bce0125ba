package agent

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

// ownName is what the ladder's first rung is called.
const ownName = "the node's own certificate"

// ladder returns the ways to ask for the identity: the node's own certificate while it works, then each credential that
// is configured, in its order.
func (a *Agent) ladder(s *sight) []way {
	var ways []way
	joined := a.clusterJoined(s.disk)
	reason, _ := a.identity.judge(s)
	if joined != nil && s.found.Pair != nil && reason.Usable() && !a.identity.isDead(s.found.Pair) && (a.daemon || !a.identity.wants().forced) {
		ways = append(ways, a.ownWay(joined, s.found.Pair))
	}
	accesses := a.config.accesses()
	for i, x := range accesses {
		if i < len(a.lastDiscoveries) {
			x.discovery = sameAttempt(a.lastDiscoveries[i], x.discovery)
		}
		if by, ok := x.discovery.(*bootstrap.ByToken); ok {
			by.Log = a.log
		}
		// The cluster as it was joined has followed its CA since, which pins and files have not.
		if a.daemon && joined != nil && x.credential != nil {
			w := a.credentialWay(x, &bootstrap.Known{Cluster: *joined})
			w.joined = true
			ways = append(ways, w)
		}
		if missing := x.missing(); missing == nil || !a.daemon || joined == nil || x.credential == nil {
			w := a.credentialWay(x, x.discovery)
			w.missing = missing
			ways = append(ways, w)
		}
	}
	a.lastDiscoveries = make([]bootstrap.Discovery, len(accesses))
	for i, x := range accesses {
		a.lastDiscoveries[i] = x.discovery
	}
	return ways
}

func (a *Agent) ownWay(cluster *bootstrap.Cluster, pair *rotate.KeyPair) way {
	return way{
		name: ownName, own: true, pair: pair, joined: true,
		remedy: "give a credential, so that the node can join again: kubeadm token create, then put the token into " + DefaultTokenFile,
		connect: func(ctx context.Context) (*bootstrap.Cluster, *bootstrap.Connection, error) {
			conn := a.connectionTo(cluster, pair)
			return cluster, conn, conn.Open(ctx)
		},
		authenticate: func(next http.RoundTripper) http.RoundTripper { return next },
	}
}

func (a *Agent) credentialWay(x *access, discovery bootstrap.Discovery) way {
	if x.credential == nil {
		return way{name: x.name} // missing says so
	}
	connect := bootstrap.Connect
	if x.via != nil {
		connect = x.via.Connect
	}
	return way{
		name: x.credential.String(), remedy: x.credential.Remedy(), credential: x.credential, via: x.via,
		authenticate: func(next http.RoundTripper) http.RoundTripper { return bootstrap.Authenticate(x.credential, next) },
		connect: func(ctx context.Context) (*bootstrap.Cluster, *bootstrap.Connection, error) {
			if _, err := x.credential.Proof(ctx); err != nil {
				return nil, nil, err
			}
			cluster, conn, err := connect(ctx, discovery, x.credential, a.log)
			if conn != nil {
				conn.Observe = a.observe
				a.observe(conn.Endpoint(), nil)
			}
			return cluster, conn, err
		},
	}
}

// connectionTo returns a connection to the cluster as the node.
func (a *Agent) connectionTo(cluster *bootstrap.Cluster, pair *rotate.KeyPair) *bootstrap.Connection {
	conn := bootstrap.ConnectionTo(cluster, a.log)
	conn.Present(pair.TLS())
	conn.Observe = a.observe
	return conn
}

// clusterJoined returns the cluster that this machine has joined, as its files tell it, with the servers that are
// configured; nil where they do not.
func (a *Agent) clusterJoined(disk *rotate.Disk) *bootstrap.Cluster {
	if disk == nil {
		return nil
	}
	var candidates []*rotate.Kubeconfig
	if disk.Kubeconfig != nil {
		candidates = append(candidates, disk.Kubeconfig)
	}
	if c := disk.Cluster; c != nil {
		around := &rotate.Kubeconfig{Server: c.Server, TLSServerName: c.TLSServerName, ProxyURL: c.ProxyURL}
		for _, ca := range [][]byte{disk.CA, []byte(c.CA)} { // the file follows the cluster; what is remembered is for when it is gone
			with := *around
			with.CA = ca
			candidates = append(candidates, &with)
		}
	}
	for _, k := range candidates {
		if cluster, err := clusterOf(k); err == nil {
			for _, e := range a.config.site.Endpoints {
				if !slices.Contains(cluster.Endpoints, e) {
					cluster.Endpoints = append(cluster.Endpoints, e)
				}
			}
			cluster.Named = true // the kubeconfig goes on naming its server
			return cluster
		}
	}
	return nil
}

// clusterOf returns the cluster that the node's own kubeconfig names.
func clusterOf(k *rotate.Kubeconfig) (*bootstrap.Cluster, error) {
	damaged := func(err error) error {
		return fault.New(fault.Files, "remove it and join again, with --force", "the node's kubeconfig cannot be used: %w", err)
	}
	endpoint, err := bootstrap.ParseEndpoint(k.Server)
	if err != nil {
		return nil, damaged(err)
	}
	ca, err := bootstrap.ParseBundle(k.CA, time.Now())
	if err != nil {
		return nil, damaged(err)
	}
	proxy, err := bootstrap.ParseProxyURL(k.ProxyURL)
	if err != nil {
		return nil, damaged(err)
	}
	return &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: ca, TLSServerName: k.TLSServerName, ProxyURL: proxy}, nil
}
