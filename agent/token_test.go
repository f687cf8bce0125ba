package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/status"
)

// TestSingleUse removes the token that led to the certificate, and no other: one that is dropped in later waits for its use.
func TestSingleUse(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) {
			o.Credentials = []config.Credential{{BootstrapToken: &config.BootstrapToken{File: DefaultTokenFile, SingleUse: true}}}
		}
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		h.token("abcdef")
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if agent.view().State != status.Valid || exists(h.path(DefaultTokenFile)) {
			t.Errorf("the certificate is %s, the used token is there: %t", agent.view().State, exists(h.path(DefaultTokenFile)))
		}
		h.token("ghijkl")
		agent.wake()
		time.Sleep(10 * time.Minute)
		if !exists(h.path(DefaultTokenFile)) {
			t.Fatal("a token that was not used is removed")
		}
		leaf, err := h.current()
		if err != nil {
			t.Fatal(err)
		}
		h.cluster.with(func() { h.cluster.revoked[leaf.SerialNumber.Text(16)] = true })
		agent.identity.doubt()
		time.Sleep(2 * time.Minute)
		if made := h.cluster.creations(); len(made) != 2 || made[1].by != "system:bootstrap:ghijkl" || exists(h.path(DefaultTokenFile)) {
			t.Errorf("requests: %v; the token is there: %t", made, exists(h.path(DefaultTokenFile)))
		}
	})
}

// TestTokenOfSystemd has the credential that systemd handed over be refused: what somebody put into the usual file since is used, without a
// restart.
func TestTokenOfSystemd(t *testing.T) {
	handed := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(handed, []byte("zzzzzz.0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(handed))
	bubble(t, func(t *testing.T, h *host) {
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		agent := h.start()
		defer agent.stop()
		time.Sleep(2 * time.Minute)
		if p := agent.view().Problem; p == nil || !strings.Contains(p.Text, "the bootstrap token zzzzzz") || strings.Contains(p.Text, "there is no credential") {
			t.Errorf("the problem is %+v", p)
		}
		h.token("abcdef")
		time.Sleep(2 * time.Minute)
		if made := h.cluster.creations(); len(made) != 1 || made[0].by != "system:bootstrap:abcdef" {
			t.Errorf("requests: %v", made)
		}
	})
}
