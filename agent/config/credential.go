package config

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
)

// DefaultExecTimeout is how long a credential plugin may run where the file does not say.
const DefaultExecTimeout = 30 * time.Second

// kinds are the keys of a credential, of which it has one.
var kinds = []string{"bootstrapToken", "bearerToken", "clientCertificate", "oidc", "basic", "exec"}

// has returns the keys that have a value.
func (c *Credential) has() []string {
	var has []string
	for i, given := range []bool{c.BootstrapToken != nil, c.BearerToken != nil, c.ClientCertificate != nil, c.OIDC != nil, c.Basic != nil, c.Exec != nil} {
		if given {
			has = append(has, kinds[i])
		}
	}
	return has
}

// fill fills in the defaults, in copies: the file that this one was copied from keeps what it has.
func (c *Credential) fill() {
	if c.BootstrapToken != nil {
		token := *c.BootstrapToken
		fill(&token.File, DefaultTokenFile)
		c.BootstrapToken = &token
	}
	if c.ClientCertificate != nil {
		pair := *c.ClientCertificate
		fill(&pair.PrivateKeyFile, pair.CertificateFile)
		c.ClientCertificate = &pair
	}
	if c.Exec != nil {
		exec := *c.Exec
		fill(&exec.Timeout, Duration(DefaultExecTimeout))
		c.Exec = &exec
	}
}

// files returns the files that the credential is read from, by the paths of their fields below it.
func (c *Credential) files() []pathField {
	filled := *c
	filled.fill()
	var files []pathField
	add := func(path, value string) {
		if value != "" {
			files = append(files, pathField{path, value})
		}
	}
	if t := filled.BootstrapToken; t != nil {
		add("bootstrapToken.file", t.File)
	}
	if t := filled.BearerToken; t != nil {
		add("bearerToken.file", t.File)
	}
	if p := filled.ClientCertificate; p != nil {
		add("clientCertificate.certificateFile", p.CertificateFile)
		if p.PrivateKeyFile != p.CertificateFile {
			add("clientCertificate.privateKeyFile", p.PrivateKeyFile)
		}
	}
	if o := filled.OIDC; o != nil {
		add("oidc.clientSecretFile", o.ClientSecretFile)
		add("oidc.refreshTokenFile", o.RefreshTokenFile)
		add("oidc.certificateAuthority", o.CertificateAuthority)
	}
	if b := filled.Basic; b != nil {
		add("basic.passwordFile", b.PasswordFile)
	}
	if e := filled.Endpoint; e != nil {
		add("endpoint.certificateAuthority", e.CertificateAuthority)
	}
	return files
}

// Files returns the files that the credential is read from.
func (c *Credential) Files() []string {
	var paths []string
	for _, file := range c.files() {
		paths = append(paths, file.value)
	}
	return paths
}

func (c *Credential) check(r *report, path string) {
	switch has := c.has(); {
	case len(has) > 1:
		r.add(path, "has both %s: give each an item of its own", strings.Join(has, " and "))
		return
	case len(has) == 1:
	default:
		c.checkEmpty(r, path)
		return
	}
	switch {
	case c.BootstrapToken != nil:
		r.secretFile(join(path, "bootstrapToken.file"), c.BootstrapToken.File)
	case c.BearerToken != nil:
		r.wantSecretFile(join(path, "bearerToken.file"), c.BearerToken.File, "the token")
	case c.ClientCertificate != nil:
		r.wantSecretFile(join(path, "clientCertificate.certificateFile"), c.ClientCertificate.CertificateFile, "the certificate")
		r.secretFile(join(path, "clientCertificate.privateKeyFile"), c.ClientCertificate.PrivateKeyFile)
	case c.OIDC != nil:
		c.OIDC.check(r, join(path, "oidc"))
	case c.Basic != nil:
		c.checkBasic(r, path)
	case c.Exec != nil:
		c.Exec.check(r, join(path, "exec"))
	}
	if c.Endpoint != nil {
		c.Endpoint.check(r, join(path, "endpoint"))
		if c.BootstrapToken != nil {
			r.add(join(path, "endpoint"), "a bootstrap token is shown to the cluster's own API servers: put it under bearerToken to show it elsewhere")
		}
	}
}

