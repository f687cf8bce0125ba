package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/strategy"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// The files of a machine's credential, as package strategy calls them.
const (
	secretFile      = "/etc/nodejoin/secret"
	certificateFile = "/etc/nodejoin/joining.crt"
	keyFile         = "/etc/nodejoin/joining.key"
	pluginFile      = "/etc/nodejoin/identity"
	clusterCAFile   = "/etc/kubernetes/pki/ca.crt"
)

// spoiling is a credential that is refused, and why.
type spoiling struct {
	strategy string
	why      string
	spoil    func(r *spoiled) error // nil: it is an expired one
}

// spoiled is a machine with a credential that is about to be spoiled.
type spoiled struct {
	*strategy.Credential
	ctx context.Context
	bed *strategy.Bed
	dir string
}

var spoilings = []spoiling{
	{"bootstrap-token", "it has expired", nil},
	{"static-token", "it is in no file of the API server's", nil},
	{"static-token", "another CA signed the API server's certificate", func(r *spoiled) error { return r.otherCA(clusterCAFile) }},
	{"static-token", "it is another node's", func(r *spoiled) error {
		s, err := strategy.Find("static-token")
		if err != nil {
			return err
		}
		another, err := r.bed.Credential(r.ctx, s, strategy.Request{Node: boundNode(s), Bound: true})
		r.Files[secretFile] = another.Files[secretFile]
		return err
	}},
	{"service-account", "it has expired", nil},
	{"service-account", "it is for another audience", func(r *spoiled) error {
		seconds := int64(600)
		answer, err := r.bed.Flags.Client().CoreV1().ServiceAccounts("nodejoin").CreateToken(r.ctx, "joiner", &authentication.TokenRequest{
			Spec: authentication.TokenRequestSpec{Audiences: []string{"vault"}, ExpirationSeconds: &seconds},
		}, meta.CreateOptions{})
		r.Files[secretFile] = answer.Status.Token
		return err
	}},
	{"service-account", "its account may not ask for certificates", func(r *spoiled) error {
		answer, err := r.bed.Flags.Client().CoreV1().ServiceAccounts("nodejoin").CreateToken(r.ctx, "default", &authentication.TokenRequest{}, meta.CreateOptions{})
		r.Files[secretFile] = answer.Status.Token
		return err
	}},
	{"oidc", "it has expired", nil},
	{"oidc", "it is for another audience", func(r *spoiled) error { return r.sign(strategy.Token{Audience: "gitlab"}) }},
	{"oidc", "another issuer made it", func(r *spoiled) error { return r.sign(strategy.Token{Issuer: "https://login.example.com"}) }},
	{"oidc", "its group is missing", func(r *spoiled) error {
		return r.sign(strategy.Token{Claims: map[string]any{"kubernetes_username": "machine-7"}})
	}},
	{"oidc", "its group has no rights", func(r *spoiled) error {
		return r.sign(strategy.Token{Claims: map[string]any{"kubernetes_username": "machine-7", "groups": []string{"machines"}}})
	}},
	{"oidc", "it is no token", func(r *spoiled) error { r.Files[secretFile] = "<html>\n<p>please log in\n"; return nil }},
	{"oidc-cel", "a rule for its claims is not kept", func(r *spoiled) error {
		return r.sign(strategy.Token{Claims: map[string]any{"role": "person"}})
	}},
	{"oidc-refresh", "the refresh token was revoked", nil},
	{"oidc-refresh", "the client's secret is another", func(r *spoiled) error { r.Files["/etc/nodejoin/client-secret"] = "another\n"; return nil }},
	{"oidc-refresh", "another CA signed the provider's certificate", func(r *spoiled) error { return r.otherCA("/etc/nodejoin/issuer-ca.crt") }},
	{"oidc-client-credentials", "the client's secret was changed", nil},
	{"oidc-client-credentials", "there is no such client", func(r *spoiled) error { return r.edit("clientID: machine-", "clientID: unknown-") }},
	{"oidc-client-credentials", "the provider is down", func(r *spoiled) error { return r.edit(r.bed.Provider.Issuer, "https://127.0.0.1:1") }},
	{"oidc-client-credentials", "the provider calls itself by another name", func(r *spoiled) error { return r.edit(r.bed.Provider.Issuer, r.bed.Provider.Issuer+"/realm") }},
	{"client-certificate", "it has expired", nil},
	{"client-certificate", "a CA signed it that the API server does not know", func(r *spoiled) error {
		ca, err := testbed.NewCA(filepath.Join(r.dir, "other"), "other-factory")
		if err != nil {
			return err
		}
		certPEM, keyPEM, err := ca.Issue(testbed.Certificate{CommonName: "provisioner", Organization: []string{strategy.Provisioners}})
		r.Files[certificateFile], r.Files[keyFile] = string(certPEM), string(keyPEM)
		return err
	}},
	{"client-certificate", "its group has no rights", func(r *spoiled) error {
		certPEM, keyPEM, err := r.bed.Factory.Issue(testbed.Certificate{CommonName: "machine-7", Organization: []string{"machines"}})
		r.Files[certificateFile], r.Files[keyFile] = string(certPEM), string(keyPEM)
		return err
	}},
	{"client-certificate", "the key is another's", func(r *spoiled) error {
		_, keyPEM, err := r.bed.Factory.Issue(testbed.Certificate{CommonName: "another"})
		r.Files[keyFile] = string(keyPEM)
		return err
	}},
	{"client-certificate", "the key is encrypted", func(r *spoiled) error { return r.encryptKey() }},
	{"proxy", "the certificate has expired", nil},
	{"proxy", "another CA signed the proxy's certificate", func(r *spoiled) error { return r.otherCA("/etc/nodejoin/proxy-ca.crt") }},
	{"proxy", "the proxy does not know the certificate's subject", func(r *spoiled) error {
		certPEM, keyPEM, err := r.bed.Factory.Issue(testbed.Certificate{CommonName: "printer", Organization: []string{"office"}})
		r.Files[certificateFile], r.Files[keyFile] = string(certPEM), string(keyPEM)
		return err
	}},
	{"proxy-basic", "the password is another", nil},
	{"proxy-bearer", "the proxy does not know the token", nil},
	{"proxy-bearer", "the proxy is down", func(r *spoiled) error { return r.edit(r.bed.Proxy.ByToken, "127.0.0.1:1") }},
	{"webhook", "the reviewing cluster does not know the token", nil},
	{"exec", "the token that it prints has expired", nil},
	{"exec", "it fails", func(r *spoiled) error { return r.plugin("echo not today >&2; exit 3") }},
	{"exec", "it prints something else", func(r *spoiled) error { return r.plugin("echo token: abc") }},
	{"exec", "it hangs", func(r *spoiled) error {
		r.YAML = strings.Replace(r.YAML, "- exec:\n", "- exec:\n    timeout: 1s\n", 1)
		return r.plugin("exec sleep 60")
	}},
	{"exec", "it is not there", func(r *spoiled) error { delete(r.Files, pluginFile); return nil }},
}

