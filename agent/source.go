package agent

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/bootstrap/execplugin"
	"github.com/nodejoin/nodejoin/bootstrap/oidc"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// source is a credential as it is configured. What it remembers, a token that is still good say, lasts as long as the
// configuration.
type source struct {
	config.Credential
	root       string               // before its paths
	credential bootstrap.Credential // nil for a bootstrap token, which is read when it is needed
	paths      []string             // the files that it is read from, on this machine
}

// readSources makes the sources of what is configured. No file is read.
func (c *Config) readSources() {
	o := c.options
	switch {
	case o.BearerTokenFile != "":
		c.sources = []source{newSource(config.Credential{BearerToken: &config.BearerToken{File: o.BearerTokenFile}}, "")}
	case o.ClientCertificate != "":
		c.sources = []source{newSource(config.Credential{ClientCertificate: &config.ClientCertificate{CertificateFile: o.ClientCertificate, PrivateKeyFile: o.ClientKey}}, "")}
	case o.tokens()+o.Bundle == "":
		for _, credential := range o.Credentials {
			c.sources = append(c.sources, newSource(credential, c.paths.Root))
		}
	}
}

func newSource(credential config.Credential, root string) source {
	s := source{Credential: credential, root: root}
	at := s.at
	switch {
	case s.BearerToken != nil:
		s.credential = &bootstrap.BearerFile{Path: at(s.BearerToken.File)}
	case s.ClientCertificate != nil:
		s.credential = &bootstrap.CertificateFile{CertificatePath: at(s.ClientCertificate.CertificateFile), KeyPath: at(s.ClientCertificate.PrivateKeyFile)}
	case s.Basic != nil:
		s.credential = &bootstrap.BasicAuth{Username: s.Basic.Username, PasswordPath: at(s.Basic.PasswordFile)}
	case s.OIDC != nil:
		s.credential = oidc.New(oidc.Config{
			Issuer: s.OIDC.Issuer, ClientID: s.OIDC.ClientID, ClientSecretFile: at(s.OIDC.ClientSecretFile), RefreshTokenFile: at(s.OIDC.RefreshTokenFile),
			Scopes: s.OIDC.Scopes, Audience: s.OIDC.Audience, CertificateAuthority: at(s.OIDC.CertificateAuthority), Save: rotate.ReplaceSecret,
		})
	case s.Exec != nil:
		plugin := execplugin.Config{Program: s.Exec.Command[0], Args: s.Exec.Command[1:], Timeout: orDefault(time.Duration(s.Exec.Timeout), config.DefaultExecTimeout), Dir: root}
		for _, v := range s.Exec.Env {
			plugin.Env = append(plugin.Env, v.Name+"="+v.Value)
		}
		s.credential = execplugin.New(plugin)
	}
	for _, path := range credential.Files() {
		s.paths = append(s.paths, at(path))
	}
	return s
}

// at returns where a path of the source is on this machine; "" for none.
func (s *source) at(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Join(s.root, path)
}

// accessBy is the way in by a credential that is no bootstrap token.
func (c *Config) accessBy(s *source) *access {
	x := &access{name: s.credential.String(), credential: s.credential, node: s.node(), claims: s.claim() != "", spends: s.OIDC != nil && s.OIDC.RefreshTokenFile != ""}
	if files, ok := s.credential.(interface{ Check() error }); ok { // which takes no more than to read them
		if err := files.Check(); err != nil {
			x.credential, x.credentialErr = nil, err
		}
	}
	if s.BearerToken != nil {
		x.name = "the credential in " + s.BearerToken.File
	}
	if s.Endpoint != nil {
		via, err := s.via()
		if err != nil {
			x.credential, x.credentialErr = nil, err
		}
		x.via = via
	}
	x.discovery, x.discoveryErr = c.chooseDiscovery(x, bootstrap.Token{})
	return x
}

