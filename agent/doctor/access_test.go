//go:build linux

package doctor

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

func TestDiscovery(t *testing.T) {
	token := bootstrap.Token{ID: tokenID, Secret: bootstrap.NewSecret(tokenSecret)}
	examineEach(t, []trial{
		{"the token is not known", beforeJoin(func(_ *testing.T, p *patient) {
			p.server.clusterInfo["jws-kubeconfig-aaaaaa"] = p.server.clusterInfo["jws-kubeconfig-"+tokenID]
			delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID)
		}), []wanted{
			{"discovery", Failure, "does not know the bootstrap token " + tokenID + ": it expired, was deleted", "kubeadm token create"},
			{"tls", Skipped, "no CA is known", ""},
			{"ca", Skipped, "no CA is known", ""},
			{"credential", OK, "there is the bootstrap token", ""},
		}},
		{"the token is not known, and is not needed now", func(_ *testing.T, p *patient) {
			p.server.clusterInfo["jws-kubeconfig-aaaaaa"] = "x"
			delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID)
			delete(p.server.users, tokenID+"."+tokenSecret)
		}, []wanted{
			{"discovery", Warning, "does not know the bootstrap token", "kubeadm token create"},
			{"credential", Warning, "needed only once this node's certificate has expired: the bootstrap token " + tokenID + " is refused (401)", "kubeadm token create"},
			{"rotation", OK, "approved", ""},
		}},
		{"nobody signs", beforeJoin(func(_ *testing.T, p *patient) { delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID) }), []wanted{
			{"discovery", Failure, "nor for any other: the cluster has no live bootstrap token", "nodejoin token create"},
		}},
		{"another secret", beforeJoin(func(_ *testing.T, p *patient) {
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Token.Secret = bootstrap.NewSecret("0123456789abcdef")
		}), []wanted{{"discovery", Failure, "is not signed with the secret of the token", "check the token's second half"}}},
		{"another pin", beforeJoin(func(_ *testing.T, p *patient) {
			p.Pins = []bootstrap.Pin{{1}}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Pins = p.Pins
		}), []wanted{{"discovery", Failure, "has a pinned key", "if the CA was rotated"}}},
		{"another pin, long after the join", func(_ *testing.T, p *patient) {
			p.Pins = []bootstrap.Pin{{1}}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Pins = p.Pins
		}, []wanted{{"discovery", Warning, "has a pinned key", "if the CA was rotated"}, {"ca", Warning, "pinned", "caCertHashes"}}},
		{"no pin", beforeJoin(func(_ *testing.T, p *patient) {
			p.Pins = nil
			p.Accesses[0].Discovery = &bootstrap.ByToken{Site: *p.Cluster, Token: token, SkipPins: true}
		}), []wanted{{"discovery", OK, "taken without a pin", ""}}},
		{"anonymous users are not let in", func(_ *testing.T, p *patient) { p.server.infoStatus = http.StatusUnauthorized }, []wanted{
			{"discovery", Warning, "needs anonymous authentication", "--certificate-authority"},
			{"trust", Warning, "cannot be followed when it is rotated", "kubeadm init phase bootstrap-token"},
		}},
		{"there is no cluster-info", func(_ *testing.T, p *patient) {
			p.server.infoStatus = http.StatusNotFound
			p.server.trustBundle = p.server.ca.pem()
		}, []wanted{{"discovery", Warning, "has no ConfigMap kube-public/cluster-info (404)", "kubectl"}, {"trust", OK, "from the ClusterTrustBundles", ""}}},
		{"the cluster trusts another CA by now", func(t *testing.T, p *patient) {
			p.server.trustBundle = append(p.server.ca.pem(), newAuthority(t, "new").pem()...)
		}, []wanted{{"trust", OK, "from the ClusterTrustBundles of the cluster; what they say now is not what this machine trusts", ""}}},
		{"it is not to be followed", func(_ *testing.T, p *patient) { p.FixedTrust = true }, []wanted{{"trust", Skipped, "trust.follow", ""}}},
		{"there is no discovery", beforeJoin(func(_ *testing.T, p *patient) {
			p.Accesses[0].Discovery, p.Accesses[0].DiscoveryErr = nil, fault.New(fault.Usage, "name it", "there is no API server to join")
			p.Cluster = nil
		}), []wanted{{"discovery", Failure, "there is no API server to join", "name it"}, {"dns", Skipped, "no API server is known", ""}}},
		{"the cluster is known beforehand, but not to us", beforeJoin(func(_ *testing.T, p *patient) {
			known := *p.Cluster
			known.CA = p.server.ca.bundle(t)
			p.Accesses[0].Discovery, p.Cluster = &bootstrap.Known{Cluster: known}, &bootstrap.Cluster{}
		}), []wanted{{"discovery", OK, "known beforehand", ""}, {"connect", OK, "accepts connections", ""}, {"tls", OK, "is verified", ""}, {"credential", OK, "authenticates", ""}}},
		{"two ways, of which one works", beforeJoin(func(_ *testing.T, p *patient) {
			p.Accesses = append([]Access{{DiscoveryErr: errors.New("no file"), CredentialErr: fault.New(fault.Usage, "write one", "no token")}}, p.Accesses...)
		}), []wanted{{"discovery", Warning, "no file", "kubectl"}, {"discovery", OK, "signed", ""}, {"credential", Warning, "no token", "write one"}, {"credential", OK, "authenticates", ""}}},
	})
}

