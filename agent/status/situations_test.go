package status

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var update = flag.Bool("update", false, "write what the text is now to testdata")

const csrName = "node-csr-Kw4bW6eHA5UciT5i3_yfFDuUr6622E2vBtvCaqveLGs"

// fresh returns a machine that has no certificate yet.
func fresh() *Status {
	s := healthy()
	s.Since, s.ConfigLoaded, s.Credential = ago(4*time.Minute), ago(4*time.Minute), "the bootstrap token abcdef"
	s.Certificates = []Certificate{{
		Name: "kubelet-client", State: Missing, Message: "this machine has no certificate yet",
		Path: "/var/lib/kubelet/pki/kubelet-client-current.pem", Beat: ago(20 * time.Second),
	}}
	return s
}

func waitingFor(approved bool, user string, since time.Duration) *Request {
	return &Request{
		Name: csrName, SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Username: user,
		Created: ago(3*time.Minute + 2*time.Second), Since: ago(since), Approved: approved,
	}
}

func serving(request *Request) Certificate {
	if request != nil {
		request.SignerName = "kubernetes.io/kubelet-serving"
	}
	return Certificate{
		Name: "kubelet-serving", State: Missing, Path: "/var/lib/kubelet/pki/kubelet-server-current.pem",
		DNSNames: []string{"node-7", "node-7.example.com"}, IPAddresses: []string{"10.0.0.7"}, Request: request, Beat: ago(20 * time.Second),
	}
}

func change(s *Status, how func(s *Status)) *Status {
	how(s)
	return s
}

