package agent

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/status"
)

const linkPath = DefaultCertDir + "/kubelet-client-current.pem"

// damage changes a file.
func (h *host) damage(path string, change func([]byte) []byte) {
	h.t.Helper()
	if err := os.WriteFile(h.path(path), change(bytes.Clone(h.read(path))), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// Damages of a file.
func half(data []byte) []byte    { return data[:len(data)/2] }
func nothing([]byte) []byte      { return nil }
func garbage([]byte) []byte      { return []byte("\x00\xffno PEM, no YAML: [") }
func flipped(data []byte) []byte { data[len(data)/3] ^= 0x01; return data }

// TestPairIsPutBack deletes and damages the certificate in use under the agent: what it has seen a moment ago is put back, and
// nothing is requested.
func TestPairIsPutBack(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(h *host)
		off    bool // while the agent does not run
	}{
		{"the link is deleted", func(h *host) { h.remove(linkPath) }, false},
		{"the link is deleted while nobody looks", func(h *host) { h.remove(linkPath) }, true},
		{"the link leads nowhere", func(h *host) {
			h.remove(linkPath)
			_ = os.Symlink("kubelet-client-2000-01-01-23-59-59.pem", h.path(linkPath))
		}, false},
		{"the file is deleted", func(h *host) { h.remove(DefaultCertDir + "/" + h.pairFiles()[0]) }, false},
		{"the file is cut off", func(h *host) { h.damage(linkPath, half) }, false},
		{"the file is empty", func(h *host) { h.damage(linkPath, nothing) }, false},
		{"a bit of the certificate is another", func(h *host) {
			h.damage(linkPath, func(data []byte) []byte { data[bytes.IndexByte(data, '\n')+2] ^= 0x01; return data }) // of its length
		}, false},
		{"a bit of the signature is another", func(h *host) {
			h.damage(linkPath, func(data []byte) []byte {
				block, rest := pem.Decode(data)
				block.Bytes[len(block.Bytes)-1] ^= 0x01 // it can be read still
				return append(pem.EncodeToMemory(block), rest...)
			})
		}, false},
		{"a bit of the key is another", func(h *host) {
			h.damage(linkPath, func(data []byte) []byte { data[bytes.LastIndex(data, []byte("KEY-----\nM"))+60] ^= 0x01; return data })
		}, false},
		{"the directory is deleted", func(h *host) { h.remove(DefaultCertDir) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				pair := h.pair(-time.Hour, 23*time.Hour)
				h.join(pair)
				agent := h.start()
				time.Sleep(10 * time.Second)
				if test.off {
					agent.stop()
					test.damage(h)
					agent = h.start()
				} else {
					test.damage(h)
				}
				time.Sleep(61 * time.Second) // without events
				agent.stop()
				h.wantCurrent(pair)
				if view := agent.view(); view.State != status.Valid || view.Problem != nil {
					t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
				}
				if made := h.cluster.creations(); len(made) != 0 {
					t.Errorf("requests: %v", made)
				}
				if disk := h.load(); !disk.Whole() || len(disk.PendingKey) != 0 {
					t.Errorf("the kubeconfig does not lead to it: %v", disk.KubeconfigErr)
				}
			})
		})
	}
}