// via returns the server that the credential is for.
func (s *source) via() (*bootstrap.Via, error) {
	server, err := bootstrap.ParseEndpoint(s.Endpoint.Server)
	if err != nil {
		return nil, err
	}
	via := &bootstrap.Via{Server: bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{server}, TLSServerName: s.Endpoint.TLSServerName}}
	if path := s.at(s.Endpoint.CertificateAuthority); path != "" {
		if via.Server.CA, err = bootstrap.ReadBundle(path, time.Now()); err != nil {
			return nil, err
		}
		via.Server.Source = path
	}
	return via, nil
}

// node returns what tells the node that the credential makes of this machine; nil where it says nothing of it.
func (s *source) node() func(context.Context) (string, error) {
	claim := s.claim()
	switch {
	case s.ClientCertificate != nil, s.Exec != nil:
		return nodeOfCertificate(s.credential)
	case claim == "":
		return nil
	}
	return func(ctx context.Context) (string, error) {
		proof, err := s.credential.Proof(ctx)
		if err != nil {
			return "", err
		}
		text, err := bootstrap.Claim(proof.Token, claim)
		if err == nil {
			text, err = csr.ParseNodeName(strings.TrimPrefix(text, csr.NodeUser))
		}
		if err != nil {
			return "", fault.New(fault.Usage, "give the node's name with --node-name, or have the issuer put it into the claim "+claim, "the node's name is not in %s: %w", s.credential, err)
		}
		return text, nil
	}
}

// claim returns the claim that holds the node's name; "" for none.
func (s *source) claim() string {
	switch {
	case s.BearerToken != nil:
		return s.BearerToken.NodeNameClaim
	case s.OIDC != nil:
		return s.OIDC.NodeNameClaim
	}
	return ""
}

// nodeOfCertificate returns what tells the node of a client certificate: its user's name. "" is none.
func nodeOfCertificate(credential bootstrap.Credential) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		proof, err := credential.Proof(ctx)
		if err != nil || proof.Certificate == nil {
			return "", err
		}
		return nodeOf(proof.Certificate.Leaf), nil
	}
}

// nodeOf returns the name of the node in a certificate's subject; "" where there is none that a node could have.
func nodeOf(leaf *x509.Certificate) string {
	name, err := csr.ParseNodeName(bootstrap.NodeOf(leaf))
	if err != nil {
		return ""
	}
	return name
}

// nameByCredential makes this machine the node that a credential is for, where nobody has named it and it has not joined
// yet, and reports whether that is another than it was. A claim that is configured and cannot be read is not passed over:
// the machine would become another node. That of a certificate is nobody's explicit wish.
func (a *Agent) nameByCredential(ctx context.Context) (renamed bool, err error) {
	if last := a.identity.last; a.config.named || last != nil && last.Pair != nil { // the name that was joined with wins
		return false, nil
	}
	for _, x := range a.config.accesses() {
		if x.node == nil {
			continue
		}
		name, err := x.node(ctx)
		if err != nil && x.claims {
			return false, err
		}
		if err == nil && name != "" {
			renamed = name != a.node()
			a.setNode(name)
			return renamed, nil
		}
	}
	return false, nil
}

// strangers returns the paths that were not changed by a credential itself, such as the file of a refresh token that the
// provider has replaced: there is nothing new to try.
func (a *Agent) strangers(changed []string) []string {
	return slices.DeleteFunc(changed, func(path string) bool {
		return slices.ContainsFunc(a.config.sources, func(s source) bool {
			c, ok := s.credential.(interface{ Wrote(path string) bool })
			return ok && c.Wrote(path)
		})
	})
}

// inherit takes over what credentials that are configured as before remember.
func (c *Config) inherit(from *Config) {
	for i := range c.sources {
		for _, before := range from.sources {
			if before.root == c.sources[i].root && reflect.DeepEqual(before.Credential, c.sources[i].Credential) {
				c.sources[i].credential = before.credential
			}
		}
	}
}