// situations are what an operator may find. The text of each is in testdata.
var situations = []struct {
	name    string
	status  *Status
	exit    fault.Class
	ready   bool
	summary string
}{
	{
		"healthy", healthy(), 0, true,
		"node-7: certificate valid until 2027-06-15T08:00:00Z, rotates at 2027-04-02T03:00:00Z",
	},
	{
		"not-running", change(healthy(), func(s *Status) {
			*s = Status{
				Node: s.Node, Rotation: s.Rotation, Kubeconfig: s.Kubeconfig, ConfigFile: s.ConfigFile, Certificates: s.Certificates,
				CA: CA{Path: s.CA.Path, Certificates: s.CA.Certificates},
			}
		}), 0, true,
		"node-7: certificate valid until 2027-06-15T08:00:00Z, the agent does not run",
	},
	{
		"not-joined-not-running", &Status{Certificates: []Certificate{{Name: "kubelet-client", State: Missing, Message: "this machine has no certificate yet"}}}, 1, false,
		"kubelet-client: this machine has no certificate yet; remedy: start the agent (nodejoin service start), or join by hand: nodejoin join",
	},
	{
		"under-way-not-running", &Status{Node: "node-7", Certificates: []Certificate{{
			Name: "kubelet-client", State: Missing, Request: &Request{Name: csrName, SignerName: "kubernetes.io/kube-apiserver-client-kubelet"},
		}}}, 6, false,
		"kubelet-client: its request is under way, as far as the disk tells; remedy: see what it waits for: kubectl get csr " + csrName,
	},
	{
		"starting", &Status{Running: true, PID: 812, Since: ago(300 * time.Millisecond), Version: "v0.3.0", Watching: true}, 1, false,
		"the agent is starting",
	},
	{
		"waits-for-approval", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(false, "system:bootstrap:abcdef", 3*time.Minute)
		}), 6, false,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:57:00Z (by system:bootstrap:abcdef); remedy: kubectl certificate approve " + csrName,
	},
	{
		"waits-with-anothers-credential", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(false, "system:node:node-8", 3*time.Minute)
		}), 6, false,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:57:00Z; see: nodejoin status",
	},
	{
		"approved-not-signed", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(true, "system:bootstrap:abcdef", 20*time.Second)
		}), 6, false,
		"kubelet-client: approved at 2026-11-24T02:59:40Z, not signed; remedy: see kube-controller-manager's csrsigning controller: kubectl describe csr " + csrName,
	},
	{
		"approved-not-signed-by-another", change(healthy(), func(s *Status) {
			c := serving(waitingFor(true, "system:node:node-7", 20*time.Minute))
			c.Name, c.Request.SignerName, c.Path = "metrics", "example.com/serving", "/var/lib/metrics/pki/metrics-current.pem"
			s.Certificates = append(s.Certificates, c)
		}), 6, true,
		"metrics: approved at 2026-11-24T02:40:00Z, not signed; remedy: see the signer example.com/serving: kubectl describe csr " + csrName,
	},
	{
		"serving-waits-for-approval", change(healthy(), func(s *Status) {
			s.Certificates = append(s.Certificates, serving(waitingFor(false, "system:node:node-7", 26*time.Hour)))
		}), 6, true,
		"kubelet-serving: nobody has approved its request since 2026-11-23T01:00:00Z (by system:node:node-7); remedy: kubectl certificate approve " + csrName,
	},
	{
		"rotating", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.RotateAt, c.Rotations, c.Failures = Due, ago(90*time.Second), 3, 1
			c.Request = waitingFor(false, "system:node:node-7", 88*time.Second)
		}), 0, true,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:58:32Z (by system:node:node-7); remedy: kubectl certificate approve " + csrName,
	},
	{
		"expired-token-gone", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Message, c.NotAfter, c.RotateAt = Expired, "the certificate expired at 2026-11-12T03:00:00Z", ago(12*day), ago(80*day)
			c.Failures = 41
			c.Problem = &Problem{
				Text:   "api1:6443 does not know the bootstrap token abcdef: it expired, was deleted, or belongs to another cluster",
				Remedy: "make a new token on a control-plane node (kubeadm token create) and write it to /etc/nodejoin/token",
				Class:  fault.Refused, Since: ago(11 * day), Certificate: "kubelet-client",
			}
			s.Problem, s.Credential = c.Problem, "the bootstrap token abcdef"
		}), 4, false,
		"kubelet-client: api1:6443 does not know the bootstrap token abcdef: it expired, was dele…; remedy: make a new token on a control-plane node (kubeadm token create) and write it to /etc/nodejoin/token",
	},
	{
		"expired-since-the-snapshot", change(healthy(), func(s *Status) {
			s.Certificates[0].NotAfter, s.Certificates[0].RotateAt = ago(time.Second), ago(time.Hour)
		}), 1, false,
		"kubelet-client: the certificate expired at 2026-11-24T02:59:59Z",
	},
	{
		"denied", change(fresh(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Message = Denied, "the request was denied"
			c.Problem = &Problem{
				Text:   "the request was denied: " + csrName + ": NotInInventory: ask\nthe \x1b[31mdata centre\x1b[0m\u202e first",
				Remedy: "when the reason is gone, ask again with a new key: nodejoin join --force",
				Class:  fault.Denied, Since: ago(7 * time.Minute), Certificate: "kubelet-client",
			}
			s.Problem = c.Problem
		}), 5, false,
		"kubelet-client: the request was denied: node-csr-Kw4bW6eHA5UciT5i3_yfFDuUr6622E2vBtvCaqveLGs: NotInInventory: ask t…; remedy: when the reason is gone, ask again with a new key: nodejoin join --force",
	},
	{
		"control-plane-away", change(healthy(), func(s *Status) {
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				e.Alive, e.InUse, e.Error = false, false, "dial tcp 10.0.0.1:6443: connect: connection refused"
			}
			s.Endpoints = append(s.Endpoints, Endpoint{Address: "[2001:db8::1]:6443"})
			s.Problem = &Problem{Text: "no API server can be reached: api1:6443: connection refused", Since: ago(2 * time.Hour), Remedy: "nodejoin doctor"}
			s.CA.Problem = &Problem{Text: "no API server can be reached: api1:6443: connection refused", Since: ago(time.Hour)}
		}), 1, true,
		"no API server can be reached: api1:6443: connection refused (since 2026-11-24T01:00:00Z); remedy: nodejoin doctor",
	},
	{
		"foreign", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Subject = Foreign, "CN=system:node:node-8,O=system:nodes"
			c.Message = `the certificate on disk is of "system:node:node-8" in ["system:nodes"] instead of "system:node:node-7" in ["system:nodes"]`
		}), 8, false,
		`kubelet-client: the certificate on disk is of "system:node:node-8" in ["system:nodes"] instead of "system:node:node-7" in ["system:nodes"]`,
	},
	{
		"unreadable-not-running", &Status{Node: "node-7", Certificates: []Certificate{{
			Name: "kubelet-client", State: Unreadable, Message: "the certificate on disk cannot be used: no PEM block", Path: "/var/lib/kubelet/pki/kubelet-client-current.pem",
		}}}, 8, false,
		"kubelet-client: the certificate on disk cannot be used: no PEM block; remedy: start the agent (nodejoin service start), or join by hand: nodejoin join",
	},
	{
		"clock", change(healthy(), func(s *Status) {
			s.ClockSkew = -187 * time.Second
			s.Certificates[0].State, s.Certificates[0].NotBefore = NotYetValid, in(time.Minute)
		}), 1, false,
		"kubelet-client: the certificate becomes valid at 2026-11-24T03:01:00Z; remedy: check this machine's clock: timedatectl",
	},
	{
		"ca-rotation", change(healthy(), func(s *Status) {
			s.CA.Certificates = append(s.CA.Certificates, CACertificate{Subject: "CN=kubernetes-2026", Pin: "sha256:" + strings.Repeat("ab", 32), NotAfter: ago(day)})
			s.CA.UnpinnedNote = "CN=kubernetes-2026 came with the cluster's rotation; the configured hashes do not name it"
			s.CA.Problem = &Problem{
				Text:   "the cluster offers a bundle that would cut this node off from every API server",
				Remedy: "keep the old CA in the bundle until every API server has a certificate of the new one",
				Class:  fault.Untrusted, Since: ago(40 * time.Minute),
			}
		}), 3, true,
		"CA bundle: the cluster offers a bundle that would cut this node off from every API server; remedy: keep the old CA in the bundle until every API server has a certificate of the new one",
	},
	{
		"rotation-by-kubelet", change(healthy(), func(s *Status) {
			s.Rotation, s.RotationNote, s.Watching = "kubelet", "/var/lib/kubelet/config.yaml says rotateCertificates: true", false
			s.Certificates[0].RotateAt = time.Time{}
			s.ClockSkew = 95 * time.Second
		}), 0, true,
		"this machine's clock is 95 seconds ahead of the API server's; remedy: see whether it is synchronised: timedatectl",
	},
	{
		"stuck", change(healthy(), func(s *Status) { s.Beat = ago(7 * time.Minute) }), 1, true,
		"the agent has made no progress since 2026-11-24T02:53:00Z; remedy: look at its log, then: nodejoin service restart",
	},
	{
		"several-things", change(healthy(), func(s *Status) {
			s.Certificates = append(s.Certificates, serving(nil), serving(waitingFor(false, "system:node:node-7", time.Second)))
			s.Certificates[1].State, s.Certificates[2].Name = Denied, "metrics"
			s.Certificates[1].Message = "denied by admin@example.com"
			s.Problem = &Problem{Text: "the hook reload-metrics failed: exit status 1", Remedy: "systemctl status metrics", Since: ago(time.Minute), Certificate: "metrics"}
		}), 5, true,
		"kubelet-serving: denied by admin@example.com",
	},
}

func TestSituations(t *testing.T) {
	for _, test := range situations {
		t.Run(test.name, func(t *testing.T) {
			if got := test.status.Exit(now); got != test.exit {
				t.Errorf("exit status %d instead of %d", got, test.exit)
			}
			if got := test.status.Ready(now); got != test.ready {
				t.Errorf("ready: %t instead of %t", got, test.ready)
			}
			if got := test.status.Summary(now); got != test.summary {
				t.Errorf("the summary is\n%s\ninstead of\n%s", got, test.summary)
			}
			golden := filepath.Join("testdata", test.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(test.status.Text(now)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), test.status.Text(now)); diff != "" {
				t.Errorf("the text differs (- wanted):\n%s", diff)
			}
			if later := test.status.Summary(now.Add(time.Second)); later != test.summary && test.name != "clock" {
				t.Errorf("the summary changes with the time alone: %s", later)
			}
		})
	}
}

func TestNoGoldenFileIsLeftOver(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) != len(situations) {
		t.Errorf("%d files for %d situations (%v)", len(files), len(situations), err)
	}
}
