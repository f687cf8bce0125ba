package bootstrap

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// BearerFile is a Credential of any kind of bearer token in a file: a static token, a ServiceAccount's, an id_token of
// OpenID Connect, whatever a webhook judges. The file may be a chain of symbolic links, as in a projected volume, and is
// read at each use, since whoever writes it replaces the token before it expires.
type BearerFile struct{ Path string }

// Proof implements [Credential]. One final newline in the file is accepted, as editors and echo leave it. Every other white
// space or control character is not, nor is a file that is empty, too large or open to others than its owner and group.
// Every mistake is one of the operator's input, and no error repeats any of the token.
func (b *BearerFile) Proof(context.Context) (*Proof, error) { return b.read() }

// Check returns the mistake that Proof would.
func (b *BearerFile) Check() error {
	_, err := b.read()
	return err
}

func (b *BearerFile) read() (*Proof, error) {
	refuse := func(format string, args ...any) (*Proof, error) {
		return nil, fault.New(fault.Usage, b.Remedy()+", alone on one line, with mode 0600", format, args...)
	}
	data, mode, err := readFile(b.Path, maxTokenFile)
	if err != nil {
		return refuse("cannot read the bearer token: %w", err)
	}
	if err := checkSecrecy(b.Path, mode); err != nil {
		return nil, err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if mistake := bearerMistake(text); mistake != "" {
		return refuse("the token in %s %s", b.Path, mistake)
	}
	return ProofOfToken(NewSecret(text)), nil
}

// String implements [Credential].
func (b *BearerFile) String() string { return "the bearer token in " + b.Path }

// Remedy implements [Credential].
func (b *BearerFile) Remedy() string { return "write a valid token to " + b.Path }

// CheckBearer refuses what cannot stand in the header of a request as a bearer token. The error completes "the token", and
// repeats none of it.
func CheckBearer(text string) error {
	if mistake := bearerMistake(text); mistake != "" {
		return errors.New(mistake)
	}
	return nil
}

// bearerMistake says why text cannot stand in the header of a request, without repeating any of it; "" if it can.
func bearerMistake(text string) string {
	switch {
	case text == "":
		return "is empty"
	case strings.ContainsAny(text, " \t\r\n"):
		return "is not a bearer token: it has white space in it"
	case strings.ContainsFunc(text, func(r rune) bool { return r < 0x21 || r > 0x7e }):
		return "is not a bearer token: it has characters in it that none has"
	}
	return ""
}

// ProofOfToken returns what shows a bearer token, with what it says of itself if it is a JWT (RFC 7519, section 4.1). The
// token is not verified: that is the API server's affair.
func ProofOfToken(token Secret) *Proof {
	p := &Proof{Token: token}
	claims := claimsOf(token)
	if claims == nil {
		return p
	}
	p.NotBefore, p.NotAfter = timeOf(claims["nbf"]), timeOf(claims["exp"])
	if issuer, ok := claims["iss"].(string); ok {
		p.About = fmt.Sprintf("of the issuer %.200q", issuer)
		if audience := stringsOf(claims["aud"]); len(audience) != 0 {
			p.About += fmt.Sprintf(" for the audience %.200q", strings.Join(audience, ", "))
		}
		p.About += "; the API server may know another issuer, other keys or another audience, or want other claims"
	}
	return p
}

// Claim returns a claim of a token that is a JWT, by its own unverified word. It is an error, which does not repeat the
// token, if there is no such text in it.
func Claim(token Secret, name string) (string, error) {
	claims := claimsOf(token)
	if claims == nil {
		return "", fmt.Errorf("the token is no JWT, which could have the claim %q", name)
	}
	text, ok := claims[name].(string)
	if !ok || text == "" {
		return "", fmt.Errorf("the token has no text under the claim %q", name)
	}
	return text, nil
}

// claimsOf returns the claims of a token that looks like a JWT; nil of any other.
func claimsOf(token Secret) map[string]any {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	return claims
}

// timeOf returns a NumericDate (RFC 7519, section 2); zero where it is none that a token could mean.
func timeOf(claim any) time.Time {
	seconds, ok := claim.(float64)
	if !ok || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// stringsOf returns a claim that is one text or a list of them.
func stringsOf(claim any) []string {
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	var texts []string
	for _, item := range list {
		if text, ok := item.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}
