package bootstrap

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"
)

// Credential is a way to authenticate before the node has its certificate. The kinds that are more than one token are in
// package credential.
type Credential interface {
	// Proof returns what is to be shown now. It is asked for anew at each use, so that what was replaced meanwhile is taken
	// up. An error of a class (package fault) is a mistake of the operator's; any other passes.
	Proof(ctx context.Context) (*Proof, error)
	// String names the credential for a person, without any secret.
	String() string
	// Remedy says how to make another one, when this one is refused.
	Remedy() string
}

// Holder is a Credential that runs or asks for what it shows. What it holds can be looked at without either.
type Holder interface {
	Credential
	// Held returns what was shown last; nil where there is nothing, or where it has expired since, so that it is not shown again.
	Held() *Proof
}

// lastShown returns what a credential shows, without anything being run or asked for it; nil where there is nothing.
func lastShown(ctx context.Context, c Credential) *Proof {
	if holder, ok := c.(Holder); ok {
		return holder.Held()
	}
	proof, err := c.Proof(ctx)
	if err != nil {
		return nil
	}
	return proof
}

// IsValid reports whether a time is in the time for which the proof is valid by what it says of itself.
func (p *Proof) IsValid(now time.Time) bool {
	return (p.NotAfter.IsZero() || !now.After(p.NotAfter)) && !now.Before(p.NotBefore)
}

// Proof is what a credential shows to a server: a bearer token (RFC 6750), a name and a password (RFC 7617), or a client
// certificate; several, if there are.
type Proof struct {
	Token       Secret
	Username    string
	Password    Secret
	Certificate *tls.Certificate

	// What it says of itself, which nobody has verified: it explains a refusal, and nothing depends on it.
	NotBefore, NotAfter time.Time // zero if it does not say
	About               string    // such as whose it is, and for whom: it completes "it is"
}

// worthTelling is by how much two clocks must disagree for a person to hear of it.
const worthTelling = 10 * time.Second

// Explain says why a server may have refused the proof; "" if nothing is known. ahead is by how much this machine's clock
// is ahead of the server's, 0 if that is not known.
func (p *Proof) Explain(now time.Time, ahead time.Duration) string {
	clock := "this machine's clock"
	if ahead.Abs() >= worthTelling {
		clock += fmt.Sprintf(" (which the server's disagrees with by %s)", ahead.Abs())
	}
	switch {
	case !p.NotAfter.IsZero() && now.After(p.NotAfter):
		return fmt.Sprintf("it expired at %s, %s ago by %s", p.NotAfter.UTC().Format(time.RFC3339), now.Sub(p.NotAfter).Round(time.Second), clock)
	case !p.NotBefore.IsZero() && now.Before(p.NotBefore):
		return fmt.Sprintf("it is valid from %s on, in %s by %s", p.NotBefore.UTC().Format(time.RFC3339), p.NotBefore.Sub(now).Round(time.Second), clock)
	case p.About != "":
		return "it is " + p.About
	}
	return ""
}

// WhyRefused says what may be wrong with a credential that a server does not know, as [Proof.Explain]; "" if nothing is known.
func WhyRefused(ctx context.Context, c Credential, now time.Time, ahead time.Duration) string {
	proof := lastShown(ctx, c)
	if proof == nil {
		return ""
	}
	return proof.Explain(now, ahead)
}

// WhyInvalid says why a credential is of no use now by what it says of itself: it has expired, or is not valid yet, which
// early says. "" if it is valid by this machine's clock or by the server's, which judges it, or does not say. Whatever a
// connection ended with that it was shown on, this may be why. Nothing is run or asked for it.
func WhyInvalid(ctx context.Context, c Credential, now time.Time, ahead time.Duration) (why string, early bool) {
	proof := lastShown(ctx, c)
	if proof == nil || proof.IsValid(now) || proof.IsValid(now.Add(-ahead)) {
		return "", false
	}
	return proof.Explain(now, ahead), now.Before(proof.NotBefore)
}

// ProofError is a failure to come by what a request should show: nothing was sent.
type ProofError struct{ Err error }

func (e *ProofError) Error() string { return e.Err.Error() }

func (e *ProofError) Unwrap() error { return e.Err }

// Authenticate returns a RoundTripper that shows the credential with each request. A client certificate is not its affair:
// it is shown when a connection is made, see [Certificate].
func Authenticate(c Credential, next http.RoundTripper) http.RoundTripper {
	return &authenticator{c, next}
}

type authenticator struct {
	credential Credential
	next       http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (a *authenticator) RoundTrip(req *http.Request) (*http.Response, error) {
	proof, err := a.credential.Proof(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as http.RoundTripper wants it, on failure too
		}
		return nil, &ProofError{err}
	}
	req = req.Clone(req.Context())
	switch {
	case !proof.Token.IsZero():
		req.Header.Set("Authorization", "Bearer "+proof.Token.Reveal())
	case proof.Username != "":
		req.SetBasicAuth(proof.Username, proof.Password.Reveal())
	}
	return a.next.RoundTrip(req)
}

// Certificate returns what presents the credential's client certificate on a [Connection]; nil where nothing is.
func Certificate(c Credential) func(context.Context) (*tls.Certificate, error) {
	return func(ctx context.Context) (*tls.Certificate, error) {
		proof, err := c.Proof(ctx)
		if err != nil {
			return nil, &ProofError{err}
		}
		return proof.Certificate, nil
	}
}

// BearerToken is a Credential of one bearer token that does not change.
type BearerToken struct {
	Name   string // for a person, for example "the bootstrap token abcdef"
	Token  Secret
	Advice string // how to make another one
}

// Credential returns the token as one.
func (t Token) Credential() *BearerToken {
	return &BearerToken{Name: "the bootstrap token " + t.ID, Token: t.Bearer(), Advice: makeToken}
}

// Proof implements [Credential].
func (b *BearerToken) Proof(context.Context) (*Proof, error) { return &Proof{Token: b.Token}, nil }

// String implements [Credential].
func (b *BearerToken) String() string { return b.Name }

// Remedy implements [Credential].
func (b *BearerToken) Remedy() string { return b.Advice }
