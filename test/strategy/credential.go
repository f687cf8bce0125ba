package strategy

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// Request says which credential is wanted.
type Request struct {
	Node    string // who wants to join
	Bound   bool   // the credential can become that node only
	Expired bool   // or, where nothing expires, one that its judge no longer knows
	Root    string // what the node's paths are put under; it matters to the exec plugin, which does not know it
}

// Credential is what a node is given.
type Credential struct {
	YAML    string            // an entry of `credentials` in the node's configuration
	Files   map[string]string // content by path, as the configuration has it
	Secrets []string          // what must be found nowhere but in these files
	User    string            // what the API server takes its bearer for
}

// The node's files.
const (
	secretFile      = "/etc/nodejoin/secret"
	certificateFile = "/etc/nodejoin/joining.crt"
	keyFile         = "/etc/nodejoin/joining.key"
	issuerCAFile    = "/etc/nodejoin/issuer-ca.crt"
	proxyCAFile     = "/etc/nodejoin/proxy-ca.crt"
	pluginFile      = "/etc/nodejoin/identity"
)

// Credential makes a credential.
func (b *Bed) Credential(ctx context.Context, s Strategy, r Request) (*Credential, error) {
	if r.Bound && s.Unbindable != "" {
		return nil, fmt.Errorf("a %s cannot be bound to a name: %s", s.Name, s.Unbindable)
	}
	c, err := s.make(maker{ctx: ctx, bed: b, Request: r, config: s.config})
	if err != nil {
		return nil, fmt.Errorf("make a credential for the strategy %s: %w", s.Name, err)
	}
	return c, nil
}

// Write writes the files under the node's root. Nobody else can read them; the exec plugin's program can be run.
func (c *Credential) Write(root string) error {
	for path, content := range c.Files {
		mode := os.FileMode(0o600)
		if path == pluginFile {
			mode = 0o700
		}
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			return err
		}
	}
	return nil
}

// maker makes one credential.
type maker struct {
	Request

	ctx    context.Context
	bed    *Bed
	config bool
}

// lifetime is for tokens and certificates that can be made with any.
func (m maker) lifetime() time.Duration {
	if m.Expired {
		return -time.Hour
	}
	return time.Hour
}

// user is what most judges take the bearer for.
func (m maker) user(anyNode string) string {
	if m.Bound {
		return "system:node:" + m.Node
	}
	return anyNode
}

func (m maker) group() string {
	if m.Bound {
		return Joiners
	}
	return Provisioners
}

// bearer is a token in a file.
func bearer(user, token string) *Credential {
	return &Credential{
		YAML: "- bearerToken: {file: " + secretFile + "}\n", Files: map[string]string{secretFile: token + "\n"},
		Secrets: []string{token}, User: user,
	}
}

func (m maker) bootstrapToken() (*Credential, error) {
	o := testbed.TokenOptions{}
	if m.Expired {
		o.TTL = -time.Hour
	}
	token, err := m.bed.Flags.CreateToken(m.ctx, o)
	if err != nil {
		return nil, err
	}
	c := bearer("system:bootstrap:"+token[:6], token)
	c.YAML, c.Secrets = "- bootstrapToken: {file: "+secretFile+"}\n", []string{token[7:]}
	return c, nil
}

// static returns a static token, or one that nobody knows.
func (m maker) static(known tokens) (string, error) {
	switch {
	case m.Expired:
		return rand.Text(), nil
	case m.Bound:
		return known.of(m.Node)
	}
	return known.of("")
}

func (m maker) staticToken() (*Credential, error) {
	token, err := m.static(m.bed.flags)
	return bearer(m.user(provisioner), token), err
}

func (m maker) webhook() (*Credential, error) {
	token, err := m.static(m.bed.reviewed)
	return bearer(m.user(provisioner), token), err
}