// Accesses that share a discovery share its trouble, which is told once.
func TestSharedTrouble(t *testing.T) {
	p := newPatient(t)
	p.Accesses = []Access{{DiscoveryErr: errors.New("no server")}, {DiscoveryErr: errors.New("no server")}, {DiscoveryErr: errors.New("no CA")}}
	told := 0
	for _, f := range p.examine(t).Findings {
		if f.Check == "discovery" {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d findings instead of 2", told)
	}
}

// The token of a service may be a credential of systemd's, which is not where this program looks for one.
func TestTokenOfSystemd(t *testing.T) {
	const shipped, none = "LoadCredential=token:nodejoin.token\n", "there is no token"
	lacking := func(text string, files ...string) func(*testing.T, *patient) {
		return beforeJoin(func(t *testing.T, p *patient) {
			t.Helper()
			err := fault.New(fault.Usage, "make one", none)
			p.Accesses = []Access{{DiscoveryErr: err, CredentialErr: err, Lacking: true}}
			p.directives(t, strings.ReplaceAll(text, "DIR", p.dir))
			for _, file := range files {
				write(t, filepath.Join(p.dir, file), tokenID+"."+tokenSecret, 0o600)
			}
		})
	}
	handed := func(directive string) []wanted {
		return []wanted{
			{"credential", Warning, "systemd hands a token to the service (" + directive + ")", "systemctl start nodejoin.service"},
			{"discovery", Skipped, "the token that systemd hands to the service", ""},
		}
	}
	lost := []wanted{{"credential", Failure, none, "make one"}, {"discovery", Failure, none, "make one"}}
	const encrypted = shipped + "[Service]\nLoadCredential=\nLoadCredentialEncrypted = token:DIR/token.cred\n"
	spoilt := func(text string, spoil func(*patient)) func(*testing.T, *patient) {
		return func(t *testing.T, p *patient) {
			t.Helper()
			lacking(text, "token.cred")(t, p)
			spoil(p)
		}
	}
	examineEach(t, []trial{
		{"the shipped unit, and nothing to hand over", lacking(shipped), lost},
		{"of the machine", lacking(shipped, "credentials/nodejoin.token"), handed("LoadCredential=")},
		{"in a directory for it", lacking(shipped, "credstore/nodejoin.token"), handed("LoadCredential=")},
		{"encrypted in a directory for it", lacking("LoadCredentialEncrypted=token\n", "credstore.encrypted/token"), handed("LoadCredentialEncrypted=")},
		{"not decrypted", lacking("LoadCredential=token\n", "credstore.encrypted/token"), lost},
		{"a file of a drop-in", lacking(encrypted, "token.cred"), handed("LoadCredentialEncrypted=")},
		{"a file that is missing", lacking(encrypted), lost},
		{"a file that is missing comes last", lacking("LoadCredential=token:DIR/a\nLoadCredential=token:DIR/b\n", "a"), lost},
		{"in the unit", lacking(shipped + "SetCredential=token:" + tokenID + "." + tokenSecret + "\n"), handed("SetCredential=")},
		{"encrypted in the unit", lacking("SetCredentialEncrypted=token: \\\n  abc\n"), handed("SetCredentialEncrypted=")},
		{"taken back", lacking("SetCredentialEncrypted=token:x\nSetCredential=\n"), lost},
		{"another one", lacking("SetCredential=password:x\n"), lost},
		{"no unit", spoilt(encrypted, func(p *patient) { _ = os.Remove(filepath.Join(p.dir, "nodejoin.service")) }), lost},
		{"no systemd", spoilt(encrypted, func(p *patient) { p.host.systemd = "/nowhere" }), lost},
		{"another machine's files", spoilt(encrypted, func(p *patient) { p.Paths.Root = p.dir }), lost},
		{"a token was given, and is wrong", spoilt(encrypted, func(p *patient) { p.Accesses[0].Lacking = false }), lost},
		{"joined, so none is needed now", func(t *testing.T, p *patient) {
			p.directives(t, shipped)
			write(t, filepath.Join(p.dir, "credstore/nodejoin.token"), "x", 0o600)
			p.Accesses = []Access{{CredentialErr: errors.New(none), DiscoveryErr: errors.New(none), Lacking: true}}
		}, []wanted{{"credential", Warning, "needed only once this node's certificate has expired: there is no credential in a file; systemd", "systemctl start"}}},
	})
}

func TestCredentialAndRotation(t *testing.T) {
	const token = tokenID + "." + tokenSecret
	node := "system:node:" + nodeName
	examineEach(t, []trial{
		{"the credential is refused", beforeJoin(func(_ *testing.T, p *patient) { delete(p.server.users, token) }), []wanted{
			{"credential", Failure, "the bootstrap token " + tokenID + " is refused (401)", "kubeadm token create"},
		}},
		{"a balancer refuses once", func(_ *testing.T, p *patient) { p.server.refusals = 2 }, []wanted{
			{"credential", OK, `authenticates as "system:bootstrap:` + tokenID, ""}, {"rotation", OK, "authenticates", ""},
		}},
		{"it may not ask", beforeJoin(func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:bootstrap:" + tokenID, p.server.users[token].groups, nil}
		}), []wanted{{
			"credential", Failure, "may not create certificate signing requests",
			"kubectl create clusterrolebinding kubeadm:kubelet-bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers:kubeadm:default-node-token",
		}}},
		{"nobody approves", beforeJoin(func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:bootstrap:" + tokenID, []string{"system:bootstrappers"}, []string{"csr"}}
		}), []wanted{{
			"credential", Warning, "nobody approves the requests",
			"nodejoin:node-autoapprove-bootstrap:bootstrappers --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers",
		}}},
		{"a user of no group", beforeJoin(func(_ *testing.T, p *patient) { p.server.users[token] = user{"joiner", nil, nil} }), []wanted{{"credential", Failure, "may not create", "--user=joiner"}}},
		{"it can become this node alone", beforeJoin(func(_ *testing.T, p *patient) {
			p.server.users[token] = user{node, []string{"nodejoin:joiners"}, []string{"csr", "selfnodeclient"}}
		}), []wanted{{"credential", OK, `authenticates as "` + node, ""}, {check: "credential"}}},
		{"it can become another node alone", beforeJoin(func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:node:other", []string{"nodejoin:joiners"}, []string{"csr", "selfnodeclient"}}
		}), []wanted{{"credential", Failure, `can become the node "other" alone`, "kubeadm token create"}}},
		{"the API server does not tell", func(_ *testing.T, p *patient) { p.server.reviewStatus = http.StatusForbidden }, []wanted{
			{"credential", Warning, "could not find out whether the bootstrap token", "again"}, {"rotation", Warning, "403 Forbidden to /apis/", "again"},
		}},
		{"an old API server", func(_ *testing.T, p *patient) { p.server.selfStatus = http.StatusNotFound }, []wanted{
			{"credential", Warning, "could not find out whether the bootstrap token", "again"}, {"rotation", Warning, "404 Not Found to /apis/authentication", "again"},
		}},
		{"there is none", beforeJoin(func(_ *testing.T, p *patient) {
			p.Accesses[0].Credential, p.Accesses[0].CredentialErr = nil, fault.New(fault.Usage, "make one", "there is none")
		}), []wanted{
			{"credential", Failure, "there is none", "make one"},
		}},
		{"there is none, and none is needed now", func(_ *testing.T, p *patient) {
			p.Accesses[0].Credential, p.Accesses[0].CredentialErr = nil, fault.New(fault.Usage, "make one", "there is none")
		}, []wanted{
			{"credential", Warning, "needed only once this node's certificate has expired: there is none", "make one"},
		}},

		{"the node is refused", func(_ *testing.T, p *patient) { delete(p.server.users, node) }, []wanted{{"rotation", Failure, "does not know this node's certificate (401)", "--client-ca-file"}}},
		{"the node is somebody else", func(_ *testing.T, p *patient) { p.server.users[node] = user{node, []string{"guests"}, nil} }, []wanted{{"rotation", Failure, `in ["guests"] instead of`, "authentication configuration"}}},
		{"the node may not ask", func(_ *testing.T, p *patient) { p.server.users[node] = user{node, []string{"system:nodes"}, nil} }, []wanted{{"rotation", Failure, "may not create certificate signing requests", "--authorization-mode=Node,RBAC"}}},
		{"nobody approves for the node", func(_ *testing.T, p *patient) {
			p.server.users[node] = user{node, []string{"system:nodes"}, []string{"csr"}}
		}, []wanted{{
			"rotation", Failure, "a ClusterRoleBinding is missing",
			"kubectl create clusterrolebinding kubeadm:node-autoapprove-certificate-rotation --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient --group=system:nodes",
		}}},
	})
}