// otherCA puts another CA in the place of one.
func (r *spoiled) otherCA(file string) error {
	ca, err := testbed.NewCA(filepath.Join(r.dir, "other"), "other-ca")
	if err == nil {
		r.Files[file] = string(ca.PEM)
	}
	return err
}

// sign gives the machine an id_token that differs from a good one.
func (r *spoiled) sign(t strategy.Token) error {
	claims := map[string]any{"kubernetes_username": "provisioner", "groups": []string{strategy.Provisioners}}
	if t.Claims != nil {
		claims = t.Claims
	}
	if t.Audience == "" {
		t.Audience = "nodejoin"
	}
	t.Subject, t.Claims = "machine-7", maps.Clone(claims)
	token, err := r.bed.Provider.Sign(t)
	r.Files[secretFile] = token + "\n"
	return err
}

// edit changes the configuration.
func (r *spoiled) edit(from, to string) error {
	if !strings.Contains(r.YAML, from) {
		return fmt.Errorf("there is no %s in %s", from, r.YAML)
	}
	r.YAML = strings.ReplaceAll(r.YAML, from, to)
	return nil
}

// plugin makes the credential plugin another program.
func (r *spoiled) plugin(script string) error {
	r.Files[pluginFile] = "#!/bin/sh\n" + script + "\n"
	return nil
}

// encryptKey encrypts the key as openssl did for a long time.
func (r *spoiled) encryptKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	//nolint:staticcheck // that it is a weak encryption is not the point
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), []byte("secret"), x509.PEMCipherAES256)
	if err == nil {
		r.Files[keyFile] = string(pem.EncodeToMemory(block))
	}
	return err
}

