package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/nodejoin/nodejoin/agent/fault"
)

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
	case refusal.ErrorCode == "" || mayPass(refusal.Response):
		return c.explainStatus(refusal.Response)
	}
	said := fmt.Sprintf("%.100q", c.censor(refusal.ErrorCode))
	if refusal.ErrorDescription != "" {
		said += fmt.Sprintf(" (%.200q)", c.censor(refusal.ErrorDescription))
	}
	remedy := "change oidc in the configuration as the provider's words say"
	switch code := refusal.ErrorCode; { // RFC 6749, section 5.2
	case code == "invalid_grant" && c.config.RefreshTokenFile != "":
		remedy = "have a new refresh token issued and write it to " + c.config.RefreshTokenFile
	case code == "invalid_client" || code == "unauthorized_client" || code == "invalid_grant":
		remedy = fmt.Sprintf("look whether the provider knows the client %s, with this secret and this grant", c.config.ClientID)
	}
	return fault.New(fault.Refused, remedy, "the OpenID Connect provider %s refuses to issue a token: %s", c.config.Issuer, said)
}

// censor returns the provider's words without what was shown to it.
func (c *Credential) censor(text string) string {
	for _, secret := range c.shown {
		if !secret.IsZero() {
			text = strings.ReplaceAll(text, secret.Reveal(), "[redacted]")
		}
	}
	return text
}

// mayPass reports whether a server that gives this answer may give another one later, whatever words go with it.
func mayPass(resp *http.Response) bool {
	return resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests
}

// explainStatus tells of an answer that is not OAuth's.
func (c *Credential) explainStatus(resp *http.Response) error {
	status := resp.Status
	if resp.StatusCode >= http.StatusBadRequest && !mayPass(resp) {
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