func (m maker) serviceAccount() (*Credential, error) {
	const user = "system:serviceaccount:" + joinerNamespace + ":" + joinerAccount
	accounts := m.bed.Flags.Client().CoreV1().ServiceAccounts(joinerNamespace)
	if m.Expired {
		account, err := accounts.Get(m.ctx, joinerAccount, meta.GetOptions{})
		if err != nil {
			return nil, err
		}
		// The API gives no token for less than ten minutes: this one is signed with the cluster's own key.
		key, err := readKey(filepath.Join(m.bed.Flags.Dir, "pki", "sa.key"))
		if err != nil {
			return nil, err
		}
		token, err := signJWT(signingKey{private: key}, Token{
			Issuer: serviceAccountIssuer, Subject: user, Audience: serviceAccountIssuer, Lifetime: m.lifetime(),
			Claims: map[string]any{"kubernetes.io": map[string]any{
				"namespace":      joinerNamespace,
				"serviceaccount": map[string]any{"name": joinerAccount, "uid": account.UID},
			}},
		})
		return bearer(user, token), err
	}
	seconds := int64(600)
	answer, err := accounts.CreateToken(m.ctx, joinerAccount, &authentication.TokenRequest{
		Spec: authentication.TokenRequestSpec{Audiences: []string{serviceAccountIssuer}, ExpirationSeconds: &seconds},
	}, meta.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return bearer(user, answer.Status.Token), nil
}

// serviceAccountIssuer is package testbed's.
const serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no PEM in " + path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// claims are what the provider says of a machine: for an API server with --oidc-* flags its user and groups, for one with
// an AuthenticationConfiguration what those are made of.
func (m maker) claims() map[string]any {
	claims := map[string]any{"role": "machine"}
	if m.Bound {
		claims["node"] = m.Node
	}
	if !m.config {
		maps.Copy(claims, map[string]any{"kubernetes_username": m.user(provisioner), "groups": []string{m.group()}})
	}
	return claims
}

// subject is what the provider calls the machine.
func (m maker) subject() string { return "machine-" + m.Node }

// oidcUser is what the API server makes of the claims.
func (m maker) oidcUser(subject string) string {
	if m.config {
		return m.user("machine:" + subject)
	}
	return m.user(provisioner)
}

func (m maker) idToken() (*Credential, error) {
	token, err := m.bed.Provider.Sign(Token{Subject: m.subject(), Audience: Audience, Claims: m.claims(), Lifetime: m.lifetime()})
	return bearer(m.oidcUser(m.subject()), token), err
}

func (m maker) refreshToken() (*Credential, error) {
	client, err := storage{m.bed.Provider}.client(Audience)
	if err != nil {
		return nil, err
	}
	token, err := m.bed.Provider.Grant(client.ID, m.subject(), m.claims())
	if err != nil {
		return nil, err
	}
	if m.Expired {
		m.bed.Provider.Revoke(token)
	}
	c := m.oauth(client, "\n    refreshTokenFile: "+secretFile)
	c.Files[secretFile], c.Secrets = token+"\n", append(c.Secrets, token)
	c.User = m.oidcUser(m.subject())
	return c, nil
}

func (m maker) clientCredentials() (*Credential, error) {
	client := Client{ID: m.subject(), Secret: rand.Text(), Audience: Audience, Claims: m.claims()}
	m.bed.Provider.Register(client)
	if m.Expired {
		client.Secret = rand.Text() // the provider has another by now
	}
	c := m.oauth(client, "")
	c.User = m.oidcUser(client.ID)
	return c, nil
}

// oauth is a credential with which the provider is asked for tokens.
func (m maker) oauth(client Client, more string) *Credential {
	const clientSecretFile = "/etc/nodejoin/client-secret"
	return &Credential{
		YAML: "- oidc:\n    issuer: " + m.bed.Provider.Issuer + "\n    clientID: " + client.ID +
			"\n    clientSecretFile: " + clientSecretFile + more + "\n    certificateAuthority: " + issuerCAFile + "\n",
		Files:   map[string]string{clientSecretFile: client.Secret + "\n", issuerCAFile: string(m.bed.Provider.CA.PEM)},
		Secrets: []string{client.Secret},
	}
}

// certificate is a certificate of the factory's.
func (m maker) certificate(user, organization string) (*Credential, error) {
	certPEM, keyPEM, err := m.bed.Factory.Issue(testbed.Certificate{
		CommonName: user, Organization: []string{organization}, NotBefore: time.Now().Add(-2 * time.Hour), Lifetime: m.lifetime(),
	})
	if err != nil {
		return nil, err
	}
	return &Credential{
		YAML:    "- clientCertificate:\n    certificateFile: " + certificateFile + "\n    privateKeyFile: " + keyFile + "\n",
		Files:   map[string]string{certificateFile: string(certPEM), keyFile: string(keyPEM)},
		Secrets: []string{secretOf(keyPEM)}, User: user,
	}, nil
}

// secretOf returns the first line of a key's own text.
func secretOf(keyPEM []byte) string {
	const begin = "-----BEGIN EC PRIVATE KEY-----\n"
	return string(keyPEM[len(begin) : len(begin)+64])
}

func (m maker) clientCertificate() (*Credential, error) {
	return m.certificate(m.user(provisioner), m.group())
}

// behind puts a credential before the proxy.
func (m maker) behind(endpoint string, c *Credential) *Credential {
	c.YAML += "  endpoint:\n    server: " + endpoint + "\n    certificateAuthority: " + proxyCAFile + "\n"
	c.Files[proxyCAFile] = string(m.bed.Proxy.CA.PEM)
	return c
}

func (m maker) proxyCertificate() (*Credential, error) {
	name, organization := "station-7", "provisioners"
	if m.Bound {
		name, organization = m.Node, "machines"
	}
	c, err := m.certificate(name, organization)
	if err != nil {
		return nil, err
	}
	c.User = m.user(provisioner)
	return m.behind(m.bed.Proxy.ByCertificate, c), nil
}

func (m maker) proxyBasic() (*Credential, error) {
	user, password := provisioner, rand.Text()
	if m.Bound {
		user = m.Node
	}
	if !m.Expired {
		if err := m.bed.Proxy.SetPassword(m.ctx, user, password); err != nil {
			return nil, err
		}
	}
	return m.behind(m.bed.Proxy.ByPassword, &Credential{
		YAML:    "- basic:\n    username: " + user + "\n    passwordFile: " + secretFile + "\n",
		Files:   map[string]string{secretFile: password + "\n"},
		Secrets: []string{password}, User: m.user(provisioner),
	}), nil
}

func (m maker) proxyBearer() (*Credential, error) {
	token, err := m.static(m.bed.proxied)
	return m.behind(m.bed.Proxy.ByToken, bearer(m.user(provisioner), token)), err
}

// plugin prints what client-go's exec plugins print: here, the identity token that a machine was given.
const plugin = `#!/bin/sh
set -eu
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}\n' "$(cat "$IDENTITY_TOKEN")"
`

func (m maker) exec() (*Credential, error) {
	c, err := m.idToken()
	if err != nil {
		return nil, err
	}
	c.YAML = "- exec:\n    command: [" + pluginFile + "]\n    env:\n    - {name: IDENTITY_TOKEN, value: " + filepath.Join(m.Root, secretFile) + "}\n"
	c.Files[pluginFile] = plugin
	return c, nil
}