// TestPairIsObtainedAnew has nothing left to put back: it takes a request, with a credential.
func TestPairIsObtainedAnew(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.join(h.pair(-time.Hour, 23*time.Hour))
		h.token("abcdef")
		h.damage(linkPath, half)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if view := agent.view(); view.State != status.Valid || view.Rotations != 1 {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}

// TestFilesAroundAreMadeAnew deletes and damages the kubeconfig and the CA bundle: they are as before after one pass, in which the
// certificate was proved, and nothing requested.
func TestFilesAroundAreMadeAnew(t *testing.T) {
	stranger := newAuthority(t, "stranger")
	for _, test := range []struct {
		name   string
		damage func(h *host)
	}{
		{"the kubeconfig is deleted", func(h *host) { h.remove(DefaultKubeconfig) }},
		{"the kubeconfig is cut off", func(h *host) { h.damage(DefaultKubeconfig, half) }},
		{"the kubeconfig is empty", func(h *host) { h.damage(DefaultKubeconfig, nothing) }},
		{"the kubeconfig is garbage", func(h *host) { h.damage(DefaultKubeconfig, garbage) }},
		{"the bundle is deleted", func(h *host) { h.remove(DefaultCAFile) }},
		{"the bundle is cut off", func(h *host) { h.damage(DefaultCAFile, half) }},
		{"the bundle is empty", func(h *host) { h.damage(DefaultCAFile, nothing) }},
		{"a bit of the bundle is another", func(h *host) { h.damage(DefaultCAFile, flipped) }},
		{"the bundle is another cluster's", func(h *host) { h.write(DefaultCAFile, string(stranger.pem()), 0o644) }},
		{"both are deleted", func(h *host) { h.remove(DefaultKubeconfig); h.remove(DefaultCAFile) }},
		{"their directory is deleted", func(h *host) { h.remove(filepath.Dir(DefaultKubeconfig)) }},
		{"all is deleted", func(h *host) { h.remove(filepath.Dir(DefaultKubeconfig)); h.remove(DefaultCertDir) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster := newCluster(t)
			h := newHost(t, cluster)
			pair := h.fresh()
			h.joinAt(pair, cluster.serve(cluster.signer))
			a := h.agent()
			h.pass(t, a)
			kubeconfig, ca := h.read(DefaultKubeconfig), h.read(DefaultCAFile)
			test.damage(h)
			err := a.identity.pass(t.Context())
			if err == errAgain { //nolint:errorlint // it is never wrapped
				err = a.identity.pass(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			h.wantFile(DefaultKubeconfig, kubeconfig)
			h.wantFile(DefaultCAFile, ca)
			h.wantCurrent(pair)
			if made := cluster.creations(); len(made) != 0 || cluster.reviewed == 0 {
				t.Errorf("requests: %v; proved %d times", made, cluster.reviewed)
			}
		})
	}
}

// TestBundleOfAnother has somebody put a bundle in the place of ours that vouches for the cluster as well: it is proved, and stays.
func TestBundleOfAnother(t *testing.T) {
	cluster := newCluster(t)
	h := newHost(t, cluster)
	h.joinAt(h.fresh(), cluster.serve(cluster.signer))
	a := h.agent()
	h.pass(t, a)
	wider := append(cluster.signer.pem(), newAuthority(t, "one more").pem()...)
	h.write(DefaultCAFile, string(wider), 0o644)
	h.pass(t, a)
	h.wantFile(DefaultCAFile, wider)
	if cluster.reviewed != 1 {
		t.Errorf("proved %d times", cluster.reviewed)
	}
}

// TestStateIsLost deletes and damages what is remembered: the certificate is proved anew, and all else is as before.
func TestStateIsLost(t *testing.T) {
	const state = DefaultStateDir + "/state.json"
	for name, damage := range map[string]func(h *host){
		"deleted": func(h *host) { h.remove(state) },
		"cut off": func(h *host) { h.damage(state, half) },
		"empty":   func(h *host) { h.damage(state, nothing) },
		"garbage": func(h *host) { h.damage(state, garbage) },
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newCluster(t)
			h := newHost(t, cluster)
			pair := h.fresh()
			h.joinAt(pair, cluster.serve(cluster.signer))
			h.pass(t, h.agent())
			damage(h)
			h.pass(t, h.agent())
			h.wantCurrent(pair)
			disk := h.load()
			if disk.Record.Verified != pair.Fingerprint() || disk.Cluster == nil || disk.Record.RotateAt.IsZero() || cluster.reviewed != 1 {
				t.Errorf("remembered is %+v and %+v; proved %d times", disk.Record, disk.Cluster, cluster.reviewed)
			}
		})
	}
}
