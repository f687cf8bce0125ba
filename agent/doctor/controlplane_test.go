//go:build linux

package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// What a real cluster answers, and that the commands that are printed are right.
func TestRealCluster(t *testing.T) {
	cp := testbed.New(t, testbed.Options{})
	text, err := cp.CreateToken(t.Context(), testbed.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.WaitSigned(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	token, err := bootstrap.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := cp.ClientCA.Issue(testbed.Certificate{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := rotate.NewKeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}

	p := newPatient(t)
	site := bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint(t, cp.Endpoint)}}
	known := site
	known.CA = (&authority{cert: cp.ServingCA.Cert}).bundle(t)
	p.Cluster, p.Pins = &known, []bootstrap.Pin{bootstrap.PinOf(cp.ServingCA.Cert)}
	p.Accesses = []Access{{Discovery: &bootstrap.ByToken{Site: site, Token: token, Pins: p.Pins}, Credential: token.Credential()}}
	p.Disk = &rotate.Disk{Found: rotate.Found{Pair: pair, PairPath: p.Disk.PairPath}, Kubeconfig: &rotate.Kubeconfig{Server: cp.URL, Pair: pair}}
	p.examineFor(t, wanted{"discovery", OK, token.ID, ""}, wanted{"tls", OK, "is verified", ""}, wanted{"credential", OK, "system:bootstrap:" + token.ID, ""},
		wanted{"rotation", OK, "have it approved", ""}, wanted{"trust", OK, "can be followed", ""}, wanted{"clock", OK, "agrees", ""},
		wanted{check: "credential"}, wanted{check: "rotation"}, wanted{check: "discovery"}, wanted{check: "tls"}, wanted{check: "trust"})

	for _, name := range []string{"kubeadm:node-autoapprove-certificate-rotation", "kubeadm:node-autoapprove-bootstrap", "kubeadm:kubelet-bootstrap"} {
		if _, err := cp.Kubectl(t.Context(), "delete", "clusterrolebinding", name); err != nil {
			t.Fatal(err)
		}
	}
	p.mends(t, cp, "rotation", wanted{"rotation", Failure, "a ClusterRoleBinding is missing", "kubectl create clusterrolebinding kubeadm:node-autoapprove-certificate-rotation"})
	p.Disk, p.Now = &rotate.Disk{}, nil
	p.mends(t, cp, "credential", wanted{"credential", Failure, "may not create certificate signing requests", "kubectl create clusterrolebinding kubeadm:kubelet-bootstrap"})
	p.mends(t, cp, "credential", wanted{"credential", Warning, "nobody approves the requests", "kubectl create clusterrolebinding kubeadm:node-autoapprove-bootstrap"})

	if err := cp.DeleteToken(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	p.waitFor(t, wanted{"credential", Failure, "is refused (401)", "kubeadm token create"})
	p.waitFor(t, wanted{"discovery", Failure, "nor for any other", "nodejoin token create"})
}

// waitFor waits until there is a finding: authorizers and controllers take a moment.
func (p *patient) waitFor(t *testing.T, want wanted) *Report {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		report := p.examine(t)
		if want.isIn(report) {
			return report
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no finding %+v\n%s", want, report.Text())
		}
	}
}

// mends waits for a finding, runs the command that is its remedy, and waits until it is gone.
func (p *patient) mends(t *testing.T, cp *testbed.ControlPlane, check string, want wanted) {
	t.Helper()
	for _, f := range p.waitFor(t, want).Findings {
		if command, found := strings.CutPrefix(f.Remedy, "kubectl "); found && f.Check == check && strings.Contains(f.Remedy, want.remedy) {
			if _, err := cp.Kubectl(t.Context(), strings.Fields(command)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(30 * time.Second); want.isIn(p.examine(t)); {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %+v", want)
		}
	}
}