// TestRefusals shows what a person reads when a credential is refused; testdata/refusals.golden has it all.
func TestRefusals(t *testing.T) {
	bed := needWays(t)
	told := make([]string, len(spoilings))
	t.Run("that", func(t *testing.T) {
		for i, c := range spoilings {
			t.Run(c.strategy+": "+c.why, func(t *testing.T) {
				t.Parallel()
				var err error
				if told[i], err = c.tell(t.Context(), bed, t.TempDir()); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	compareWithFile(t, "testdata/refusals.golden", strings.Join(told, "\n"))
}

// tell joins with the credential, and returns what is printed.
func (c spoiling) tell(ctx context.Context, bed *strategy.Bed, dir string) (string, error) {
	s, err := strategy.Find(c.strategy)
	if err != nil {
		return "", err
	}
	credential, err := bed.Credential(ctx, s, strategy.Request{Node: "refused", Root: dir, Expired: c.spoil == nil})
	if err != nil {
		return "", err
	}
	j := &joins{bed: bed, s: s}
	credential.Files[clusterCAFile] = string(bed.ControlPlane(s).ServingCA.PEM)
	if c.spoil != nil {
		if err := c.spoil(&spoiled{Credential: credential, ctx: ctx, bed: bed, dir: dir}); err != nil {
			return "", err
		}
	}
	timeout := "1m" // for what is refused, which takes no time at all where the machine is not busy
	if slices.Contains([]string{"it is another node's", "the provider is down", "the proxy is down", "it fails", "it hangs"}, c.why) {
		timeout = "5s" // it may pass, and is waited for
	}
	out, err := j.join(ctx, dir, "refused", credential, "--timeout", timeout)
	if exitCode(err) <= 0 {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	for _, secret := range credential.Secrets {
		if strings.Contains(out, secret) {
			return "", fmt.Errorf("the output has the secret in it:\n%s", out)
		}
	}
	return fmt.Sprintf("# %s: %s (exit status %d)\n%s", c.strategy, c.why, exitCode(err), named(out, bed, s, dir)), nil
}

var (
	timeInText    = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	spanInText    = regexp.MustCompile(`\d+h\d+m\d+s ago`)
	requestInText = regexp.MustCompile(`node-csr-[A-Za-z0-9_-]{43}`)
	// Whom it does not recognise the API server also asks to go away, at times before the answer has arrived.
	goAway = regexp.MustCompile(`(?m)^nodejoin: .*GOAWAY$\n`)
	// Whether it is said depends on how busy the machine is.
	stillWaiting = regexp.MustCompile(`(?m)^nodejoin: still waiting after .*$\n`)

	tokenInText = regexp.MustCompile(`bootstrap token [a-z0-9]{6}`)
)

// named puts names in the place of what is another in each run.
func named(out string, bed *strategy.Bed, s strategy.Strategy, dir string) string {
	names := []string{
		dir, "", bed.ControlPlane(s).Endpoint, "SERVER:6443", bed.Provider.Issuer, "https://ISSUER", bed.Proxy.ByCertificate, "PROXY:443",
		bed.Proxy.ByPassword, "PROXY:443", bed.Proxy.ByToken, "PROXY:443", strings.TrimPrefix(bed.Provider.Issuer, "https://"), "ISSUER",
	}
	out = strings.NewReplacer(names...).Replace(out)
	out = stillWaiting.ReplaceAllString(goAway.ReplaceAllString(out, ""), "")
	out = timeInText.ReplaceAllString(out, "TIME")
	out = spanInText.ReplaceAllString(out, "SPAN ago")
	out = requestInText.ReplaceAllString(out, "node-csr-NAME")
	return tokenInText.ReplaceAllString(out, "bootstrap token TOKEN")
}

// compareWithFile compares a text with a file, or writes it there.
func compareWithFile(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	now, before := strings.Split(text, "\n"), strings.Split(string(want), "\n")
	for i, line := range now {
		if i >= len(before) || line != before[i] {
			t.Fatalf("line %d of %s is another now, which -update writes:\n%s\nwas\n%s", i+1, path, line, strings.Join(slices.Concat(before[min(i, len(before)):min(i+1, len(before))]), ""))
		}
	}
	if len(now) != len(before) {
		t.Fatalf("%s has %d lines more", path, len(before)-len(now))
	}
}
