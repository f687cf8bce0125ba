package agent

import (
	"crypto/ecdsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

const kubeletFile = "/var/lib/kubelet/config.yaml"

// kubelet configures the machine's kubelet.
func (h *host) kubelet(setting string) {
	h.write(kubeletFile, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+setting+"\n", 0o644)
}

// TestOwner has either of the two rotate, as the agent's and the kubelet's configurations say. Where the kubelet does it, the agent lets
// its time go by, and steps in when that is over.
func TestOwner(t *testing.T) {
	const (
		day   = 24 * time.Hour
		early = 90 * day / 100 // the end of the window
		late  = 95 * day / 100
	)
	for _, test := range []struct {
		name     string
		rotation Rotation
		kubelet  string // in its configuration
		owner    Rotation
		note     string
	}{
		{"the agent", RotationAgent, "rotateCertificates: false", RotationAgent, ""},
		{"the agent, of a kubelet that says nothing", RotationAgent, "", RotationAgent, ""},
		{"the kubelet, as the agent is told", RotationKubelet, "rotateCertificates: false", RotationKubelet, ""},
		{"the kubelet, as the kubelet is told", RotationAgent, "rotateCertificates: true", RotationKubelet, kubeletFile + " has rotateCertificates: true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.change = func(o *Options) { o.Rotation, o.KubeletConfig = test.rotation, kubeletFile }
				h.kubelet(test.kubelet)
				pair := h.pair(0, day)
				h.join(pair)
				agent := h.start()
				defer agent.stop()
				time.Sleep(early + 2*time.Minute)
				made := h.cluster.creations()
				if rotated := len(made) != 0; rotated != (test.owner == RotationAgent) {
					t.Errorf("requests before 90 %% of the lifetime: %v", made)
				}
				s := agent.Snapshot()
				if s.Rotation != string(test.owner) || s.RotationNote != test.note || s.Certificates[0].RotateAt.IsZero() != (test.owner == RotationKubelet) {
					t.Errorf("the status says that it is rotated by %s (%s), at %s", s.Rotation, s.RotationNote, s.Certificates[0].RotateAt)
				}
				if test.owner == RotationAgent {
					return
				}
				h.wantCurrent(pair)
				time.Sleep(late - early)
				if made := h.cluster.creations(); len(made) != 1 || made[0].by != testUser {
					t.Errorf("requests when it was late: %v", made)
				}
			})
		})
	}
}

// TestKubeletsCertificateExpired has a machine whose kubelet rotates, and did not while the machine was off: the agent brings it back.
func TestKubeletsCertificateExpired(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) { o.Rotation = RotationKubelet }
		h.join(h.pair(-48*time.Hour, -time.Hour))
		h.token("abcdef")
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if view := agent.view(); view.State != status.Valid || view.Rotations != 1 || view.Problem != nil {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}

// foreign puts a pair in place as a kubelet does: a file of its own, and the link, which it swaps.
func (h *host) foreign(pair *rotate.KeyPair, at time.Time) string {
	h.t.Helper()
	dir := h.path(DefaultCertDir)
	file := filepath.Join(dir, "kubelet-client-"+at.UTC().Format("2006-01-02-15-04-05")+".pem")
	key, ok := pair.Key().(*ecdsa.PrivateKey)
	if !ok {
		h.t.Fatalf("the key is a %T", pair.Key())
	}
	data := append(certPEM(pair.Leaf), keyPEM(h.t, key)...)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
	link := filepath.Join(dir, "kubelet-client-updated.pem")
	if err := os.Symlink(filepath.Join(DefaultCertDir, filepath.Base(file)), link); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(dir, "kubelet-client-current.pem")); err != nil {
		h.t.Fatal(err)
	}
	return filepath.Base(file)
}

