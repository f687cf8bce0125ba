package strategy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// Options say what a Bed is for.
type Options struct {
	// Dir holds everything. Empty: a temporary directory, which Stop removes.
	Dir string
	// Strategies are the names of those that are wanted. Nil: all.
	Strategies []string
	// Nodes are the names that static tokens can be bound to, whoever judges them.
	Nodes []string
}

// Bed is what the strategies need. Make one with Start.
type Bed struct {
	Dir      string
	Provider *Provider   // nil where nothing asks for it, as the others
	Factory  *testbed.CA // of machines' certificates
	Proxy    *Proxy
	// Flags is the control plane that is configured with flags, Config the one with an AuthenticationConfiguration, which
	// also reviews the other's tokens for its webhook.
	Flags, Config *testbed.ControlPlane

	temporary bool
	names     []string
	nodes     []string
	frontCA   *testbed.CA
	flags     tokens // static tokens of Flags
	reviewed  tokens // of Config
	proxied   tokens // of the proxy
}

// proxyName is the common name of the proxy's client certificate, which the API server must be told.
const proxyName = "nginx"

// Audience is the API server's name as a client of the OpenID Connect provider.
const Audience = "nodejoin"

// Start starts what the strategies need. Nothing runs after an error.
func Start(ctx context.Context, o Options) (*Bed, error) {
	b := &Bed{Dir: o.Dir, names: o.Strategies, nodes: o.Nodes}
	if o.Strategies == nil {
		for _, s := range all {
			b.names = append(b.names, s.Name)
		}
	}
	for _, name := range b.names {
		if _, err := Find(name); err != nil {
			return nil, err
		}
	}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the strategies %s: %w", strings.Join(b.names, ", "), err), b.Stop())
	}
	return b, nil
}

func (b *Bed) start(ctx context.Context) (err error) {
	if b.Dir == "" {
		if b.Dir, err = os.MkdirTemp("", "strategies-"); err != nil {
			return err
		}
		b.temporary = true
	}
	if b.Factory, err = testbed.NewCA(b.path("factory"), "factory"); err != nil {
		return err
	}
	if b.frontCA, err = testbed.NewCA(b.path("front"), "front-proxy"); err != nil {
		return err
	}
	b.flags, b.reviewed, b.proxied = newTokens(b.nodes), newTokens(b.nodes), newTokens(b.nodes)
	if b.any(func(s Strategy) bool { return strings.HasPrefix(s.Name, "oidc") || s.Name == "exec" }) {
		if b.Provider, err = StartProvider(ctx, b.path("provider"), "127.0.0.1"); err != nil {
			return err
		}
		b.Provider.Register(Client{ID: Audience, Secret: rand.Text()})
	}
	if b.any(func(s Strategy) bool { return s.config || s.Name == "webhook" }) {
		if err := b.startConfig(ctx); err != nil {
			return err
		}
	}
	if b.any(func(s Strategy) bool { return !s.config }) {
		if err := b.startFlags(ctx); err != nil {
			return err
		}
	}
	if !b.any(func(s Strategy) bool { return s.proxy }) {
		return nil
	}
	b.Proxy, err = startProxy(ctx, b.path("nginx"), upstream{
		apiServer: b.Flags.Endpoint, ca: b.Flags.ServingCA.PEM, frontCA: b.frontCA, factory: b.Factory, tokens: b.proxied.users(),
	})
	return err
}

// any tells whether a wanted strategy is such.
func (b *Bed) any(such func(Strategy) bool) bool {
	return slices.ContainsFunc(all, func(s Strategy) bool { return slices.Contains(b.names, s.Name) && such(s) })
}

func (b *Bed) wants(name string) bool { return slices.Contains(b.names, name) }

func (b *Bed) path(elements ...string) string {
	return filepath.Join(append([]string{b.Dir}, elements...)...)
}