// A server that is not the cluster's is shown no credential.
func TestNoCredentialForStrangers(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *patient){
		"another CA":   func(t *testing.T, p *patient) { p.Cluster.CA = newAuthority(t, "kubernetes").bundle(t) },
		"another name": func(_ *testing.T, p *patient) { p.Cluster.TLSServerName = "api.example.com" },
		"no CA and another pin": func(_ *testing.T, p *patient) {
			p.unjoin()
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Pins = []bootstrap.Pin{{1}}
		},
		"an expired certificate":   func(t *testing.T, p *patient) { p.server.certificate = p.server.ca.serving(t, expiring(-time.Minute)) },
		"a certificate of a liar":  func(t *testing.T, p *patient) { p.server.certificate = newAuthority(t, "kubernetes").serving(t) },
		"a proxy that reads along": func(t *testing.T, p *patient) { p.server.certificate = newAuthority(t, "proxy").serving(t); p.unjoin() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			spoil(t, p)
			p.examine(t)
			if bearers := p.server.bearers(); len(bearers) != 0 {
				t.Errorf("it was shown %q", bearers)
			}
			p.server.mu.Lock()
			defer p.server.mu.Unlock()
			if len(p.server.heard) == 0 {
				t.Error("it was asked nothing: this test shows nothing")
			}
		})
	}
}

// A credential for a proxy in front of the cluster is shown to the proxy alone.
func TestCredentialOfAProxy(t *testing.T) {
	p := newPatient(t)
	proxy := newAPIServer(t)
	p.Accesses[0].Via = &bootstrap.Via{Server: bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint(t, proxy.name)}, CA: proxy.ca.bundle(t)}}
	p.examineFor(t, wanted{"credential", OK, "authenticates as", ""})
	if bearers := p.server.bearers(); len(bearers) != 0 {
		t.Errorf("the API server was shown %d tokens", len(bearers))
	}
	if bearers := proxy.bearers(); len(bearers) == 0 {
		t.Error("the proxy was shown none")
	}
}

// A credential that its use would change is not used.
func TestCredentialThatIsSpent(t *testing.T) {
	p := newPatient(t)
	p.Accesses[0].Spends = true
	p.examineFor(t, wanted{"credential", OK, "there is the bootstrap token", ""}, wanted{"credential", Skipped, "would spend its refresh token", ""})
	if bearers := p.server.bearers(); len(bearers) != 0 {
		t.Errorf("the API server was shown %d tokens", len(bearers))
	}
}