// TestReplacedByAnother has another program replace the certificate that the agent made: the agent sees that there is another owner, and
// leaves its files alone.
func TestReplacedByAnother(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		first := h.pair(-time.Hour, 23*time.Hour)
		h.join(first)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if s := agent.Snapshot(); s.Rotation != string(RotationAgent) {
			t.Errorf("it is rotated by %s (%s)", s.Rotation, s.RotationNote)
		}
		for range 3 { // the kubelet's rotations
			pair := h.pair(0, 24*time.Hour)
			name := h.foreign(pair, time.Now())
			agent.wake()
			time.Sleep(20 * time.Hour)
			target, err := os.Readlink(h.path(DefaultCertDir + "/kubelet-client-current.pem"))
			if err != nil || filepath.Base(target) != name {
				t.Errorf("the link leads to %s instead of %s: %v", target, name, err)
			}
			disk := h.load()
			if disk.Pair == nil || disk.Pair.Fingerprint() != pair.Fingerprint() || !disk.Replaced {
				t.Errorf("in use is %+v (%v)", disk.Pair, disk.PairErr)
			}
		}
		s := agent.Snapshot()
		if s.Rotation != string(RotationKubelet) || !strings.Contains(s.RotationNote, "another program has replaced the certificate in ") || s.Certificates[0].State != status.Valid {
			t.Errorf("it is rotated by %s (%s), and is %s", s.Rotation, s.RotationNote, s.Certificates[0].State)
		}
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("requests: %v", made)
		}
		if h.proofs.Load() != 3 {
			t.Errorf("the certificates were proved %d times", h.proofs.Load())
		}
		if n := h.log.count("the kubelet rotates its certificate by itself"); n != 1 {
			t.Errorf("that is said %d times", n)
		}
	})
}

// TestName settles which node the machine is: the one that it joined as, whatever its host is called by now, and never another
// than the operator says.
func TestName(t *testing.T) {
	for _, test := range []struct {
		name   string
		option string // --node-name
		force  bool
		node   string // "" for fault 8
	}{
		{"the host's name is another", "", false, testNode},
		{"the operator's name is the same", testNode, false, testNode},
		{"the operator's name is another", "node-2", false, ""},
		{"the operator's name is another, and he insists", "node-2", true, "node-2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.join(h.pair(-time.Hour, 23*time.Hour))
				h.change = func(o *Options) { o.NodeName, o.Force = test.option, test.force }
				h.token("abcdef")
				a := h.offline(h.agent())
				_, err := a.loadIdentity()
				if test.node == "" {
					wantFault(t, err, fault.Files, `this machine is the node "node-1" already, and is asked to become "node-2"`)
					return
				}
				if err != nil || a.node() != test.node {
					t.Fatalf("it is the node %q: %v", a.node(), err)
				}
				agent := h.run(a)
				defer agent.stop()
				time.Sleep(22 * time.Hour)
				leaf, err := h.current()
				if err != nil || leaf.Subject.CommonName != "system:node:"+test.node || len(h.cluster.creations()) == 0 {
					t.Errorf("after a rotation it is %v: %v", leaf.Subject, err)
				}
			})
		})
	}
}

// TestNotOurs has files that somebody else keeps: they are left as they are.
func TestNotOurs(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(h *host)
		says   string
	}{
		{"a kubeconfig with a token", func(h *host) {
			h.write(DefaultKubeconfig, strings.Replace(string(h.read(DefaultKubeconfig)), "client-key:", "token: abc\n    client-key:", 1), 0o600)
		}, "somebody else keeps this machine's identity"},
		{"a certificate of no node", func(h *host) {
			template := nodeTemplate(testNode, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			template.Subject.CommonName = "admin"
			h.foreign(h.cluster.signer.pair(h.t, template), time.Now())
		}, "which is no node"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.join(h.pair(-time.Hour, 23*time.Hour))
				h.token("abcdef")
				test.change(h)
				before, files := h.read(DefaultKubeconfig), h.pairFiles()
				agent := h.start()
				defer agent.stop()
				time.Sleep(2 * time.Hour)
				if p := agent.view().Problem; p == nil || p.Class != fault.Files || !strings.Contains(p.Text, test.says) || p.Remedy == "" {
					t.Errorf("the problem is %+v", p)
				}
				h.wantFile(DefaultKubeconfig, before)
				if now := h.pairFiles(); len(now) != len(files) || len(h.cluster.creations()) != 0 {
					t.Errorf("there are the files %v, and the requests %v", now, h.cluster.creations())
				}
			})
		})
	}
}
