//go:build linux

package admin

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/cluster-bootstrap/token/api"

	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/test/testbed"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// What is written is what is read again, but for the secret.
func TestTokenOf(t *testing.T) {
	later, before := now.Add(time.Hour), now.Add(-time.Hour)
	token := bootstrap.Token{ID: "abcdef", Secret: bootstrap.NewSecret("0123456789abcdef")}
	whole := NewToken{TTL: time.Hour, Usages: []string{UsageSigning, UsageAuthentication}, Groups: []string{"system:bootstrappers:a", "system:bootstrappers:b"}, Description: "a rack"}
	expected := TokenInfo{ID: "abcdef", Expires: &later, Usages: []string{UsageAuthentication, UsageSigning}, Groups: whole.Groups, Description: "a rack"}
	for _, test := range []struct {
		name   string
		change func(secret *core.Secret, want *TokenInfo)
	}{
		{"as it was made", func(*core.Secret, *TokenInfo) {}},
		{"for ever", func(s *core.Secret, want *TokenInfo) {
			delete(s.Data, api.BootstrapTokenExpirationKey)
			want.Expires = nil
		}},
		{"expired", func(s *core.Secret, want *TokenInfo) {
			s.Data[api.BootstrapTokenExpirationKey] = []byte(before.Format(time.RFC3339))
			want.Expires, want.Problem = &before, "it has expired"
		}},
		{"no time", func(s *core.Secret, want *TokenInfo) {
			s.Data[api.BootstrapTokenExpirationKey] = []byte("tomorrow")
			want.Expires, want.Problem = nil, `its expiration "tomorrow" is no time`
		}},
		{"no secret", func(s *core.Secret, want *TokenInfo) {
			delete(s.Data, api.BootstrapTokenSecretKey)
			want.Problem = "it has no secret"
		}},
		{"another's name", func(s *core.Secret, want *TokenInfo) {
			s.Name = "bootstrap-token-zzzzzz"
			want.ID, want.Problem = "zzzzzz", `its Secret is named for "zzzzzz" and holds the ID "abcdef"`
		}},
		{"no usage", func(s *core.Secret, want *TokenInfo) {
			s.Data[api.BootstrapTokenUsageAuthentication] = []byte("false")
			delete(s.Data, api.BootstrapTokenUsageSigningKey)
			want.Usages = nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			secret, want := whole.secret(token, now), expected
			test.change(secret, &want)
			if diff := cmp.Diff(&want, tokenOf(secret, now)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRandomToken(t *testing.T) {
	seen, used := map[string]bool{}, map[rune]bool{}
	for range 1000 {
		token := randomToken()
		text := token.Bearer().Reveal()
		if parsed, err := bootstrap.ParseToken(text); err != nil || parsed != token {
			t.Fatalf("%q is no token: %v", text, err)
		}
		if seen[text] {
			t.Fatalf("%q comes twice", text)
		}
		seen[text] = true
		for _, r := range strings.Replace(text, ".", "", 1) {
			used[r] = true
		}
	}
	if len(used) != 36 {
		t.Errorf("%d characters are used instead of 36", len(used))
	}
}

func TestIsLoopback(t *testing.T) {
	for server, want := range map[string]bool{
		"https://127.0.0.1:6443": true, "https://127.1.2.3": true, "https://[::1]:6443": true, "https://localhost:6443": true,
		"https://0.0.0.0:6443": true, "https://api.localhost": true,
		"https://10.0.0.1:6443": false, "https://api.example.com": false, "https://[2001:db8::1]:6443": false, "https://localhost.example.com": false,
	} {
		if isLoopback(server) != want {
			t.Errorf("%s is loopback: %t", server, !want)
		}
	}
}

func TestInvitation(t *testing.T) {
	var pem []byte // of a cluster whose CA is being rotated
	for _, name := range []string{"old", "new"} {
		authority, err := testbed.NewCA(t.TempDir(), name)
		if err != nil {
			t.Fatal(err)
		}
		pem = append(pem, authority.PEM...)
	}
	ca, err := bootstrap.ParseBundle(pem, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := bootstrap.ParseEndpoint("https://[2001:db8::1]:6443")
	if err != nil {
		t.Fatal(err)
	}
	i := Invitation{
		Cluster: &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: ca, TLSServerName: "api.example.com"},
		Node:    "worker-1", Token: bootstrap.Token{ID: "abcdef", Secret: bootstrap.NewSecret("0123456789abcdef")},
	}
	pattern := regexp.MustCompile(`^nodejoin join \[2001:db8::1\]:6443 --token abcdef\.0123456789abcdef( --discovery-token-ca-cert-hash sha256:[0-9a-f]{64}){2} --tls-server-name api\.example\.com --node-name worker-1$`)
	if got := i.Command(); !pattern.MatchString(got) {
		t.Error(got)
	}
	data, err := i.UserData(cloudinit.Machine{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"#cloud-config\n# It makes", "node worker-1 of [2001:db8::1]:6443", "tlsServerName: api.example.com", "\n- [systemctl, enable, --now, --no-block, nodejoin.service]\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is not in %s", want, data)
		}
	}
}
