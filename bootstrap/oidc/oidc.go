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
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
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
	// Log is told where a new refresh token could not be saved; nil for nobody.
	Log *slog.Logger
}

// Credential is a [bootstrap.Credential] that asks the provider. It is safe for concurrent use.
type Credential struct {
	config Config

	mu      sync.Mutex // guards what follows, and is held while the provider is asked
	proof   *bootstrap.Proof
	unsaved rotated
}

// rotated is a refresh token that could not be saved, and the one in whose place it is.
type rotated struct{ old, now bootstrap.Secret }

// New returns the credential. Nothing is read yet.
func New(config Config) *Credential { return &Credential{config: config} }

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
	if c.proof != nil && time.Now().Add(leeway).Before(c.proof.NotAfter) {
		return c.proof, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("no answer within %s", requestTimeout))
	defer cancel()
	proof, err := c.get(ctx)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	c.proof = proof
	return proof, nil
}

// get gets a token.
func (c *Credential) get(ctx context.Context) (*bootstrap.Proof, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
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
	provider, err := discover(ctx, client, c.config.Issuer)
	if err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	asked := time.Now()
	var token *oauth2.Token
	if refresh.IsZero() {
		grant := clientcredentials.Config{
			ClientID: c.config.ClientID, ClientSecret: secret.Reveal(), TokenURL: provider.TokenEndpoint, AuthStyle: provider.style(), Scopes: c.config.Scopes,
		}
		if c.config.Audience != "" {
			grant.EndpointParams = url.Values{"audience": {c.config.Audience}}
		}
		token, err = grant.Token(ctx)
	} else {
		grant := oauth2.Config{ClientID: c.config.ClientID, ClientSecret: secret.Reveal(), Endpoint: oauth2.Endpoint{TokenURL: provider.TokenEndpoint, AuthStyle: provider.style()}}
		token, err = grant.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh.Reveal()}).Token()
	}
	if err != nil {
		return nil, err
	}
	if !refresh.IsZero() {
		c.keep(refresh, bootstrap.NewSecret(token.RefreshToken))
	}
	return c.proofOf(token, asked)
}

// keep saves a refresh token that has taken the place of another. Where that fails it is used as long as this process
// lives: the token that came with it is as good.
func (c *Credential) keep(old, now bootstrap.Secret) {
	if now.IsZero() || now == old {
		return
	}
	err := c.config.Save(c.config.RefreshTokenFile, []byte(now.Reveal()+"\n"))
	if err == nil {
		c.unsaved = rotated{}
		return
	}
	if c.unsaved.old.IsZero() {
		c.unsaved.old = old
	}
	c.unsaved.now = now
	if c.config.Log != nil {
		c.config.Log.Error("the provider has replaced the refresh token, and the new one could not be saved: it is lost when this process ends", "file", c.config.RefreshTokenFile, "err", err)
	}
}