// checkEmpty reports a credential without any kind, or whose kind has no value.
func (c *Credential) checkEmpty(r *report, path string) {
	for _, kind := range kinds {
		switch {
		case r.isBad(join(path, kind)):
			return
		case r.given(join(path, kind)):
			r.add(path, "is empty: give %s what belongs to it, as in bootstrapToken: {file: %s}", kind, DefaultTokenFile)
			return
		}
	}
	r.add(path, "has none of %s", strings.Join(kinds, ", "))
}

// wantSecretFile checks the path of a file with a secret that must be given.
func (r *report) wantSecretFile(path, value, what string) {
	if value == "" {
		r.add(path, "is missing: give the path of the file that holds %s", what)
		return
	}
	r.secretFile(path, value)
}

func (e *Endpoint) check(r *report, path string) {
	if e.Server == "" {
		r.add(join(path, "server"), "is missing: give HOST:PORT")
	} else {
		_, err := bootstrap.ParseEndpoint(e.Server)
		r.check(join(path, "server"), err)
	}
	r.path(join(path, "certificateAuthority"), e.CertificateAuthority)
	r.check(join(path, "tlsServerName"), bootstrap.CheckServerName(e.TLSServerName))
}

func (o *OIDC) check(r *report, path string) {
	r.check(join(path, "issuer"), checkIssuer(o.Issuer))
	if o.ClientID == "" {
		r.add(join(path, "clientID"), "is missing: give the client that this machine is to the provider")
	}
	if o.ClientSecretFile == "" && o.RefreshTokenFile == "" {
		r.add(path, "has neither refreshTokenFile nor clientSecretFile: there is nothing to get a token with")
	}
	if o.RefreshTokenFile != "" && len(o.Scopes) != 0 {
		r.add(join(path, "scopes"), "are those that the refresh token was issued for: leave them out")
	}
	if o.RefreshTokenFile != "" && o.Audience != "" {
		r.add(join(path, "audience"), "is of the client credentials grant, and a refresh token has one already: leave it out")
	}
	r.secretFile(join(path, "clientSecretFile"), o.ClientSecretFile)
	r.secretFile(join(path, "refreshTokenFile"), o.RefreshTokenFile)
	r.path(join(path, "certificateAuthority"), o.CertificateAuthority)
	r.list(join(path, "scopes"), o.Scopes, func(scope string) error {
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' }) { // RFC 6749, section 3.3
			return fmt.Errorf("%s is not a scope: it is without white space", quote(scope))
		}
		return nil
	})
}

// checkIssuer refuses what cannot be an issuer (OpenID Connect Core 1.0, section 2). The text is not repeated where it may
// have a password in it.
func checkIssuer(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return fmt.Errorf("is missing: give the provider's https URL")
	case err != nil || u.User != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("is not an https URL without user, query and fragment")
	}
	return nil
}

func (c *Credential) checkBasic(r *report, path string) {
	at := join(path, "basic")
	switch {
	case c.Basic.Username == "":
		r.add(join(at, "username"), "is missing")
	case strings.Contains(c.Basic.Username, ":"): // RFC 7617, section 2
		r.add(join(at, "username"), "has a colon in it, which ends a name")
	}
	r.wantSecretFile(join(at, "passwordFile"), c.Basic.PasswordFile, "the password")
	if c.Endpoint == nil && !r.isBad(join(path, "endpoint")) {
		r.add(path, "needs endpoint: a password is for a proxy, and no API server knows it")
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (e *Exec) check(r *report, path string) {
	if len(e.Command) == 0 {
		r.add(join(path, "command"), "is missing: give the program and its arguments")
	} else {
		r.check(item(join(path, "command"), 0), checkPath(e.Command[0]))
	}
	names := map[string]bool{}
	for i, v := range e.Env {
		at := join(item(join(path, "env"), i), "name")
		switch {
		case !variableName.MatchString(v.Name):
			r.add(at, "%s is not the name of a variable", quote(v.Name))
		case names[v.Name]:
			r.add(at, "%s is there twice", quote(v.Name))
		}
		names[v.Name] = true
	}
	if r.given(join(path, "timeout")) {
		r.atLeast(join(path, "timeout"), e.Timeout, time.Second)
		if time.Duration(e.Timeout) > mostTimeout {
			r.add(join(path, "timeout"), "%s is longer than %s", e.Timeout, Duration(mostTimeout))
		}
	}
}
