// Package oidc is the credential of a machine that an OpenID Connect provider knows: it gets a token from the provider each
// time that one is needed, with a refresh token (RFC 6749, section 6) or with the client's own secret (the client
// credentials grant, section 4.4). The provider says where under its issuer (OpenID Connect Discovery 1.0, section 4).
//
// # What it promises
//
// A token is used until shortly before it expires, and got anew after [Credential.Forget]. A refresh token that the provider
// has replaced is saved before the token that came with it is used, since the old one is of no use any more. No secret is in
// an error. Tokens are not verified: that is the API server's affair.
//
// # How it fails
//
// With an error of a class (package fault) where the provider refuses, or what was configured cannot be right; with any
// other where the provider cannot be asked now.
package oidc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 1 << 20  // bytes; a real one is a few kilobytes
	maxSecret      = 64 << 10 // bytes of a file
	leeway         = 30 * time.Second
)

// Config says how tokens are got. Issuer, ClientID and one of the two files are required.
type Config struct {
	Issuer               string // https URL
	ClientID             string
	ClientSecretFile     string   // "": a public client
	RefreshTokenFile     string   // "": the client credentials grant
	Scopes               []string // none: the provider's own
	Audience             string   // a parameter of the client credentials grant; "": none
	CertificateAuthority string   // PEM; "": this machine's
	// Save replaces the refresh token's file, durably.
	Save func(path string, token []byte) error
}

// Credential is a [bootstrap.Credential] that asks the provider. It is safe for concurrent use.
type Credential struct {
	config Config

	mu      sync.Mutex // guards what follows, and is held while the provider is asked
	log     *slog.Logger
	proof   *bootstrap.Proof
	got     time.Time // when the provider gave it
	unsaved rotated
	shown   []bootstrap.Secret // to the provider, which may repeat them

	saved atomic.Pointer[bootstrap.Secret] // the refresh token that was last written to its file, or is about to be
}

// rotated is a refresh token that could not be saved, and the one in whose place it is.
type rotated struct{ old, now bootstrap.Secret }

// New returns the credential. Nothing is read yet.
func New(config Config) *Credential {
	return &Credential{config: config, log: slog.New(slog.DiscardHandler)}
}

// LogTo says who is told that a new refresh token could not be saved; without it nobody is.
func (c *Credential) LogTo(log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = log
}

// String implements [bootstrap.Credential].
func (c *Credential) String() string {
	if c.config.RefreshTokenFile != "" {
		return fmt.Sprintf("the OpenID Connect token of %s (by the refresh token in %s)", c.config.Issuer, c.config.RefreshTokenFile)
	}
	return fmt.Sprintf("the OpenID Connect token of %s (as the client %s)", c.config.Issuer, c.config.ClientID)
}

// Remedy implements [bootstrap.Credential].
func (c *Credential) Remedy() string {
	return "compare the API server's --oidc-issuer-url and --oidc-client-id, or the issuers of its --authentication-config, with what the provider issues"
}

// Forget makes the next use get a new token.
func (c *Credential) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proof = nil
}

// Proof implements [bootstrap.Credential].
func (c *Credential) Proof(ctx context.Context) (*bootstrap.Proof, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proof != nil && time.Now().Add(leeway).Before(c.proof.NotAfter) { // of which nothing is said is used once
		return c.proof, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("no answer within %s", requestTimeout))
	defer cancel()
	proof, err := c.get(ctx)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	c.proof, c.got = proof, time.Now()
	return proof, nil
}

// Held implements [bootstrap.Holder].
func (c *Credential) Held() *bootstrap.Proof {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proof != nil && c.proof.IsValid(c.got) && !c.proof.IsValid(time.Now()) {
		return nil
	}
	return c.proof
}

