package oidc

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

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
// x/oauth2 would, may cost a refresh token. A public client has none to send, and says its name in the body (RFC 6749,
// section 3.2.1).
func (p *provider) style(secret bootstrap.Secret) oauth2.AuthStyle {
	if secret.IsZero() || slices.Contains(p.AuthMethods, "client_secret_post") && !slices.Contains(p.AuthMethods, "client_secret_basic") {
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
	case mayPass(resp):
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
