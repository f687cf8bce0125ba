//go:build linux

package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

func TestMachineInOrder(t *testing.T) {
	leavesNothing(t)
	p := newPatient(t)
	report := p.examine(t)
	for _, f := range report.Findings {
		if f.Level != OK || f.Remedy != "" || f.Text == "" || f.Check == "" {
			t.Errorf("%+v", f)
		}
	}
	if report.Exit() != 0 {
		t.Errorf("exit status %d", report.Exit())
	}
	var order []string
	for _, f := range report.Findings {
		if len(order) == 0 || order[len(order)-1] != f.Check {
			order = append(order, f.Check)
		}
	}
	want := []string{
		"configuration", "node name", "dns", "connect", "discovery", "tls", "ca", "clock", "credential", "certificate", "kubeconfig", "rotation", "trust",
		"files", "disk", "kubelet", "lock", "service", "watching", "hooks",
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
	for _, bearer := range p.server.bearers() {
		if bearer != tokenID+"."+tokenSecret {
			t.Errorf("the API server was shown %q", bearer)
		}
	}
}

// leavesNothing checks that whatever a check has started has ended with it, once the test and its servers are done.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// A machine that is about to join: everything that is needed for that is there.
func TestMachineThatWillJoin(t *testing.T) {
	p := newPatient(t)
	p.unjoin()
	for _, f := range p.examine(t).Findings {
		switch {
		case f.Check == "certificate" && f.Level == Warning && strings.Contains(f.Text, "has not joined"):
		case f.Level == Skipped && slices.Contains([]string{"kubeconfig", "rotation"}, f.Check):
		case f.Level != OK:
			t.Errorf("%+v", f)
		}
	}
}

// wanted is a finding, by parts of its texts. Without a level it is that the check has nothing to complain about.
type wanted struct {
	check        string
	level        Level
	text, remedy string
}

func (w wanted) isIn(r *Report) bool {
	if w.level == "" {
		return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == w.check && f.Level != OK })
	}
	return slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Check == w.check && f.Level == w.level && strings.Contains(f.Text, w.text) && strings.Contains(f.Remedy, w.remedy) && (w.remedy != "" || f.Remedy == "")
	})
}

