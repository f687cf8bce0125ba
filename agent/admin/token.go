package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cluster-bootstrap/token/api"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// DefaultTokenGroup is the group that kubeadm's tokens are in, and that its bindings name.
const DefaultTokenGroup = "system:bootstrappers:kubeadm:default-node-token"

// What a bootstrap token can be for, in kubeadm's words.
const (
	UsageSigning        = "signing"        // cluster-info is signed with it
	UsageAuthentication = "authentication" // it authenticates to the API server
)

// usageKeys are where a Secret says what its token is for.
var usageKeys = []struct{ usage, key string }{
	{UsageAuthentication, api.BootstrapTokenUsageAuthentication},
	{UsageSigning, api.BootstrapTokenUsageSigningKey},
}

// TokenInfo is a bootstrap token as the cluster has it, without its secret.
type TokenInfo struct {
	ID          string     `json:"id"`
	Expires     *time.Time `json:"expires,omitempty"` // nil for never
	Usages      []string   `json:"usages,omitempty"`
	Groups      []string   `json:"groups,omitempty"` // beside system:bootstrappers, in which all are
	Description string     `json:"description,omitempty"`
	Problem     string     `json:"problem,omitempty"` // why the cluster does not take it; "" where it does
}

// NewToken says what bootstrap token to make.
type NewToken struct {
	Token       bootstrap.Token // zero: a random one
	TTL         time.Duration   // zero: it never expires
	Usages      []string
	Groups      []string
	Description string
}

// groupPattern is compiled at its first use: its counted repetition takes a millisecond, at each start of the program.
var groupPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(api.BootstrapGroupPattern) })

// checkGroup refuses a group that the API server would not let a bootstrap token be in.
func checkGroup(group string) error {
	if groupPattern().MatchString(group) {
		return nil
	}
	if bootstrap.LooksLikeToken(group) {
		group = "given" // not to be repeated
	}
	return fault.New(fault.Usage, "name groups as in "+DefaultTokenGroup, "a bootstrap token cannot be in the group %q: it does not begin with system:bootstrappers: and go on with a-z, 0-9, : and -", group)
}

// Check refuses what the cluster would not take.
func (n *NewToken) Check() error {
	if n.TTL < 0 {
		return fault.New(fault.Usage, "give a time as in 24h, or 0 for a token that never expires", "the time to live %s is negative", n.TTL)
	}
	if n.TTL > 0 && n.TTL < time.Second {
		return fault.New(fault.Usage, "give a time as in 24h, or 0 for a token that never expires", "the time to live %s is less than a second", n.TTL)
	}
	if len(n.Usages) == 0 {
		return fault.New(fault.Usage, "give signing, authentication or both", "the token would be of no use: no usage is given")
	}
	for _, usage := range n.Usages {
		if usage != UsageSigning && usage != UsageAuthentication {
			return fault.New(fault.Usage, "give signing, authentication or both", "the usage %q is not known", usage)
		}
	}
	if len(n.Groups) != 0 && !slices.Contains(n.Usages, UsageAuthentication) {
		return fault.New(fault.Usage, `add authentication to --usages, or give --groups ""`, "a token that does not authenticate cannot be in a group")
	}
	for _, group := range n.Groups {
		if err := checkGroup(group); err != nil {
			return err
		}
	}
	return nil
}

// secretOf returns the Secret that is the bootstrap token of an ID
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#bootstrap-token-secret-format).
func secretOf(id string) *core.Secret {
	return &core.Secret{ObjectMeta: meta.ObjectMeta{Namespace: meta.NamespaceSystem, Name: api.BootstrapTokenSecretPrefix + id}}
}

// secret returns the object to be made.
func (n *NewToken) secret(token bootstrap.Token, now time.Time) *core.Secret {
	secret := secretOf(token.ID)
	secret.Type = api.SecretTypeBootstrapToken
	secret.Data = map[string][]byte{
		api.BootstrapTokenIDKey:     []byte(token.ID),
		api.BootstrapTokenSecretKey: []byte(token.Secret.Reveal()),
	}
	set := func(key, value string) {
		if value != "" {
			secret.Data[key] = []byte(value)
		}
	}
	if n.TTL != 0 {
		set(api.BootstrapTokenExpirationKey, now.Add(n.TTL).UTC().Format(time.RFC3339))
	}
	for _, u := range usageKeys {
		if slices.Contains(n.Usages, u.usage) {
			set(u.key, "true")
		}
	}
	set(api.BootstrapTokenExtraGroupsKey, strings.Join(n.Groups, ","))
	set(api.BootstrapTokenDescriptionKey, n.Description)
	return secret
}

