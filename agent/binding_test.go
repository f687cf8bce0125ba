package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

// TestBindingIsTold says whether a credential could have made another node of the machine, and lets nobody approve a theft
// without a thought.
func TestBindingIsTold(t *testing.T) {
	const approve = "kubectl certificate approve csr-1"
	for _, test := range []struct {
		name, username string
		own            bool
		says           string // "" for nothing
		approve        string
	}{
		{"bound to this node", testUser, false, "the credential is bound to this node: its user is " + testUser, approve},
		{"bound to another", "system:node:other", false, "the credential is bound to another node: its user is system:node:other", approve + ", if this is no theft of another node's credential"},
		{"bound to none", "system:bootstrap:abcdef", false, `the credential is not bound to one node: the user "system:bootstrap:abcdef" may ask to become any`, approve},
		{"the node itself", testUser, true, "", approve},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newHost(t, newCluster(t)).agent()
			var told []string
			a.Report = func(n Notice) { told = append(told, n.Text) }
			a.identity.tellBinding(&application{way: way{own: test.own}}, test.username)
			if test.says == "" && len(told) != 0 || test.says != "" && (len(told) != 1 || !strings.HasPrefix(told[0], test.says)) {
				t.Errorf("told %q, want %q", told, test.says)
			}
			if got := a.howToApprove(&csr.Progress{Name: "csr-1", Username: test.username}); got != test.approve {
				t.Errorf("to approve it: %q, want %q", got, test.approve)
			}
		})
	}
}

// shown is a credential that expired an hour ago, and counts how often it was told to forget that.
type shown struct{ forgotten int }

func (s *shown) Proof(context.Context) (*bootstrap.Proof, error) {
	if s.forgotten > 1 {
		return nil, errors.New("gone")
	}
	return &bootstrap.Proof{NotAfter: time.Now().Add(-time.Hour)}, nil
}
func (s *shown) String() string { return "the credential" }
func (s *shown) Remedy() string { return "another one" }
func (s *shown) Forget()        { s.forgotten++ }

// TestRefusedCredential says what a refused credential says of itself, and has one that remembers get another.
func TestRefusedCredential(t *testing.T) {
	const usual = "it is wrong, expired, deleted or not meant for authentication"
	k := newHost(t, newCluster(t)).agent().identity
	credential := &shown{}
	app := &application{way: way{credential: credential}, conn: &bootstrap.Connection{}}
	if why := k.whyRefused(t.Context(), app); !strings.HasPrefix(why, "it expired at ") || !strings.HasSuffix(why, " 1h0m0s ago by this machine's clock") {
		t.Errorf("the reason is %q", why)
	}
	app.way.forget()
	app.way.forget()
	if why := k.whyRefused(t.Context(), app); why != usual || credential.forgotten != 2 {
		t.Errorf("forgotten %d times, and the reason is %q", credential.forgotten, why)
	}
	app.way = way{own: true}
	app.way.forget() // there is nothing to forget
	if why := k.whyRefused(t.Context(), app); why != usual {
		t.Errorf("of the node's own certificate: %q", why)
	}
}

// TestCredentialThatVanishes lets the next one have its turn when a file goes between the look at it and its use.
func TestCredentialThatVanishes(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.twoCredentials()
		first := h.change
		h.change = func(o *Options) {
			first(o)
			slices.Reverse(o.Credentials)
			o.Credentials[0] = config.Credential{Exec: &config.Exec{Command: []string{"/usr/libexec/none"}}}
		}
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if made := h.cluster.creations(); len(made) != 1 || made[0].by != "system:bootstrap:abcdef" {
			t.Errorf("requests: %v", made)
		}
		if view := agent.view(); view.State != status.Valid {
			t.Errorf("the status is %+v", view)
		}
	})
}

// TestCredentialsAreInherited keeps what a credential remembers over a reload, where it is configured as before.
func TestCredentialsAreInherited(t *testing.T) {
	provider := func(client string) config.Credential {
		return config.Credential{OIDC: &config.OIDC{Issuer: "https://login.example.com", ClientID: client, RefreshTokenFile: "/r"}}
	}
	configOf := func(credentials ...config.Credential) *Config {
		c, err := options(t, func(o *Options) { o.Credentials = credentials; o.Root = "/machine" }).Config()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before, after := configOf(provider("a"), provider("b")), configOf(provider("c"), provider("b"))
	after.inherit(before)
	if after.sources[1].credential != before.sources[1].credential {
		t.Error("what is as before has forgotten")
	}
	if c := after.sources[0].credential; c == before.sources[0].credential || c == before.sources[1].credential {
		t.Error("what is new is an old one")
	}
}
