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

// A token that serves once and that systemd has handed over is not removed, since what is removable is not here: log and
// status say what is to be removed, and where. The same token in its own file is removed.
func TestSingleUseOfSystemd(t *testing.T) {
	handed := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(handed, []byte("abcdef.0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(handed))
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) {
			o.Credentials = []config.Credential{{BootstrapToken: &config.BootstrapToken{File: DefaultTokenFile, SingleUse: true}}}
		}
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		h.token("abcdef")
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if state := agent.view().State; state != status.Valid {
			t.Fatalf("the certificate is %s", state)
		}
		if !exists(handed) || exists(h.path(DefaultTokenFile)) {
			t.Errorf("systemd's token is there: %t, and the token's own file: %t", exists(handed), exists(h.path(DefaultTokenFile)))
		}
		const want = "the bootstrap token abcdef was used once, and cannot be removed here: it is a systemd credential"
		s := agent.Snapshot()
		if !strings.HasPrefix(s.CredentialNote, want+"; remove it where it comes from: ") || !strings.Contains(s.CredentialNote, "LoadCredential=") {
			t.Errorf("the status has the note %q", s.CredentialNote)
		}
		if text := s.Text(time.Now()); !strings.Contains(text, s.CredentialNote) {
			t.Errorf("the status does not say it:\n%s", text)
		}
		if n := h.log.count(want); n != 1 {
			t.Errorf("the log says it %d times", n)
		}
		if n := h.log.count("could not be removed"); n != 0 {
			t.Error("the log says that it could not be removed")
		}
	})
}