// proofOf returns what the API server is shown of an answer: the id_token, else, after the client credentials grant, the
// access token, which must be a JWT then or be judged by a webhook.
func (c *Credential) proofOf(token *oauth2.Token, asked time.Time) (*bootstrap.Proof, error) {
	text, _ := token.Extra("id_token").(string)
	if text == "" && c.config.RefreshTokenFile != "" {
		return nil, fault.New(fault.Refused, "let the client have the scope openid, for which the refresh token was issued, too", "the provider %s answered without an id_token", c.config.Issuer)
	}
	proof := bootstrap.ProofOfToken(bootstrap.NewSecret(cmp.Or(text, token.AccessToken)))
	if proof.NotAfter.IsZero() {
		proof.NotAfter = token.Expiry
	}
	if proof.NotAfter.IsZero() {
		proof.NotAfter = asked // it does not say how long it may be used: once
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

// client returns what asks the provider. Redirects are not followed: a secret would go to wherever they lead.
func (c *Credential) client() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.config.CertificateAuthority != "" {
		ca, err := bootstrap.ReadBundle(c.config.CertificateAuthority, time.Now())
		if err != nil {
			return nil, err
		}
		config.RootCAs = ca.Pool()
	}
	return &http.Client{
		Transport:     bootstrap.NewTransport(config, nil),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// provider is what matters of a provider's own description (OpenID Connect Discovery 1.0, section 3).
type provider struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
}

// style returns how the client's secret is sent: in the header, unless the provider knows the body alone. To try both, as
// x/oauth2 would, may cost a refresh token.
func (p *provider) style() oauth2.AuthStyle {
	if slices.Contains(p.AuthMethods, "client_secret_post") && !slices.Contains(p.AuthMethods, "client_secret_basic") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

func discover(ctx context.Context, client *http.Client, issuer string) (*provider, error) {
	const remedy = "compare oidc.issuer with what the provider calls itself, to the last slash"
	place := strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer broke off: %w", err)
	case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("it answered %s to %s", resp.Status, place)
	case resp.StatusCode != http.StatusOK:
		return nil, fault.New(fault.Usage, remedy, "there is no provider at %s: it answered %s", place, resp.Status)
	}
	var p provider
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, fault.New(fault.Usage, remedy, "there is no provider at %s: its answer is no JSON", place)
	}
	endpoint, err := url.Parse(p.TokenEndpoint)
	switch {
	case p.Issuer != issuer:
		return nil, fault.New(fault.Usage, remedy, "the provider at %s calls itself %.200q", issuer, p.Issuer)
	case err != nil || endpoint.Scheme != "https" || endpoint.Host == "":
		return nil, fault.New(fault.Usage, "the provider must offer a token endpoint over https", "the provider %s has the token endpoint %.200q", issuer, p.TokenEndpoint)
	}
	return &p, nil
}

// explain gives an error of the provider's its class, and leaves out whatever may have a secret in it.
func (c *Credential) explain(ctx context.Context, err error) error {
	if fault.IsFinal(err) {
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fault.New(fault.Usage, "give the CA that issued its certificate under oidc.certificateAuthority", "the OpenID Connect provider %s is not to be trusted: %w", c.config.Issuer, bare(err))
	}
	refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot get a token from %s: %w", c.config.Issuer, context.Cause(ctx))
	case !ok:
		return fmt.Errorf("cannot get a token from %s: %w", c.config.Issuer, bare(err))
	case refusal.ErrorCode == "":
		return c.explainStatus(refusal.Response)
	}
	said := fmt.Sprintf("%.100q", refusal.ErrorCode)
	if refusal.ErrorDescription != "" {
		said += fmt.Sprintf(" (%.200q)", refusal.ErrorDescription)
	}
	remedy := "change oidc in the configuration as the provider's words say"
	switch refusal.ErrorCode { // RFC 6749, section 5.2
	case "invalid_grant":
		remedy = "have a new refresh token issued and write it to " + c.config.RefreshTokenFile
	case "invalid_client", "unauthorized_client":
		remedy = fmt.Sprintf("look whether the provider knows the client %s, with this secret and this grant", c.config.ClientID)
	}
	return fault.New(fault.Refused, remedy, "the OpenID Connect provider %s refuses to issue a token: %s", c.config.Issuer, said)
}

// explainStatus tells of an answer that is not OAuth's.
func (c *Credential) explainStatus(resp *http.Response) error {
	status := "something that is no token"
	if resp != nil {
		status = resp.Status
	}
	if resp != nil && resp.StatusCode >= http.StatusBadRequest && resp.StatusCode < http.StatusInternalServerError && resp.StatusCode != http.StatusTooManyRequests {
		return fault.New(fault.Refused, fmt.Sprintf("look whether the provider knows the client %s, with this secret and this grant", c.config.ClientID),
			"the OpenID Connect provider %s refuses to issue a token: it answered %s", c.config.Issuer, status)
	}
	return fmt.Errorf("cannot get a token from %s: it answered %s", c.config.Issuer, status)
}

// bare returns an error without the URL of the request.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
