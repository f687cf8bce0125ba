package bootstrap

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// ReadBearerFile reads a credential of any kind of bearer token: a static token, a ServiceAccount's, an id_token of
// OpenID Connect, whatever a webhook judges. The file may be a chain of symbolic links, as in a projected volume, and
// is to be read again for each use, since whoever writes it replaces the token before it expires.
//
// One final newline is accepted, as editors and echo leave it. Every other white space or control character is not, nor
// is a file that is empty, too large or open to others than its owner and group. Every mistake is one of the operator's
// input, and no error repeats any of the token.
func ReadBearerFile(path string) (*BearerToken, error) {
	advice := "write a valid token to " + path
	refuse := func(format string, args ...any) (*BearerToken, error) {
		return nil, fault.New(fault.Usage, advice+", alone on one line, with mode 0600", format, args...)
	}
	data, mode, err := readFile(path, maxTokenFile)
	if err != nil {
		return refuse("cannot read the bearer token: %w", err)
	}
	if err := checkSecrecy(path, mode); err != nil {
		return nil, err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if mistake := bearerMistake(text); mistake != "" {
		return refuse("the token in %s %s", path, mistake)
	}
	return &BearerToken{Name: "the bearer token in " + path, Token: NewSecret(text), Advice: advice, expires: expiryOf(text)}, nil
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

// expiryOf returns when a token expires that looks like a JWT (RFC 7519, section 4.1.4); zero if it does not say. The
// token is not verified: that is the API server's affair.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}