// examineFor reports what is missing of what is wanted.
func (p *patient) examineFor(t *testing.T, want ...wanted) {
	t.Helper()
	report := p.examine(t)
	for _, w := range want {
		if !w.isIn(report) {
			t.Errorf("there is no finding %+v", w)
		}
	}
	failed := slices.ContainsFunc(want, func(w wanted) bool { return w.level == Failure })
	if (report.Exit() != 0) != failed {
		t.Errorf("exit status %d", report.Exit())
	}
	text := report.Text()
	if strings.Contains(text, tokenSecret) {
		t.Error("the report shows the secret")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestNetwork(t *testing.T) {
	day := 24 * time.Hour
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"a name that does not exist", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.invalid:6443")}
		}, []wanted{
			{"dns", Failure, "the name of api.invalid:6443 cannot be resolved", "getent hosts api.invalid"},
			{"connect", Skipped, "not checked: the name of api.invalid:6443 cannot be resolved", ""},
			{"tls", Skipped, "no API server that can be connected to", ""},
			{"rotation", Skipped, "no API server that is reached and verified", ""},
			{"trust", Skipped, "no API server that is reached and verified", ""},
			{"credential", Skipped, "what the cluster lets it do", ""},
			{"clock", Skipped, "no API server told its time", ""},
		}},
		{"a name that does", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, strings.Replace(p.server.name, "127.0.0.1", "localhost", 1))}
		}, []wanted{{"dns", OK, "has the address 127.0.0.1", ""}}},
		{"nobody listens", func(t *testing.T, p *patient) { p.Cluster.Endpoints = []bootstrap.Endpoint{deadEndpoint(t)} }, []wanted{
			{"connect", Failure, ": connection refused", "ss -ltn"}, {"tls", Skipped, "no API server that can be connected to", ""},
		}},
		{"one of two does not listen", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = append([]bootstrap.Endpoint{deadEndpoint(t)}, p.Cluster.Endpoints...)
		}, []wanted{
			{"connect", Warning, ": connection refused", "ss -ltn"},
			{"connect", OK, "accepts connections", ""},
			{"tls", OK, "is verified", ""},
			{"rotation", OK, "have it approved", ""},
			{"discovery", OK, "cluster-info is signed with the bootstrap token " + tokenID, ""},
		}},
		{"another CA", func(t *testing.T, p *patient) { p.Cluster.CA = newAuthority(t, "kubernetes").bundle(t) }, []wanted{
			{"tls", Failure, "certificate signed by unknown authority", "its CA was rotated"},
			{"rotation", Skipped, "verified", ""},
			{"credential", Skipped, "verified", ""},
			{"discovery", Warning, "none of its CA certificates is among those that this machine trusts", "nodejoin join --force"},
			{"ca", Warning, "none of these CA certificates has a pinned key", "caCertHashes"},
			{"clock", OK, "agrees", ""},
		}},
		{"one of two has another CA", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = append([]bootstrap.Endpoint{endpoint(t, newAPIServer(t).name)}, p.Cluster.Endpoints...)
		}, []wanted{{"tls", Warning, "certificate signed by unknown authority", "its CA was rotated"}, {"tls", OK, "is verified", ""}, {"rotation", OK, "authenticates", ""}}},
		{"another name", func(_ *testing.T, p *patient) { p.Cluster.TLSServerName = "api.example.com" }, []wanted{{"tls", Failure, "api.example.com", "--tls-server-name"}}},
		{"the server's certificate expired", func(t *testing.T, p *patient) { p.server.certificate = p.server.ca.serving(t, expiring(-time.Minute)) }, []wanted{
			{"tls", Failure, "expired", "timedatectl"}, {"discovery", Warning, "expired", "timedatectl"}, {"clock", OK, "agrees", ""},
		}},
		{"the server's certificate is about to expire", func(t *testing.T, p *patient) { p.server.certificate = p.server.ca.serving(t, expiring(day)) }, []wanted{
			{"tls", Warning, "is verified, but its certificate expires at", "kubeadm certs renew apiserver"},
		}},
		{"the CA is about to expire", func(t *testing.T, p *patient) {
			old := newAuthority(t, "old", expiring(day)).bundle(t)
			p.Cluster.CA = p.Cluster.CA.Union(old)
		}, []wanted{{"ca", Warning, `the CA certificate "CN=old" expires at`, "manual-rotation"}, {"ca", OK, `the CA certificate "CN=kubernetes" is valid until`, ""}}},
		{"the CA has expired by now", func(_ *testing.T, p *patient) {
			p.Now = func() time.Time { return time.Now().Add(1001 * day) }
		}, []wanted{{"ca", Failure, "expired at", "timedatectl"}, {"certificate", Failure, "the certificate expired at", "kubeadm token create"}}},
		{"a clock ahead", func(_ *testing.T, p *patient) { p.server.ahead = -10 * time.Minute }, []wanted{{"clock", Failure, "this machine's clock is 10m0s ahead of that of", "timedatectl set-ntp true"}}},
		{"a clock a little behind", func(_ *testing.T, p *patient) { p.server.ahead = time.Minute }, []wanted{{"clock", Warning, "this machine's clock is 1m0s behind that of", "timedatectl"}}},
		{"a clock that is not synchronised", func(_ *testing.T, p *patient) { p.host.clock = func() (bool, bool) { return false, true } }, []wanted{{"clock", Warning, "nothing tells the kernel", "timedatectl"}}},
		{"a clock of which nothing is known", func(_ *testing.T, p *patient) {
			p.host.clock = func() (bool, bool) { return false, false }
			p.server.undated = true
		}, []wanted{{"clock", Skipped, "cannot be found out", ""}, {"clock", Skipped, "no API server told its time", ""}}},
		{"a clock that was never set", func(_ *testing.T, p *patient) { p.Now = func() time.Time { return time.Unix(7, 0) } }, []wanted{
			{"clock", Failure, "says 1970-01-01T00:00:07Z: it was never set", "timedatectl"}, {"certificate", Failure, "becomes valid only at", "timedatectl"},
		}},
		{"no API server", func(_ *testing.T, p *patient) { p.Cluster, p.Accesses = nil, nil }, []wanted{
			{"dns", Skipped, "no API server is known", ""},
			{"connect", Skipped, "no API server is known", ""},
			{"ca", Skipped, "no CA is known", ""},
			{"discovery", Skipped, "no way is configured", ""},
			{"credential", Warning, "there is no credential", "kubeadm token create"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}

func TestDiscovery(t *testing.T) {
	token := bootstrap.Token{ID: tokenID, Secret: bootstrap.NewSecret(tokenSecret)}
	for _, test := range []struct {
		name   string
		joined bool
		spoil  func(*testing.T, *patient)
		want   []wanted
	}{
		{"the token is not known", false, func(_ *testing.T, p *patient) {
			p.server.clusterInfo["jws-kubeconfig-aaaaaa"] = p.server.clusterInfo["jws-kubeconfig-"+tokenID]
			delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID)
		}, []wanted{
			{"discovery", Failure, "does not know the bootstrap token " + tokenID + ": it expired, was deleted", "kubeadm token create"},
			{"tls", Skipped, "no CA is known", ""},
			{"ca", Skipped, "no CA is known", ""},
			{"credential", OK, "there is the bootstrap token", ""},
		}},
		{"the token is not known, and is not needed now", true, func(_ *testing.T, p *patient) {
			p.server.clusterInfo["jws-kubeconfig-aaaaaa"] = "x"
			delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID)
			delete(p.server.users, tokenID+"."+tokenSecret)
		}, []wanted{
			{"discovery", Warning, "does not know the bootstrap token", "kubeadm token create"},
			{"credential", Warning, "needed only once this node's certificate has expired: the bootstrap token " + tokenID + " is refused (401)", "kubeadm token create"},
			{"rotation", OK, "approved", ""},
		}},
		{"nobody signs", false, func(_ *testing.T, p *patient) { delete(p.server.clusterInfo, "jws-kubeconfig-"+tokenID) }, []wanted{
			{"discovery", Failure, "is not signed for any token yet", "kubectl --namespace kube-public"},
		}},
		{"another secret", false, func(_ *testing.T, p *patient) {
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Token.Secret = bootstrap.NewSecret("0123456789abcdef")
		}, []wanted{{"discovery", Failure, "is not signed with the secret of the token", "check the token's second half"}}},
		{"another pin", false, func(_ *testing.T, p *patient) {
			p.Pins = []bootstrap.Pin{{1}}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Pins = p.Pins
		}, []wanted{{"discovery", Failure, "has a pinned key", "if the CA was rotated"}}},
		{"another pin, long after the join", true, func(_ *testing.T, p *patient) {
			p.Pins = []bootstrap.Pin{{1}}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Pins = p.Pins
		}, []wanted{{"discovery", Warning, "has a pinned key", "if the CA was rotated"}, {"ca", Warning, "pinned", "caCertHashes"}}},
		{"no pin", false, func(_ *testing.T, p *patient) {
			p.Pins = nil
			p.Accesses[0].Discovery = &bootstrap.ByToken{Site: *p.Cluster, Token: token, SkipPins: true}
		}, []wanted{{"discovery", OK, "taken without a pin", ""}}},
		{"anonymous users are not let in", true, func(_ *testing.T, p *patient) { p.server.infoStatus = http.StatusUnauthorized }, []wanted{
			{"discovery", Warning, "needs anonymous authentication", "--certificate-authority"},
			{"trust", Warning, "cannot be followed when it is rotated", "kubeadm init phase bootstrap-token"},
		}},
		{"there is no cluster-info", true, func(_ *testing.T, p *patient) {
			p.server.infoStatus = http.StatusNotFound
			p.server.trustBundle = p.server.ca.pem()
		}, []wanted{{"discovery", Warning, "has no ConfigMap kube-public/cluster-info (404)", "kubectl"}, {"trust", OK, "from the ClusterTrustBundles", ""}}},
		{"the cluster trusts another CA by now", true, func(t *testing.T, p *patient) {
			p.server.trustBundle = append(p.server.ca.pem(), newAuthority(t, "new").pem()...)
		}, []wanted{{"trust", OK, "from the ClusterTrustBundles of the cluster; what they say now is not what this machine trusts", ""}}},
		{"it is not to be followed", true, func(_ *testing.T, p *patient) { p.FixedTrust = true }, []wanted{{"trust", Skipped, "trust.follow", ""}}},
		{"there is no discovery", false, func(_ *testing.T, p *patient) {
			p.Accesses[0].Discovery, p.Accesses[0].DiscoveryErr = nil, fault.New(fault.Usage, "name it", "there is no API server to join")
			p.Cluster = nil
		}, []wanted{{"discovery", Failure, "there is no API server to join", "name it"}, {"dns", Skipped, "no API server is known", ""}}},
		{"the cluster is known beforehand, but not to us", false, func(_ *testing.T, p *patient) {
			known := *p.Cluster
			known.CA = p.server.ca.bundle(t)
			p.Accesses[0].Discovery, p.Cluster = &bootstrap.Known{Cluster: known}, &bootstrap.Cluster{}
		}, []wanted{{"discovery", OK, "known beforehand", ""}, {"connect", OK, "accepts connections", ""}, {"tls", OK, "is verified", ""}, {"credential", OK, "authenticates", ""}}},
		{"two ways, of which one works", false, func(_ *testing.T, p *patient) {
			p.Accesses = append([]Access{{DiscoveryErr: errors.New("no file"), CredentialErr: fault.New(fault.Usage, "write one", "no token")}}, p.Accesses...)
		}, []wanted{{"discovery", Warning, "no file", "kubectl"}, {"discovery", OK, "signed", ""}, {"credential", Warning, "no token", "write one"}, {"credential", OK, "authenticates", ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			if !test.joined {
				p.unjoin()
			}
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
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

func TestCredentialAndRotation(t *testing.T) {
	const token = tokenID + "." + tokenSecret
	node := "system:node:" + nodeName
	for _, test := range []struct {
		name   string
		joined bool
		spoil  func(*testing.T, *patient)
		want   []wanted
	}{
		{"the credential is refused", false, func(_ *testing.T, p *patient) { delete(p.server.users, token) }, []wanted{
			{"credential", Failure, "the bootstrap token " + tokenID + " is refused (401)", "kubeadm token create"},
		}},
		{"a balancer refuses once", true, func(_ *testing.T, p *patient) { p.server.refusals = 2 }, []wanted{
			{"credential", OK, `authenticates as "system:bootstrap:` + tokenID, ""}, {"rotation", OK, "authenticates", ""},
		}},
		{"it may not ask", false, func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:bootstrap:" + tokenID, p.server.users[token].groups, nil}
		}, []wanted{{
			"credential", Failure, "may not create certificate signing requests",
			"kubectl create clusterrolebinding kubeadm:kubelet-bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers:kubeadm:default-node-token",
		}}},
		{"nobody approves", false, func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:bootstrap:" + tokenID, []string{"system:bootstrappers"}, []string{"csr"}}
		}, []wanted{{
			"credential", Warning, "nobody approves the requests",
			"nodejoin:node-autoapprove-bootstrap:bootstrappers --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers",
		}}},
		{"a user of no group", false, func(_ *testing.T, p *patient) { p.server.users[token] = user{"joiner", nil, nil} }, []wanted{{"credential", Failure, "may not create", "--user=joiner"}}},
		{"it can become this node alone", false, func(_ *testing.T, p *patient) {
			p.server.users[token] = user{node, []string{"nodejoin:joiners"}, []string{"csr", "selfnodeclient"}}
		}, []wanted{{"credential", OK, `authenticates as "` + node, ""}, {check: "credential"}}},
		{"it can become another node alone", false, func(_ *testing.T, p *patient) {
			p.server.users[token] = user{"system:node:other", []string{"nodejoin:joiners"}, []string{"csr", "selfnodeclient"}}
		}, []wanted{{"credential", Failure, `can become the node "other" alone`, "kubeadm token create"}}},
		{"the API server does not tell", true, func(_ *testing.T, p *patient) { p.server.reviewStatus = http.StatusForbidden }, []wanted{
			{"credential", Warning, "could not find out whether the bootstrap token", "again"}, {"rotation", Warning, "403 Forbidden to /apis/", "again"},
		}},
		{"an old API server", true, func(_ *testing.T, p *patient) { p.server.selfStatus = http.StatusNotFound }, []wanted{
			{"credential", Warning, "could not find out whether the bootstrap token", "again"}, {"rotation", Warning, "404 Not Found to /apis/authentication", "again"},
		}},
		{"there is none", false, func(_ *testing.T, p *patient) {
			p.Accesses[0].Credential, p.Accesses[0].CredentialErr = nil, fault.New(fault.Usage, "make one", "there is none")
		}, []wanted{
			{"credential", Failure, "there is none", "make one"},
		}},
		{"there is none, and none is needed now", true, func(_ *testing.T, p *patient) {
			p.Accesses[0].Credential, p.Accesses[0].CredentialErr = nil, fault.New(fault.Usage, "make one", "there is none")
		}, []wanted{
			{"credential", Warning, "needed only once this node's certificate has expired: there is none", "make one"},
		}},

		{"the node is refused", true, func(_ *testing.T, p *patient) { delete(p.server.users, node) }, []wanted{{"rotation", Failure, "does not know this node's certificate (401)", "--client-ca-file"}}},
		{"the node is somebody else", true, func(_ *testing.T, p *patient) { p.server.users[node] = user{node, []string{"guests"}, nil} }, []wanted{{"rotation", Failure, `in ["guests"] instead of`, "authentication configuration"}}},
		{"the node may not ask", true, func(_ *testing.T, p *patient) { p.server.users[node] = user{node, []string{"system:nodes"}, nil} }, []wanted{{"rotation", Failure, "may not create certificate signing requests", "--authorization-mode=Node,RBAC"}}},
		{"nobody approves for the node", true, func(_ *testing.T, p *patient) {
			p.server.users[node] = user{node, []string{"system:nodes"}, []string{"csr"}}
		}, []wanted{{
			"rotation", Failure, "a ClusterRoleBinding is missing",
			"kubectl create clusterrolebinding kubeadm:node-autoapprove-certificate-rotation --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient --group=system:nodes",
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			if !test.joined {
				p.unjoin()
			}
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}

func TestFilesOfIdentity(t *testing.T) {
	chmod := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"configuration refused", func(_ *testing.T, p *patient) { p.ConfigErr = fault.New(fault.Usage, "mend it", "line 1\nis wrong") }, []wanted{{"configuration", Failure, "line 1 is wrong", "mend it"}}},
		{"no configuration", func(_ *testing.T, p *patient) { p.ConfigFile = "" }, []wanted{{"configuration", OK, "flags and defaults apply", ""}, {"disk", OK, "there is room on 1 file system,", ""}}},
		{"a node's name that is none", func(_ *testing.T, p *patient) { p.Node = "a/b" }, []wanted{{"node name", Failure, `the node name "a/b"`, "--node-name"}, {"certificate", Failure, `this machine is the node "a/b"`, "--node-name"}}},
		{"another host's name", func(_ *testing.T, p *patient) { p.host.name = func() (string, error) { return "other", nil } }, []wanted{
			{"node name", OK, `the node's name is "node-1", and that of this host "other"`, ""},
			{"kubelet", Warning, `takes this host's name "other" for the node's`, "--hostname-override=node-1"},
		}},

		{"a store that must not be used", func(_ *testing.T, p *patient) {
			p.Disk, p.DiskErr = nil, fault.New(fault.Files, "chmod it", "the store is open")
		}, []wanted{
			{"certificate", Failure, "the store is open", "chmod it"}, {"kubeconfig", Skipped, "not known", ""}, {"rotation", Skipped, "no valid certificate", ""},
		}},
		{"a torn certificate", func(_ *testing.T, p *patient) { p.Disk.Pair, p.Disk.PairErr = nil, errors.New("it is torn") }, []wanted{{"certificate", Failure, "it is torn", "nodejoin join"}, {"kubeconfig", Failure, "leads to another certificate", "nodejoin join"}}},
		{"another node's certificate", func(t *testing.T, p *patient) { p.Disk.Pair = p.server.ca.pair(t, "other", -time.Hour, time.Hour) }, []wanted{
			{"certificate", Failure, `is of "system:node:other"`, "--force"}, {"rotation", Skipped, "no valid certificate of the node", ""}, {"kubeconfig", Failure, "leads to another certificate", "nodejoin join"},
		}},
		{"expired", func(t *testing.T, p *patient) {
			p.Disk.Pair = p.server.ca.pair(t, nodeName, -time.Hour, -time.Minute)
			p.Disk.Kubeconfig.Pair = p.Disk.Pair
		}, []wanted{{"certificate", Failure, "the certificate expired at", "kubeadm token create"}, {"rotation", Skipped, "no valid certificate", ""}}},
		{"overdue", func(t *testing.T, p *patient) {
			p.Disk.Pair = p.server.ca.pair(t, nodeName, -99*time.Hour, time.Hour)
			p.Disk.Kubeconfig.Pair = p.Disk.Pair
		}, []wanted{{"certificate", Warning, "should have been rotated before", "nodejoin status"}}},
		{"a request under way", func(_ *testing.T, p *patient) { p.Disk.PendingKey = []byte("x") }, []wanted{{"certificate", OK, "a request that is under way", ""}, {"certificate", OK, "is valid until", ""}}},
		{"no kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig = nil }, []wanted{{"kubeconfig", Failure, "is missing: a kubelet cannot start", "nodejoin join"}}},
		{"a damaged kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig, p.Disk.KubeconfigErr = nil, errors.New("damaged") }, []wanted{{"kubeconfig", Failure, "damaged", "nodejoin join"}}},
		{"somebody else's kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig, p.Disk.KubeconfigErr = nil, rotate.ErrUnmanaged }, []wanted{{"kubeconfig", Failure, "somebody else keeps", "--force"}}},

		{"a certificate that others can read", func(t *testing.T, p *patient) { chmod(t, p.Disk.PairPath, 0o640) }, []wanted{{"files", Failure, "current.pem is readable by others (mode 0640)", "chmod 0600"}}},
		{"a pending key that others can read", func(t *testing.T, p *patient) {
			chmod(t, filepath.Join(p.Paths.StateDir, "kubelet-client.key.pending"), 0o604)
		}, []wanted{{"files", Failure, "kubelet-client.key.pending is readable by others", "chmod 0600"}}},
		{"a token that others can read", func(t *testing.T, p *patient) { chmod(t, p.Secrets[0], 0o604) }, []wanted{{"files", Failure, "etc/token is readable by others (mode 0604)", "chmod 0600"}}},
		{"a token that its group can read", func(t *testing.T, p *patient) { chmod(t, p.Secrets[0], 0o640) }, []wanted{{"files", OK, "owners and modes are in order", ""}}},
		{"a kubeconfig that others can write", func(t *testing.T, p *patient) { chmod(t, p.Paths.Kubeconfig, 0o602) }, []wanted{{"files", Failure, "kubelet.conf is writable by others", "look at what is in it, then: chmod 0600"}}},
		{"a configuration that its group can write", func(t *testing.T, p *patient) { chmod(t, p.ConfigFile, 0o664) }, []wanted{{"files", Failure, "config.yaml is writable by others", "chmod 0644"}}},
		{"a directory that others can write", func(t *testing.T, p *patient) { chmod(t, p.Paths.CertDir, 0o777) }, []wanted{{"files", Failure, "the directory " + "/", "chmod 0755"}}},
		{"a state directory that others can read", func(t *testing.T, p *patient) { chmod(t, p.Paths.StateDir, 0o755) }, []wanted{{"files", Warning, "state is readable by others", "chmod 0700"}}},
		{"nothing there yet", func(t *testing.T, p *patient) {
			p.unjoin()
			for _, dir := range []string{p.Paths.StateDir, p.Paths.CertDir, filepath.Dir(p.Paths.Kubeconfig)} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}, []wanted{{"files", OK, "in order (2 files and directories)", ""}, {"disk", OK, "there is room", ""}, {"kubeconfig", Skipped, "has not joined", ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}

func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		needs(t, "it takes root", errors.New("this user is not root"))
	}
	p := newPatient(t)
	if err := os.Chown(p.Disk.PairPath, 12345, -1); err != nil {
		t.Fatal(err)
	}
	p.examineFor(t, wanted{"files", Failure, "current.pem belongs to another user (uid 12345)", "chown root"})
}

// needs skips a test that this machine cannot run, and fails it where everything is expected to run.
func needs(tb testing.TB, what string, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case os.Getenv("NODEJOIN_TEST_ALL") == "1":
		tb.Fatalf("%s: %v", what, err)
	default:
		tb.Skipf("%s: %v", what, err)
	}
}

func TestDisks(t *testing.T) {
	if os.Geteuid() != 0 {
		needs(t, "it takes root", errors.New("this user is not root"))
	}
	for _, test := range []struct {
		name, options string
		fill          int
		want          wanted
	}{
		{"room", "size=64m", 0, wanted{"disk", OK, "there is room on 2 file systems", ""}},
		{"little room", "size=8m", 0, wanted{"disk", Warning, "is nearly full", "df -h"}},
		{"no room", "size=1m", 900 << 10, wanted{"disk", Failure, "is nearly full", "df -h"}},
		{"few inodes", "size=64m,nr_inodes=100", 0, wanted{"disk", Warning, "is nearly full", "df -i"}},
		{"no inodes", "size=64m,nr_inodes=10", 0, wanted{"disk", Failure, "is nearly full", "df -i"}},
		{"read-only", "ro", 0, wanted{"disk", Failure, "is read-only", "mount -o remount,rw"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPatient(t)
			dir := filepath.Join(p.dir, "disk")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p.RuntimeDir, p.Paths.CertDir = filepath.Join(dir, "run"), filepath.Join(dir, "pki") // which are not there yet
			mount(t, dir, test.options)
			if test.fill != 0 {
				write(t, filepath.Join(dir, "file"), strings.Repeat("x", test.fill), 0o600)
			}
			p.examineFor(t, test.want)
			told := 0
			for _, f := range p.examine(t).Findings {
				if f.Check == "disk" {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d findings of one file system", told)
			}
		})
	}
}

func TestKubelet(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"both rotate", func(t *testing.T, p *patient) { p.kubelet(t, "rotateCertificates: true\n") }, []wanted{
			{"kubelet", Warning, "both the agent and the kubelet are to rotate the client certificate", "rotateCertificates: false"},
			{"kubelet", Warning, "keeps its certificates in /var/lib/kubelet/pki", "--cert-dir=/var/lib/kubelet/pki"},
		}},
		{"the kubelet rotates, as it should", func(t *testing.T, p *patient) {
			p.kubelet(t, "rotateCertificates: true\n")
			p.Rotation = "kubelet"
			p.process(t, 812, "kubelet", "kubelet", "--config="+p.KubeletConfig, "--kubeconfig="+p.Paths.Kubeconfig, "--cert-dir="+p.Paths.CertDir)
		}, []wanted{{"kubelet", OK, "the kubelet rotates the client certificate: ", ""}, {"kubelet", OK, "the kubelet runs (PID 812) with", ""}}},
		{"nobody rotates", func(_ *testing.T, p *patient) { p.Rotation = "kubelet" }, []wanted{{"kubelet", Failure, "nobody rotates the client certificate", "rotation: agent"}}},
		{"the serving certificate is read", func(t *testing.T, p *patient) {
			p.Serving = []string{"/a/link.pem", "/a/cert.pem"}
			p.kubelet(t, "tlsCertFile: /a/cert.pem\ntlsPrivateKeyFile: /a/key.pem\n")
		}, []wanted{{"kubelet", OK, "reads the serving certificate", ""}}},
		{"the serving certificate is not read", func(_ *testing.T, p *patient) { p.Serving = []string{"/a/link.pem"} }, []wanted{{"kubelet", Warning, "does not read the serving certificate", "tlsCertFile: /a/link.pem and tlsPrivateKeyFile: /a/link.pem"}}},
		{"both keep the serving certificate", func(t *testing.T, p *patient) {
			p.Serving = []string{"/a/link.pem"}
			p.kubelet(t, "serverTLSBootstrap: true\n")
		}, []wanted{{"kubelet", Warning, "both the agent and the kubelet are to keep the kubelet's serving certificate", "serverTLSBootstrap: false"}}},
		{"a configuration that is damaged", func(t *testing.T, p *patient) { p.kubelet(t, "rotateCertificates: 7\n") }, []wanted{{"kubelet", Warning, "rotateCertificates is no boolean", "journalctl"}}},
		{"none runs", func(t *testing.T, p *patient) { p.process(t, 812, "sleep", "sleep") }, []wanted{{"kubelet", Skipped, "none runs", ""}, {"kubelet", OK, "the agent rotates", ""}}},
		{"there is none", func(t *testing.T, p *patient) {
			p.process(t, 812, "sleep", "sleep")
			p.KubeletConfig = "/nowhere/config.yaml"
		}, []wanted{{"kubelet", Skipped, "no kubelet runs, and /nowhere/config.yaml is missing", ""}}},
		{"it runs with another kubeconfig", func(t *testing.T, p *patient) { p.process(t, 812, "kubelet", "kubelet", "--kubeconfig=/other.conf") }, []wanted{{"kubelet", Failure, "uses /other.conf and not", "start it with --kubeconfig="}}},
		{"it runs with another kubeconfig and rotates that", func(t *testing.T, p *patient) {
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig=/other.conf", "--rotate-certificates", "--cert-dir="+p.Paths.CertDir)
		}, []wanted{{"kubelet", Warning, "uses /other.conf and not", "start it with --kubeconfig="}, {"kubelet", Warning, "(PID 812) has --rotate-certificates=true", "rotation: kubelet"}}},
		{"it runs with a link to the kubeconfig", func(t *testing.T, p *patient) {
			link := filepath.Join(p.dir, "link.conf")
			if err := os.Symlink(p.Paths.Kubeconfig, link); err != nil {
				t.Fatal(err)
			}
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig="+link)
		}, []wanted{{"kubelet", OK, "the kubelet runs (PID 812) with", ""}}},
		{"it runs alone", func(t *testing.T, p *patient) { p.process(t, 812, "kubelet", "kubelet", "--config="+p.KubeletConfig) }, []wanted{{"kubelet", Warning, "uses no kubeconfig", "--kubeconfig="}}},
		{"it is another node", func(t *testing.T, p *patient) {
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig="+p.Paths.Kubeconfig, "--hostname-override=other")
		}, []wanted{{"kubelet", Failure, `is the node "other", and the certificate is for "node-1"`, "--hostname-override=node-1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}

func TestServiceAndLock(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"active", func(*testing.T, *patient) {}, []wanted{{"service", OK, "nodejoin.service is active: valid until tomorrow", ""}}},
		{"not configured", func(t *testing.T, p *patient) {
			p.unit(t, "LoadState=loaded\nActiveState=inactive\nResult=exec-condition\n")
		}, []wanted{{"service", Failure, "there is nothing in /etc/nodejoin/config.yaml", "systemctl start nodejoin.service"}}},
		{"not installed", func(t *testing.T, p *patient) { p.unit(t, "LoadState=not-found\nActiveState=inactive\n") }, []wanted{{"service", Warning, "no unit nodejoin.service", "nodejoin service install"}}},
		{"masked", func(t *testing.T, p *patient) { p.unit(t, "LoadState=masked\nActiveState=inactive\n") }, []wanted{{"service", Failure, "is masked", "systemctl unmask"}}},
		{"failed", func(t *testing.T, p *patient) { p.unit(t, "LoadState=loaded\nActiveState=failed\nResult=exit-code\n") }, []wanted{{"service", Failure, "has failed (exit-code)", "journalctl --unit nodejoin.service"}}},
		{"stopped", func(t *testing.T, p *patient) {
			p.unit(t, "LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n")
		}, []wanted{{"service", Failure, "does not run (inactive)", "systemctl enable --now"}}},
		{"not enabled", func(t *testing.T, p *patient) {
			p.unit(t, "LoadState=loaded\nActiveState=active\nUnitFileState=disabled\n")
		}, []wanted{{"service", Warning, "is not started at boot", "systemctl enable nodejoin.service"}, {"service", OK, "is active", ""}}},
		{"systemctl fails", func(t *testing.T, p *patient) {
			write(t, p.host.systemctl, "#!/bin/sh\necho no bus >&2\nexit 1\n", 0o755)
		}, []wanted{{"service", Warning, "cannot ask systemd: no bus", "systemctl status"}}},
		{"systemctl is missing", func(_ *testing.T, p *patient) { p.host.systemctl = "/nowhere/systemctl" }, []wanted{{"service", Warning, "cannot ask systemd: ", "systemctl status"}}},
		{"no systemd", func(_ *testing.T, p *patient) { p.host.systemd = "/nowhere" }, []wanted{{"service", Skipped, "systemd does not run here", ""}}},

		{"nobody holds the machine", func(*testing.T, *patient) {}, []wanted{{"lock", OK, "no agent holds this machine", ""}}},
		{"the agent holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
			p.listen(t)
		}, []wanted{{"lock", OK, "the agent runs (PID 77) and answers", ""}}},
		{"it has two numbers", func(t *testing.T, p *patient) {
			p.lock(t, 1)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
			p.listen(t)
		}, []wanted{{"lock", OK, "the agent runs (PID 77) and answers", ""}}},
		{"the agent does not answer", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
		}, []wanted{{"lock", Warning, "the agent runs (PID 77) but does not answer", "systemctl restart"}}},
		{"a join holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "nodejoin", "join", "api:6443")
		}, []wanted{{"lock", Warning, "another nodejoin is at work on this machine (PID 77)", "wait"}}},
		{"another program holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "flock", "flock", "x")
		}, []wanted{{"lock", Failure, "is locked by another program: flock (PID 77)", "ps -fp 77"}}},
		{"another program holds another file", func(t *testing.T, p *patient) {
			p.lock(t, 1)
			p.process(t, 77, "flock", "flock", "x")
		}, []wanted{{"lock", OK, "no agent holds", ""}}},
		{"no list of locks", func(t *testing.T, p *patient) {
			if err := os.Remove(filepath.Join(p.host.proc, "locks")); err != nil {
				t.Fatal(err)
			}
		}, []wanted{{"lock", Skipped, "cannot be found out", ""}}},

		{"a hook that is not there", func(_ *testing.T, p *patient) {
			p.Hooks = []Hook{{"gone", []string{"/nowhere/program"}}, {"bare", nil}}
		}, []wanted{
			{"hooks", Warning, `the hook "gone" cannot be run: no such file or directory`, "install it"}, {"hooks", Failure, `the hook "bare" has no command`, "command"},
		}},
		{"no hooks", func(_ *testing.T, p *patient) { p.Hooks = nil }, []wanted{{"hooks", Skipped, "there are none", ""}}},
		{"another machine's files", func(_ *testing.T, p *patient) {
			p.Paths = rotate.Paths{Root: p.dir, Kubeconfig: "/kubernetes/kubelet.conf", CertDir: "/pki", CAFile: "/kubernetes/pki/ca.crt", StateDir: "/state"}
			p.KubeletConfig, p.RuntimeDir = "/kubelet.yaml", "/run"
			p.Disk.PairPath = "/pki/current.pem"
			p.host.name = func() (string, error) { return "workshop", nil }
		}, []wanted{
			{"service", Skipped, "--root", ""},
			{"lock", Skipped, "--root", ""},
			{"watching", Skipped, "--root", ""},
			{"hooks", Skipped, "--root", ""},
			{"kubelet", OK, "the agent rotates", ""},
			{"files", OK, "in order (10 files", ""},
			{"disk", OK, "room", ""},
			{"node name", OK, `the node's name is "node-1"`, ""},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}

// lock lists a lock of the state directory by the process 77. The device's number is off by this much.
func (p *patient) lock(tb testing.TB, off uint64) {
	tb.Helper()
	info, err := os.Stat(p.Paths.StateDir)
	if err != nil {
		tb.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	p.process(tb, 6, "nodejoin", "nodejoin", "run") // holds another one
	device := fmt.Sprintf("%02x:%02x", major(stat.Dev), minor(stat.Dev)+off)
	write(tb, filepath.Join(p.host.proc, "locks"), fmt.Sprintf(`1: POSIX  ADVISORY  READ  5 %[1]s:%[2]d 0 EOF
2: FLOCK  ADVISORY  WRITE 6 %[1]s:%[2]d9 0 EOF
nonsense
3: FLOCK  ADVISORY  WRITE 77 %[1]s:%[2]d 0 EOF
3: -> FLOCK  ADVISORY  WRITE 9 %[1]s:%[2]d 0 EOF
`, device, stat.Ino), 0o644)
}

// listen answers at the agent's socket.
func (p *patient) listen(tb testing.TB) {
	tb.Helper()
	p.RuntimeDir = filepath.Join(p.dir, "r")
	if err := os.Mkdir(p.RuntimeDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	l := listenOn(tb, "unix", filepath.Join(p.RuntimeDir, "nodejoin.sock"))
	tb.Cleanup(func() { _ = l.Close() })
}

// The kernel's own list shows a real lock under the number that the file has, without that the lock is tried.
func TestRealLock(t *testing.T) {
	p := newPatient(t)
	p.host.proc = "/proc"
	_, err := os.Stat("/proc/locks")
	needs(t, "it takes /proc/locks", err)
	lock, err := rotate.NewStore(p.Paths).Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	want := fmt.Sprintf("(PID %d)", os.Getpid())
	for _, f := range p.examine(t).Findings {
		if f.Check == "lock" && (f.Level != Failure || !strings.Contains(f.Text, want)) {
			t.Errorf("%+v instead of a program that is none of ours %s", f, want)
		}
	}
}

// Where nothing answers, the whole comes to an end all the same.
func TestNothingAnswers(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"servers that accept and say nothing", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t), silentEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
			write(t, p.host.systemctl, "#!/bin/sh\nsleep 60\n", 0o755)
		}, []wanted{{"connect", OK, "accepts connections", ""}, {"tls", Failure, ": no TLS handshake within 5s", "openssl s_client"}, {"service", Warning, "no answer within 5s", "systemctl"}, {"discovery", Warning, "the cluster is not found: no answer within 6s", "kubectl"}}},
		{"packets are dropped", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{fullEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
		}, []wanted{{"connect", Failure, ": no answer within 3s", "firewall"}, {"discovery", Skipped, "no API server that can be connected to", ""}}},
		{"the same before the join", func(t *testing.T, p *patient) {
			p.unjoin()
			p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t), silentEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
		}, []wanted{{"discovery", Failure, "the cluster is not found: no answer within 6s", "kubectl"}, {"tls", Skipped, "no CA is known", ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			started := time.Now()
			p.examineFor(t, test.want...)
			if took := time.Since(started); took > Limit-5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// A name server that says nothing.
func TestSilentNameServer(t *testing.T) {
	p := newPatient(t)
	p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.example.com:6443")}
	p.host.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	p.examineFor(t, wanted{"dns", Failure, "cannot be resolved: no answer within 3s", "getent hosts"}, wanted{"connect", Skipped, "cannot be resolved", ""})
}

// Interrupted, it ends at once.
func TestInterrupted(t *testing.T) {
	leavesNothing(t)
	p := newPatient(t)
	p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t)}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	started := time.Now()
	run(ctx, p.Input, p.host)
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
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

// Through a proxy, the way ends at the proxy, which resolves the names behind it.
func TestProxy(t *testing.T) {
	p := newPatient(t)
	proxy := connectProxy(t, p.server.name)
	p.Cluster.ProxyURL = &url.URL{Scheme: "http", Host: proxy}
	p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.invalid:6443")}
	p.Cluster.TLSServerName = "localhost"
	p.Accesses = nil
	p.examineFor(t, wanted{"dns", OK, "the proxy " + proxy + " is an address", ""}, wanted{"connect", OK, "the proxy " + proxy + " accepts connections", ""},
		wanted{"tls", OK, "api.invalid:6443 is verified", ""}, wanted{"rotation", OK, "approved", ""}, wanted{"clock", OK, "agrees", ""})

	p.Cluster.ProxyURL = &url.URL{Scheme: "http", Host: deadEndpoint(t).String()}
	p.examineFor(t, wanted{"connect", Failure, "cannot connect to the proxy", "ss -ltn"}, wanted{"tls", Skipped, "no API server that can be connected to", ""})
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

func TestText(t *testing.T) {
	r := &Report{Findings: []Finding{
		{"dns", OK, "fine", ""}, {"certificate", Failure, "bad", "mend it"}, {"clock", Skipped, "not checked: no", ""}, {"lock", Warning, "hm", "look"},
	}}
	want := `ok       dns          fine
failure  certificate  bad
                      remedy: mend it
skipped  clock        not checked: no
warning  lock         hm
                      remedy: look

1 failure, 1 warning, 1 ok, 1 skipped
`
	if diff := cmp.Diff(want, r.Text()); diff != "" {
		t.Error(diff)
	}
	if r.Exit() != fault.Unexpected {
		t.Errorf("exit status %d", r.Exit())
	}
	r.Findings = r.Findings[2:]
	if r.Exit() != 0 || !strings.HasSuffix(r.Text(), "\n0 failures, 1 warning, 0 ok, 1 skipped\n") {
		t.Errorf("exit status %d: %s", r.Exit(), r.Text())
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"findings":[{"check":"clock","level":"skipped","text":"not checked: no"},{"check":"lock","level":"warning","text":"hm","remedy":"look"}]}`; string(data) != want {
		t.Errorf("%s", data)
	}
}

// What a server or a file had to say stays on its line.
func TestFindingsAreLines(t *testing.T) {
	var f findings
	f.fail(Failure, errors.New("a\nb\x1b[31m\u202e c\u2028d\xff"), "x\ny")
	if want := (Finding{Level: Failure, Text: "a b [31m  c d\uFFFD", Remedy: "x y"}); f[0] != want {
		t.Errorf("%q", f[0])
	}
	f.fail(Failure, fmt.Errorf("y: %w", fault.New(fault.Files, "its own", "x")), "another")
	if f[1].Remedy != "its own" {
		t.Errorf("%q", f[1])
	}
}

// connectProxy is an HTTP proxy that leads everything to one server.
func connectProxy(tb testing.TB, to string) string {
	tb.Helper()
	l := listenOn(tb, "tcp", "127.0.0.1:0")
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		behind, err := new(net.Dialer).DialContext(r.Context(), "tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = behind.Close()
			return
		}
		_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		go relay(behind, client)
		go relay(client, behind)
	})}
	go func() { _ = server.Serve(l) }()
	tb.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}
