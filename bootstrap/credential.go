package bootstrap

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/transport"
)

// Credential is a way to authenticate before the node has its certificate.
type Credential interface {
	// Authenticate returns a RoundTripper that adds the credential to each request.
	Authenticate(next http.RoundTripper) http.RoundTripper
	// String names the credential for a person, without any secret.
	String() string
	// Remedy says how to make another one, when this one is refused.
	Remedy() string
}

// BearerToken is a Credential of one bearer token (RFC 6750).
type BearerToken struct {
	Name   string // for a person, for example "the bootstrap token abcdef"
	Token  Secret
	Advice string // how to make another one

	expires time.Time // when it expires by its own unverified word; zero if it does not say
}

// Credential returns the token as one.
func (t Token) Credential() *BearerToken {
	return &BearerToken{Name: "the bootstrap token " + t.ID, Token: t.Bearer(), Advice: makeToken}
}

// Authenticate implements [Credential].
func (b *BearerToken) Authenticate(next http.RoundTripper) http.RoundTripper {
	return transport.NewBearerAuthRoundTripper(b.Token.Reveal(), next)
}

// String implements [Credential].
func (b *BearerToken) String() string { return b.Name }

// Remedy implements [Credential]. Of a token that has expired by its own word it says so: a hint, since this machine's
// clock may be the one that is wrong.
func (b *BearerToken) Remedy() string {
	past := time.Since(b.expires)
	if b.expires.IsZero() || past < 0 {
		return b.Advice
	}
	return fmt.Sprintf("%s: the one at hand expired %s ago by this machine's clock", b.Advice, past.Round(time.Second))
}
