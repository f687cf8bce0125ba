package strategy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// grant is what a refresh token stands for, and a request for tokens with it.
type grant struct {
	client  Client
	subject string
	claims  map[string]any
	scopes  []string
	at      time.Time
}

func (g *grant) GetAMR() []string                 { return []string{"pwd"} }
func (g *grant) GetAudience() []string            { return []string{g.client.ID} }
func (g *grant) GetAuthTime() time.Time           { return g.at }
func (g *grant) GetClientID() string              { return g.client.ID }
func (g *grant) GetScopes() []string              { return g.scopes }
func (g *grant) GetSubject() string               { return g.subject }
func (g *grant) SetCurrentScopes(scopes []string) { g.scopes = scopes }

// own is a client's request for a token of its own.
type own struct {
	client Client
	scopes []string
}

func (o *own) GetSubject() string    { return o.client.ID }
func (o *own) GetAudience() []string { return []string{o.client.Audience} }
func (o *own) GetScopes() []string   { return o.scopes }

// registered is a client as the provider looks at it.
type registered struct{ Client }

func (r registered) GetID() string                        { return r.ID }
func (r registered) RedirectURIs() []string               { return nil }
func (r registered) PostLogoutRedirectURIs() []string     { return nil }
func (r registered) ApplicationType() op.ApplicationType  { return op.ApplicationTypeWeb }
func (r registered) AuthMethod() oidc.AuthMethod          { return oidc.AuthMethodBasic }
func (r registered) ResponseTypes() []oidc.ResponseType   { return nil }
func (r registered) LoginURL(string) string               { return "" }
func (r registered) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeJWT }
func (r registered) IDTokenLifetime() time.Duration       { return lifetime(r.Lifetime) }
func (r registered) DevMode() bool                        { return false }
func (r registered) IsScopeAllowed(string) bool           { return true }
func (r registered) IDTokenUserinfoClaimsAssertion() bool { return true }
func (r registered) ClockSkew() time.Duration             { return 0 }
func (r registered) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeRefreshToken, oidc.GrantTypeClientCredentials}
}

func (r registered) RestrictAdditionalIdTokenScopes() func([]string) []string { //nolint:revive // the library's name
	return func(scopes []string) []string { return scopes }
}

func (r registered) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

// storage is what the library asks; with it, everything is in memory. What is only about logins in a browser is
// refused: nobody logs in here.
type storage struct{ *Provider }

var (
	_ op.Storage                        = storage{}
	_ op.ClientCredentialsStorage       = storage{}
	_ op.CanSetUserinfoFromRequest      = storage{}
	_ op.CanGetPrivateClaimsFromRequest = storage{}

	errNoLogin = errors.New("nobody logs in at this provider")
)

func (s storage) client(id string) (Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, known := s.clients[id]
	if !known {
		return c, errNoClient
	}
	return c, nil
}

func (s storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, oidc.ErrInvalidClient().WithParent(err)
	}
	return registered{c}, nil
}

func (s storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	c, err := s.client(id)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return errors.New("the client's secret is another")
	}
	return nil
}

func (s storage) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	return s.GetClientByClientID(ctx, id)
}

func (s storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	c, err := s.client(id)
	return &own{client: c, scopes: scopes}, err
}

func (s storage) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	var c Client
	switch request := request.(type) {
	case *own:
		c = request.client
	case *grant:
		c = request.client
	}
	return rand.Text(), time.Now().Add(lifetime(c.Lifetime)), nil
}

func (s storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (id, next string, end time.Time, err error) {
	s.mu.Lock()
	before, known := s.grants[current]
	if known {
		delete(s.grants, current)
		next = rand.Text()
		s.grants[next] = before
	}
	s.mu.Unlock()
	if !known {
		return "", "", time.Time{}, errNoGrant
	}
	id, end, err = s.CreateAccessToken(ctx, request)
	return id, next, end, err
}

func (s storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, known := s.grants[token]
	if !known {
		return nil, errNoGrant
	}
	request := *g
	request.client = s.clients[g.client.ID] // as it is registered now
	return &request, nil
}

func (s storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, _ []string) error {
	if g, ok := request.(*grant); ok {
		for name, value := range g.claims {
			info.AppendClaims(name, value)
		}
	}
	return nil
}

func (s storage) GetPrivateClaimsFromRequest(_ context.Context, request op.TokenRequest, _ []string) (map[string]any, error) {
	switch request := request.(type) {
	case *own:
		return request.client.Claims, nil
	case *grant:
		return request.claims, nil
	}
	return nil, nil
}

func (s storage) SigningKey(context.Context) (op.SigningKey, error) { return s.signingKey(), nil }

func (s storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

func (s storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.signingKey()}}, nil
}

func (s storage) Health(context.Context) error { return nil }

func (s storage) GetRefreshTokenInfo(_ context.Context, _, token string) (subject, id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g, known := s.grants[token]; known {
		return g.subject, token, nil
	}
	return "", "", op.ErrInvalidRefreshToken
}

func (s storage) RevokeToken(_ context.Context, token, _, _ string) *oidc.Error {
	s.Revoke(token)
	return nil
}

func (s storage) CreateAuthRequest(context.Context, *oidc.AuthRequest, string) (op.AuthRequest, error) {
	return nil, errNoLogin
}

func (s storage) AuthRequestByID(context.Context, string) (op.AuthRequest, error) {
	return nil, errNoLogin
}

func (s storage) AuthRequestByCode(context.Context, string) (op.AuthRequest, error) {
	return nil, errNoLogin
}
func (s storage) SaveAuthCode(context.Context, string, string) error     { return errNoLogin }
func (s storage) DeleteAuthRequest(context.Context, string) error        { return errNoLogin }
func (s storage) TerminateSession(context.Context, string, string) error { return errNoLogin }
func (s storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil // SetUserinfoFromRequest does
}

func (s storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errNoLogin
}

func (s storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errNoLogin
}

func (s storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil // GetPrivateClaimsFromRequest does
}

func (s storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNoClient // no client has a key
}

func (s storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNoLogin
}
