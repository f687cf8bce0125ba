package bootstrap

import (
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"unicode"

	"k8s.io/cluster-bootstrap/token/api"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const makeToken = "make a new token on a control-plane node: kubeadm token create --print-join-command"

// makeAnyToken is the remedy where it is not sure that the token is of no use.
const makeAnyToken = "where there is an administrator's kubeconfig, make a token (nodejoin token create) or a bundle (nodejoin bundle), and give it to this machine; " +
	"if the cluster has a live token (nodejoin token list), look at the bootstrap-signer-controller of its kube-controller-manager"

var tokenPattern = regexp.MustCompile(api.BootstrapTokenPattern)

// Token is a bootstrap token (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/): an ID that
// is public and names the token, and a secret.
type Token struct {
	ID     string // six characters of [a-z0-9]
	Secret Secret // sixteen characters of [a-z0-9]
}

// ParseToken reads "id.secret". One final newline is accepted, as editors and echo leave it; other white space and
// upper case are not. The error says what is wrong with the text and never quotes it.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if m := tokenPattern.FindStringSubmatch(text); m != nil {
		return Token{ID: m[1], Secret: NewSecret(m[2])}, nil
	}
	return Token{}, fault.New(fault.Usage, makeToken, "the bootstrap token %s", tokenMistake(text))
}

// tokenMistake says why text is not a token, without repeating any of it.
func tokenMistake(text string) string {
	id, secret, dotted := strings.Cut(text, ".")
	switch {
	case text == "":
		return "is empty"
	case strings.ContainsAny(text, " \t\r\n"):
		return "has white space in it"
	case strings.ContainsFunc(text, unicode.IsUpper):
		return "has upper-case letters: only a-z and 0-9 are allowed"
	case !dotted:
		return "has no dot between its ID and its secret"
	case len(id) != api.BootstrapTokenIDBytes || len(secret) != api.BootstrapTokenSecretBytes:
		return fmt.Sprintf("is not of the form ID.SECRET with %d and %d characters (found %d and %d)",
			api.BootstrapTokenIDBytes, api.BootstrapTokenSecretBytes, len(id), len(secret))
	default:
		return "has characters other than a-z and 0-9"
	}
}

// LooksLikeToken reports whether text is a bootstrap token but for white space around it and its case: where something
// else belongs, it must not be repeated.
func LooksLikeToken(text string) bool {
	return tokenPattern.MatchString(strings.ToLower(strings.TrimSpace(text)))
}

// String returns the token's ID and not its secret.
func (t Token) String() string { return t.ID + "." + redacted }

// Bearer returns the text that authenticates, "id.secret".
func (t Token) Bearer() Secret { return NewSecret(t.ID + "." + t.Secret.Reveal()) }

// Equal reports whether both are the same token: whoever re-reads one can tell whether it was replaced. It is what ==
// says of the two.
func (t Token) Equal(o Token) bool { return t == o }

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.ID == "" }

// maxTokenFile is far above any bearer token's size, the longest of which (JWTs) are a few kilobytes.
const maxTokenFile = 64 << 10

// ReadTokenFile reads a bootstrap token from a file, or from in where path is "-". A file that others than its owner
// and group can read is refused: the token in it is no secret any more. So is a pipe: "-" is for that.
func ReadTokenFile(path string, in io.Reader) (Token, error) {
	const remedy = "write the token to that file with mode 0600, or pipe it to --token-file -"
	name := path
	var data []byte
	var err error
	if path == "-" {
		name = "standard input"
		if data, err = io.ReadAll(io.LimitReader(in, maxTokenFile+1)); err == nil && len(data) > maxTokenFile {
			err = fmt.Errorf("it is larger than %d bytes", maxTokenFile)
		}
	} else {
		var mode fs.FileMode
		if data, mode, err = readFile(path, maxTokenFile); err == nil {
			if err := checkSecrecy(path, mode); err != nil {
				return Token{}, err
			}
		}
	}
	if err != nil {
		return Token{}, fault.New(fault.Usage, remedy, "cannot read the token from %s: %w", name, err)
	}
	token, err := ParseToken(string(data))
	if err != nil {
		return Token{}, fault.New(fault.Usage, fault.Remedy(err), "%s: %w", name, err)
	}
	return token, nil
}