// startFlags starts the control plane that is told everything by flags.
func (b *Bed) startFlags(ctx context.Context) (err error) {
	o := testbed.Options{Dir: b.path("flags")}
	if b.wants("static-token") {
		file, err := b.flags.write(b.path("tokens.csv"))
		if err != nil {
			return err
		}
		o.APIServerArgs = append(o.APIServerArgs, "--token-auth-file="+file)
	}
	if b.any(func(s Strategy) bool { return slices.Contains(s.flags, "--oidc-") }) {
		o.APIServerArgs = append(o.APIServerArgs,
			"--oidc-issuer-url="+b.Provider.Issuer, "--oidc-client-id="+Audience, "--oidc-ca-file="+b.Provider.CA.CertFile,
			"--oidc-signing-algs=ES256", "--oidc-username-claim=kubernetes_username", "--oidc-username-prefix=-", "--oidc-groups-claim=groups")
	}
	if b.wants("client-certificate") {
		o.ClientCAs = []*testbed.CA{b.Factory}
	}
	if b.any(func(s Strategy) bool { return s.proxy }) {
		o.APIServerArgs = append(o.APIServerArgs,
			"--requestheader-client-ca-file="+b.frontCA.CertFile, "--requestheader-allowed-names="+proxyName,
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-")
	}
	if b.wants("webhook") {
		reviewer := b.path("reviewer.conf")
		if err := b.writeReviewer(ctx, reviewer); err != nil {
			return err
		}
		o.APIServerArgs = append(o.APIServerArgs, "--authentication-token-webhook-config-file="+reviewer,
			"--authentication-token-webhook-version=v1", "--authentication-token-webhook-cache-ttl=0s")
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	if b.Flags, err = testbed.Start(ctx, o); err != nil {
		return err
	}
	return b.allow(ctx, b.Flags, false)
}

// startConfig starts the control plane with an AuthenticationConfiguration.
func (b *Bed) startConfig(ctx context.Context) (err error) {
	o := testbed.Options{Dir: b.path("config")}
	if b.wants("webhook") {
		file, err := b.reviewed.write(b.path("reviewed-tokens.csv"))
		if err != nil {
			return err
		}
		o.APIServerArgs = append(o.APIServerArgs, "--token-auth-file="+file)
	}
	if b.any(func(s Strategy) bool { return s.config }) {
		file := b.path("authentication.yaml")
		if err := os.WriteFile(file, []byte(b.Provider.AuthenticationConfiguration()), 0o600); err != nil {
			return err
		}
		o.APIServerArgs = append(o.APIServerArgs, "--authentication-config="+file)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	if b.Config, err = testbed.Start(ctx, o); err != nil {
		return err
	}
	return b.allow(ctx, b.Config, true)
}

// allow applies what the strategies of a control plane need.
func (b *Bed) allow(ctx context.Context, cp *testbed.ControlPlane, config bool) error {
	var applied []string
	for _, s := range all {
		if b.wants(s.Name) && s.config == config && s.Name != "bootstrap-token" && !slices.Contains(applied, s.RBAC) {
			applied = append(applied, s.RBAC)
		}
	}
	if len(applied) == 0 {
		return nil
	}
	return cp.Apply(ctx, strings.Join(applied, ""))
}

// reviewer is who asks the reviewing control plane about tokens.
const reviewer = "token-reviewer"

// writeReviewer writes the kubeconfig of the webhook, which must name the very path.
func (b *Bed) writeReviewer(ctx context.Context, path string) error {
	if err := b.Config.Apply(ctx, binding("tokens", "system:auth-delegator", "User", reviewer)); err != nil {
		return err
	}
	if err := b.Config.WriteKubeconfig(path, testbed.Certificate{CommonName: reviewer}); err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text = []byte(strings.Replace(string(text), "server: "+b.Config.URL, "server: "+b.Config.URL+"/apis/authentication.k8s.io/v1/tokenreviews", 1))
	return os.WriteFile(path, text, 0o600)
}

// ControlPlane returns the one that a strategy joins.
func (b *Bed) ControlPlane(s Strategy) *testbed.ControlPlane {
	if s.config {
		return b.Config
	}
	return b.Flags
}

// Arguments returns the API server's arguments that a strategy is about.
func (b *Bed) Arguments(s Strategy) []string {
	var about []string
	for _, arg := range b.ControlPlane(s).APIServer.Args {
		if slices.ContainsFunc(s.flags, func(prefix string) bool { return strings.HasPrefix(arg, prefix) }) {
			about = append(about, arg)
		}
	}
	return about
}

// Stop ends everything.
func (b *Bed) Stop() error {
	var errs []error
	if b.Proxy != nil {
		b.Proxy.stop()
	}
	for _, cp := range []*testbed.ControlPlane{b.Flags, b.Config} {
		if cp != nil {
			errs = append(errs, cp.Stop())
		}
	}
	if b.Provider != nil {
		errs = append(errs, b.Provider.close())
	}
	if b.temporary {
		errs = append(errs, os.RemoveAll(b.Dir))
	}
	return errors.Join(errs...)
}

// tokens are static bearer tokens: by node those that are bound to it, under "" the one that may become any.
type tokens map[string]string

func newTokens(nodes []string) tokens {
	t := tokens{"": rand.Text()}
	for _, node := range nodes {
		t[node] = rand.Text()
	}
	return t
}

// users returns the user of each token.
func (t tokens) users() map[string]string {
	users := make(map[string]string)
	for node, token := range t {
		users[token] = "system:node:" + node
	}
	users[t[""]] = provisioner
	return users
}

// write writes the tokens as --token-auth-file wants them.
func (t tokens) write(path string) (string, error) {
	var text strings.Builder
	for token, user := range t.users() {
		group := Joiners
		if user == provisioner {
			group = Provisioners
		}
		fmt.Fprintf(&text, "%s,%s,%s,%q\n", token, user, user, group)
	}
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

// of returns the token for a node.
func (t tokens) of(node string) (string, error) {
	token, known := t[node]
	if !known {
		return "", fmt.Errorf("there is no static token for %q: name it in Options.Nodes", node)
	}
	return token, nil
}