// get gets a token.
func (c *Credential) get(ctx context.Context) (*bootstrap.Proof, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections() // the next token is hours away
	secret, err := readOptional(c.config.ClientSecretFile, "the client's secret")
	if err != nil {
		return nil, err
	}
	refresh, err := readOptional(c.config.RefreshTokenFile, "the refresh token")
	if err != nil {
		return nil, err
	}
	if !c.unsaved.now.IsZero() && refresh == c.unsaved.old {
		refresh = c.unsaved.now
	}
	c.shown = []bootstrap.Secret{secret, refresh}
	provider, err := discover(ctx, client, c.config.Issuer)
	if err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	var token *oauth2.Token
	if refresh.IsZero() {
		grant := clientcredentials.Config{
			ClientID: c.config.ClientID, ClientSecret: secret.Reveal(), TokenURL: provider.TokenEndpoint, AuthStyle: provider.style(secret), Scopes: c.config.Scopes,
		}
		if c.config.Audience != "" {
			grant.EndpointParams = url.Values{"audience": {c.config.Audience}}
		}
		token, err = grant.Token(ctx)
	} else {
		grant := oauth2.Config{ClientID: c.config.ClientID, ClientSecret: secret.Reveal(), Endpoint: oauth2.Endpoint{TokenURL: provider.TokenEndpoint, AuthStyle: provider.style(secret)}}
		lasting, over := toTheEnd(ctx)
		defer over()
		token, err = grant.TokenSource(lasting, &oauth2.Token{RefreshToken: refresh.Reveal()}).Token()
	}
	if err != nil {
		return nil, err
	}
	if !refresh.IsZero() {
		c.keep(refresh, bootstrap.NewSecret(token.RefreshToken))
	}
	return c.proofOf(token)
}

// lastWait is how long the answer to a refresh token is waited for after nobody wants it any more.
const lastWait = 4 * time.Second

// toTheEnd returns a context that goes on for a while after ctx: the answer to a refresh token may hold another, and whoever
// does not wait for it has none.
func toTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWait, cancel) })
	return lasting, func() { stop(); cancel() }
}

// Wrote reports whether the file at path holds what this credential has put there itself.
func (c *Credential) Wrote(path string) bool {
	saved := c.saved.Load()
	if saved == nil || path != c.config.RefreshTokenFile {
		return false
	}
	now, err := readOptional(path, "the refresh token")
	return err == nil && now == *saved
}

// keep saves a refresh token that has taken the place of another. Where that fails it is used as long as this process
// lives, and saved with the next token: the one that came with it is as good.
func (c *Credential) keep(old, now bootstrap.Secret) {
	if now.IsZero() || now == old && now != c.unsaved.now {
		return
	}
	c.saved.Store(&now)
	err := c.config.Save(c.config.RefreshTokenFile, []byte(now.Reveal()+"\n"))
	if err == nil {
		c.unsaved = rotated{}
		return
	}
	if old != c.unsaved.now { // it is the one in the file
		c.unsaved.old = old
	}
	c.unsaved.now = now
	c.log.Error("the provider has replaced the refresh token, and the new one could not be saved: it is lost when this process ends", "file", c.config.RefreshTokenFile, "err", err)
}

// proofOf returns what the API server is shown of an answer: the id_token, else, after the client credentials grant, the
// access token, which must be a JWT then or be judged by a webhook.
func (c *Credential) proofOf(token *oauth2.Token) (*bootstrap.Proof, error) {
	text, _ := token.Extra("id_token").(string)
	if text == "" && c.config.RefreshTokenFile != "" {
		return nil, fault.New(fault.Refused, "let the client have the scope openid, for which the refresh token was issued, too", "the provider %s answered without an id_token", c.config.Issuer)
	}
	proof := bootstrap.ProofOfToken(bootstrap.NewSecret(cmp.Or(text, token.AccessToken)))
	if proof.NotAfter.IsZero() {
		proof.NotAfter = token.Expiry
	}
	return proof, nil
}

// readOptional reads a secret that is alone in a file; none where there is no path.
func readOptional(path, what string) (bootstrap.Secret, error) {
	if path == "" {
		return bootstrap.Secret{}, nil
	}
	remedy := "write " + what + " to " + path + ", alone on one line, with mode 0600"
	data, err := bootstrap.ReadSecret(path, maxSecret)
	if err != nil {
		return bootstrap.Secret{}, fault.New(fault.Usage, cmp.Or(fault.Remedy(err), remedy), "cannot read %s: %w", what, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" || strings.ContainsAny(text, "\r\n") {
		return bootstrap.Secret{}, fault.New(fault.Usage, remedy, "%s is not one line with %s on it", path, what)
	}
	return bootstrap.NewSecret(text), nil
}
