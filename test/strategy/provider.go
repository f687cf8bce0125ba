package strategy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/crypto"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/nodejoin/nodejoin/test/internal/port"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// Provider is an OpenID Connect provider over HTTPS, with a CA of its own. It has no login: it offers discovery, its
// keys, and the grants refresh_token (every use gives another refresh token, and ends the old one) and client_credentials.
type Provider struct {
	Issuer string
	CA     *testbed.CA

	held   *port.Held
	key    *ecdsa.PrivateKey
	pair   tls.Certificate
	handle http.Handler

	mu      sync.Mutex // guards what follows
	server  *http.Server
	clients map[string]Client
	grants  map[string]*grant // by refresh token
}

// authenticationConfiguration is the file of --authentication-config. A token that names a node is bound to it.
const authenticationConfiguration = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: $ISSUER
    audiences: [$AUDIENCE]
    certificateAuthority: |
$CA
  claimValidationRules:
  - expression: "claims.role == 'machine'"
    message: only a machine joins
  claimMappings:
    username:
      expression: "has(claims.node) ? 'system:node:' + claims.node : 'machine:' + claims.sub"
    groups:
      expression: "has(claims.node) ? ['nodejoin:joiners'] : ['nodejoin:provisioners']"
    extra:
    - key: example.com/machine
      valueExpression: claims.sub
  userValidationRules:
  - expression: "!user.groups.exists(g, g.startsWith('system:'))"
    message: a provider does not say who is in the cluster's own groups
`

// AuthenticationConfiguration returns the file of --authentication-config for an API server that is to know the provider's
// machines: a token for [Audience] whose claim role is "machine" is that of the node in its claim node, in the group
// [Joiners], or, without that claim, of one that may become any node, in the group [Provisioners].
func (p *Provider) AuthenticationConfiguration() string {
	values := map[string]string{
		"ISSUER": p.Issuer, "AUDIENCE": Audience,
		"CA": strings.TrimRight("      "+strings.ReplaceAll(strings.TrimSpace(string(p.CA.PEM)), "\n", "\n      "), " "),
	}
	return os.Expand(authenticationConfiguration, func(name string) string { return values[name] })
}

// Client is a client of the provider.
type Client struct {
	ID, Secret string
	// Audience of its access tokens by the grant client_credentials. Its id_tokens are for itself.
	Audience string
	// Claims are in its tokens by the grant client_credentials, beside sub, which is its ID.
	Claims map[string]any
	// Lifetime of its tokens. Zero: an hour; negative: they have expired when they are made.
	Lifetime time.Duration
}

// StartProvider starts a provider on an IP address. Its CA is in a directory.
func StartProvider(ctx context.Context, dir, address string) (*Provider, error) {
	p := &Provider{clients: make(map[string]Client), grants: make(map[string]*grant)}
	if err := p.prepare(dir, address); err != nil {
		return nil, fmt.Errorf("start an OpenID Connect provider: %w", err)
	}
	return p, p.Start(ctx)
}

func (p *Provider) prepare(dir, address string) (err error) {
	if p.held, err = port.Hold(address); err != nil {
		return err
	}
	p.Issuer = "https://" + p.held.Address()
	if p.CA, err = testbed.NewCA(dir, "oidc-ca"); err != nil {
		return err
	}
	certPEM, keyPEM, err := p.CA.Issue(testbed.Certificate{CommonName: "oidc", SANs: []string{address}})
	if err != nil {
		return err
	}
	if p.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return err
	}
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	config := &op.Config{AuthMethodPost: true, GrantTypeRefreshToken: true}
	if _, err := rand.Read(config.CryptoKey[:]); err != nil {
		return err
	}
	p.handle, err = op.NewProvider(config, storage{p}, op.StaticIssuer(p.Issuer))
	return err
}

// Start listens, again after Stop.
func (p *Provider) Start(ctx context.Context) error {
	listener, err := p.held.Listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: p.handle, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{p.pair}, MinVersion: tls.VersionTLS12},
	}
	p.mu.Lock()
	p.server = server
	p.mu.Unlock()
	go func() { _ = server.ServeTLS(listener, "", "") }() // it ends with Stop
	return nil
}

// Stop closes every connection. The port stays the provider's.
func (p *Provider) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Close()
	p.server = nil
	return err
}

// close stops the provider for ever.
func (p *Provider) close() error {
	err := p.Stop()
	p.held.Close()
	return err
}

// Register makes a client known, or changes it.
func (p *Provider) Register(c Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[c.ID] = c
}

// Token is a JWT that the provider signs.
type Token struct {
	Issuer   string // empty: the provider's own
	Subject  string
	Audience string
	Claims   map[string]any
	Lifetime time.Duration // zero: an hour; negative: it has expired
}

// Sign makes a token as the provider makes an id_token after somebody's login.
func (p *Provider) Sign(t Token) (string, error) {
	if t.Issuer == "" {
		t.Issuer = p.Issuer
	}
	return signJWT(p.signingKey(), t)
}

func (p *Provider) signingKey() signingKey { return signingKey{p.key, "first"} }

func signJWT(key signingKey, t Token) (string, error) {
	claims := maps.Clone(t.Claims)
	if claims == nil {
		claims = make(map[string]any)
	}
	end := time.Now().Add(lifetime(t.Lifetime))
	claims["iss"], claims["sub"], claims["aud"] = t.Issuer, t.Subject, t.Audience
	claims["exp"], claims["iat"] = end.Unix(), min(time.Now().Unix(), end.Add(-time.Minute).Unix())
	signer, err := op.SignerFromKey(key)
	if err != nil {
		return "", err
	}
	return crypto.Sign(claims, signer)
}

func lifetime(d time.Duration) time.Duration {
	if d == 0 {
		return time.Hour
	}
	return d
}

// Grant gives a client a refresh token for somebody's identity, as after a login.
func (p *Provider) Grant(clientID, subject string, claims map[string]any) (refreshToken string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	client, known := p.clients[clientID]
	if !known {
		return "", errNoClient
	}
	refreshToken = rand.Text()
	p.grants[refreshToken] = &grant{client: client, subject: subject, claims: claims, scopes: []string{"openid", "offline_access"}, at: time.Now()}
	return refreshToken, nil
}

// Revoke ends a refresh token.
func (p *Provider) Revoke(refreshToken string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.grants, refreshToken)
}

var (
	errNoClient = errors.New("there is no such client")
	errNoGrant  = errors.New("there is no such refresh token")
)

// signingKey is an EC key of P-256, as what signs and as what is published.
type signingKey struct {
	private *ecdsa.PrivateKey
	id      string // may be empty
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k signingKey) Key() any                                    { return k.private }
func (k signingKey) ID() string                                  { return k.id }

// publicKey is what is published of a signingKey.
type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.private.Public() }
func (k publicKey) ID() string                         { return k.signingKey.ID() }
