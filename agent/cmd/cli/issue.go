package cli

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"k8s.io/client-go/tools/clientcmd/api/v1"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/issue"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

// cluster is the one that an administrator's kubeconfig leads to, as others are to be told of it.
type cluster struct {
	admin     *admin.Client
	forOthers *bootstrap.Cluster
	server    string // URL, for others
	given     bool   // somebody said which
}

// openCluster reads the administrator's kubeconfig. Nothing is sent yet.
func openCluster(kubeconfig, server string) (*cluster, error) {
	client, err := admin.Connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	others, err := client.Cluster().ForNodes(time.Now())
	if err != nil {
		return nil, err
	}
	c := &cluster{admin: client, forOthers: others, server: others.Endpoints[0].URL()}
	if server == "" {
		return c, nil
	}
	endpoint, err := bootstrap.ParseEndpoint(server)
	if err != nil {
		return nil, err
	}
	// The name in the certificate and the way to the server are those of the kubeconfig's own.
	c.server, c.given, others.TLSServerName, others.ProxyURL = endpoint.URL(), true, "", nil
	return c, nil
}

// kubeconfig returns what leads a user to the cluster.
func (c *cluster) kubeconfig(user, namespace string, chain []byte, key issue.Key) (*v1.Config, error) {
	k := issue.Kubeconfig{
		Server: c.server, TLSServerName: c.forOthers.TLSServerName, CA: c.forOthers.CA.PEM(),
		User: user, Namespace: namespace, Chain: chain, Key: key,
	}
	if c.forOthers.ProxyURL != nil {
		k.ProxyURL = c.forOthers.ProxyURL.String()
	}
	return k.Config()
}

// loopbackNote says that nobody else can reach an address of this machine alone.
func (c *cluster) loopbackNote(p *program, who string) {
	u, err := url.Parse(c.server)
	if err != nil || c.given {
		return
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		p.say("note: %s is an address of this machine alone: give one that %s can reach with --server", u.Host, who)
	}
}

// issueFrom has a request signed, and says what it waits for.
func (p *program) issueFrom(ctx context.Context, place *cluster, request *csr.Request, timeout time.Duration, approval *csr.Approval) (*csr.Issued, error) {
	p.logger() // which the libraries' goes through
	client, err := csr.NewClient(place.admin.Server(), place.admin.Transport(), admin.UserAgent)
	if err != nil {
		return nil, err
	}
	progress := newProgress(p.stderr)
	defer progress.stop()
	issuer := issue.Issuer{
		Client: client, Roots: place.forOthers.CA.Certificates(), Approval: approval, Kubeconfig: place.admin.Kubeconfig(),
		Report: func(w csr.Progress) {
			if w.Approved {
				progress.tell(agent.Notice{Waiting: true, Text: "the request " + w.Name + " is approved and waits for the cluster's signer"})
				return
			}
			progress.tell(agent.Notice{
				Waiting: true, Text: fmt.Sprintf("the request %s (by %s) waits for approval", w.Name, w.Username), Remedy: "kubectl certificate approve " + w.Name,
			})
		},
	}
	return issuer.Issue(ctx, request, timeout)
}

// longerNote says that a signer gave more than it was asked for.
func (p *program) longerNote(issued *csr.Issued, asked time.Duration) {
	const tolerance = time.Minute
	if asked == 0 {
		return
	}
	if left := time.Until(issued.Leaf.NotAfter); left > asked+tolerance {
		p.say("note: the cluster's signer gave it %s and not the %s that were asked for", inWords(left.Round(time.Minute)), asked)
	}
}

// say tells a person something that is no result.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "nodejoin: %s\n", oneLine(fmt.Sprintf(format, args...)))
}