// CreateToken makes a bootstrap token, and returns it and what the cluster has of it.
func (c *Client) CreateToken(ctx context.Context, n NewToken) (bootstrap.Token, *TokenInfo, error) {
	if err := n.Check(); err != nil {
		return bootstrap.Token{}, nil, err
	}
	token := n.Token
	if token.IsZero() {
		token = randomToken()
	}
	now := time.Now()
	secret := n.secret(token, now)
	err := c.Create(ctx, secret)
	if errors.Is(err, ErrExists) {
		return bootstrap.Token{}, nil, fault.New(fault.Usage, "choose another, or remove that one: nodejoin token delete "+token.ID, "there is a token with the ID %s already", token.ID)
	}
	if err != nil {
		return bootstrap.Token{}, nil, err
	}
	return token, tokenOf(secret, now), nil
}

// randomToken returns a token from the operating system's random numbers, which do not fail.
func randomToken() bootstrap.Token {
	const characters = "abcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(characters) // a byte below it gives each character the same chance
	text := make([]byte, 0, api.BootstrapTokenIDBytes+api.BootstrapTokenSecretBytes)
	for len(text) < cap(text) {
		var b [1]byte
		_, _ = rand.Read(b[:]) // it ends the program rather than to fail
		if int(b[0]) < fair {
			text = append(text, characters[int(b[0])%len(characters)])
		}
	}
	return bootstrap.Token{ID: string(text[:api.BootstrapTokenIDBytes]), Secret: bootstrap.NewSecret(string(text[api.BootstrapTokenIDBytes:]))}
}

// tokenOf reads a token's Secret, all but the secret in it.
func tokenOf(secret *core.Secret, now time.Time) *TokenInfo {
	t := &TokenInfo{ID: string(secret.Data[api.BootstrapTokenIDKey]), Description: string(secret.Data[api.BootstrapTokenDescriptionKey])}
	named := strings.TrimPrefix(secret.Name, api.BootstrapTokenSecretPrefix)
	switch {
	case t.ID != named:
		t.Problem = fmt.Sprintf("its Secret is named for %q and holds the ID %q", named, t.ID)
		t.ID = named
	case len(secret.Data[api.BootstrapTokenSecretKey]) == 0:
		t.Problem = "it has no secret"
	}
	if text := string(secret.Data[api.BootstrapTokenExpirationKey]); text != "" {
		expires, err := time.Parse(time.RFC3339, text)
		switch {
		case err != nil:
			t.Problem = cmp.Or(t.Problem, fmt.Sprintf("its expiration %q is no time", text))
		case !now.Before(expires):
			t.Problem = cmp.Or(t.Problem, "it has expired")
			fallthrough
		default:
			t.Expires = &expires
		}
	}
	for _, u := range usageKeys {
		if string(secret.Data[u.key]) == "true" {
			t.Usages = append(t.Usages, u.usage)
		}
	}
	for group := range strings.SplitSeq(string(secret.Data[api.BootstrapTokenExtraGroupsKey]), ",") {
		if group != "" {
			t.Groups = append(t.Groups, group)
		}
	}
	return t
}

// Tokens returns the cluster's bootstrap tokens, by ID.
func (c *Client) Tokens(ctx context.Context) ([]TokenInfo, error) {
	var list core.SecretList
	if err := c.List(ctx, &list, meta.NamespaceSystem, "type="+string(api.SecretTypeBootstrapToken)); err != nil {
		return nil, err
	}
	tokens, now := make([]TokenInfo, len(list.Items)), time.Now()
	for i := range list.Items {
		tokens[i] = *tokenOf(&list.Items[i], now)
	}
	slices.SortFunc(tokens, func(a, b TokenInfo) int { return strings.Compare(a.ID, b.ID) })
	return tokens, nil
}

var idPattern = regexp.MustCompile("^" + api.BootstrapTokenIDPattern + "$")

// ParseTokenID reads the ID of a token, or a whole one. The error does not quote what may be a secret.
func ParseTokenID(text string) (string, error) {
	if idPattern.MatchString(text) {
		return text, nil
	}
	token, err := bootstrap.ParseToken(text)
	if err != nil {
		return "", fault.New(fault.Usage, "give the ID, six characters of a-z and 0-9, as nodejoin token list shows it", "what is to be deleted is neither the ID of a token nor a token")
	}
	return token.ID, nil
}

// DeleteToken deletes the bootstrap token of an ID: whoever holds it can no longer join.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	err := c.Delete(ctx, secretOf(id))
	if errors.Is(err, ErrNotFound) {
		return fault.New(fault.Usage, "nodejoin token list shows what there is", "there is no token with the ID %s", id)
	}
	return err
}
