package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// access is how one credential gets to the cluster: whom to trust and what to show. Both are read anew at each attempt.
// A machine that has joined needs neither, so that one is missing is no mistake until it is needed: the error waits for
// that.
type access struct {
	discovery     bootstrap.Discovery
	discoveryErr  error
	credential    bootstrap.Credential
	credentialErr error
	usual         bool                                      // the credential is one that lies in a usual place
	usedUp        string                                    // file to remove once the identity works; "" for none
	name          string                                    // of what is missing, where the credential is
	via           *bootstrap.Via                            // what the credential is for; nil for the cluster
	node          func(ctx context.Context) (string, error) // the node that the credential makes of this machine; nil where it says nothing of it
	claims        bool                                      // node is told by a claim that the operator has named
	spends        bool                                      // its use costs what it is made of: a refresh token
}

// errNoCredential says that none was given, and not that one was given that is wrong.
var errNoCredential = errors.New("there is no credential to ask for a certificate with")

// missing returns what a machine that needs a certificate was not given: first what was given and is wrong.
func (x *access) missing() error {
	credentialErr := x.credentialErr
	if x.credential != nil {
		credentialErr = nil
	}
	if credentialErr != nil && !errors.Is(credentialErr, errNoCredential) || x.discoveryErr == nil {
		return credentialErr
	}
	return x.discoveryErr
}

// tokens are bootstrap tokens that were given once and for all: on the command line or on standard input.
type tokens struct {
	both      bootstrap.Token // or the zero value
	bothErr   error           // of standard input, until it is needed
	discovery bootstrap.Token
	bootstrap bootstrap.Token
}

func (c *Config) readGiven() (err error) {
	o := c.options
	for _, token := range []struct {
		text string
		into *bootstrap.Token
	}{{o.Token, &c.given.both}, {o.DiscoveryToken, &c.given.discovery}, {o.TLSBootstrapToken, &c.given.bootstrap}} {
		if token.text == "" {
			continue
		}
		if *token.into, err = bootstrap.ParseToken(token.text); err != nil {
			return err
		}
	}
	if o.TokenFile == "-" {
		c.given.both, c.given.bothErr = bootstrap.ReadTokenFile(o.TokenFile, o.Stdin)
	}
	return nil
}

// accesses returns the ways in that are configured, in their order: at least one, which may lack everything.
func (c *Config) accesses() []*access {
	if len(c.sources) == 0 {
		return c.accessesByOptions()
	}
	var accesses []*access
	for _, source := range c.sources {
		if source.BootstrapToken == nil {
			accesses = append(accesses, c.accessBy(&source))
			continue
		}
		for i, path := range c.tokenPaths(source.BootstrapToken) {
			if i == 0 || exists(path) {
				accesses = append(accesses, c.accessByToken(source.BootstrapToken, path))
			}
		}
	}
	return accesses
}

// accessesByOptions returns one way in if a flag says what to show, else one for each of the usual places with a token.
func (c *Config) accessesByOptions() []*access {
	var accesses []*access
	for i, path := range c.usualTokenPaths() {
		if i != 0 && !exists(path) {
			break
		}
		x := c.accessByOptions(path)
		if accesses = append(accesses, x); !x.usual {
			break
		}
	}
	return accesses
}

// accessByOptions is the way in by the flags, or by what lies in a usual place.
func (c *Config) accessByOptions(usual string) *access {
	o := c.options
	x := &access{name: "a credential"}
	discovery := c.given.both
	switch {
	case o.Token != "":
	case o.TokenFile == "-":
		x.credentialErr = c.given.bothErr
	case o.TokenFile != "":
		discovery = x.readToken(o.TokenFile, o.TokenSingleUse)
	case o.DiscoveryToken != "" && o.TLSBootstrapToken != "":
	case o.Bundle != "":
		x.useBundle(o.Bundle)
	case o.DiscoveryFile != "" && !bootstrap.IsURL(o.DiscoveryFile) && o.TLSBootstrapToken == "" && x.useUserOfFile(o.DiscoveryFile):
	default:
		x.usual = true
		discovery = x.readUsualToken(usual, o.TokenSingleUse)
	}
	authentication := discovery
	if o.DiscoveryToken != "" {
		discovery = c.given.discovery
	}
	if o.TLSBootstrapToken != "" {
		authentication = c.given.bootstrap
	}
	if !authentication.IsZero() {
		x.credential = authentication.Credential()
	}
	x.discovery, x.discoveryErr = c.chooseDiscovery(x, discovery)
	return x
}

// accessByToken is the way in by a bootstrap token of the configuration file, which is read from path.
func (c *Config) accessByToken(file *config.BootstrapToken, path string) *access {
	x := &access{name: "the credential in " + orDefault(file.File, DefaultTokenFile), usual: isUsual(file)}
	token := x.readToken(path, file.SingleUse)
	if !token.IsZero() {
		x.credential = token.Credential()
	}
	x.discovery, x.discoveryErr = c.chooseDiscovery(x, token)
	return x
}

// tokenPaths returns where the token's file may be on this machine.
func (c *Config) tokenPaths(file *config.BootstrapToken) []string {
	if isUsual(file) {
		return c.usualTokenPaths()
	}
	return []string{filepath.Join(c.paths.Root, file.File)}
}

// isUsual reports whether the token is one that lies in a usual place.
func isUsual(file *config.BootstrapToken) bool {
	return file.File == "" || file.File == DefaultTokenFile
}

func (x *access) useUp(path string, singleUse bool) {
	if singleUse {
		x.usedUp = path
	}
}

// readToken reads the token's file, and leaves in x why it cannot.
func (x *access) readToken(path string, singleUse bool) bootstrap.Token {
	token, err := bootstrap.ReadTokenFile(path, nil)
	if x.credentialErr = err; err == nil {
		x.useUp(path, singleUse)
	}
	return token
}

// usualTokenPaths returns where the token's file is looked for when none was named: what systemd was told to hand over
// (LoadCredential= of systemd.exec(5)), which stays as it is until the service starts anew, and then the file that
// somebody may replace meanwhile.
func (c *Config) usualTokenPaths() []string {
	file := filepath.Join(c.paths.Root, DefaultTokenFile)
	if dir := orDefault(os.Getenv("CREDENTIALS_DIRECTORY"), c.serviceCredentials); dir != "" {
		if handed := filepath.Join(dir, "token"); exists(handed) {
			return []string{handed, file}
		}
	}
	return []string{file}
}

// seenFromOutside returns the configuration as the service has it, for a program that systemd has not started: with the token in
// dir, which is the service's while that runs. Of another machine's tree nothing runs here.
func (c *Config) seenFromOutside(dir string) *Config {
	if c.paths.Root != config.DefaultRoot {
		return c
	}
	seen := *c
	seen.serviceCredentials = dir
	return &seen
}

// lacksUsual reports whether there is no credential since no token lies in a usual place, where systemd may put one for the service.
func (x *access) lacksUsual() bool {
	if x.credential != nil {
		return false
	}
	return errors.Is(x.credentialErr, errNoCredential) || x.usual && errors.Is(x.credentialErr, fs.ErrNotExist)
}

// wasHanded reports whether a file is one that systemd has handed over.
func wasHanded(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == filepath.Clean(dir)
}

// readUsualToken reads the token's file where it is looked for.
func (x *access) readUsualToken(path string, singleUse bool) bootstrap.Token {
	token := x.readToken(path, singleUse)
	if errors.Is(x.credentialErr, fs.ErrNotExist) {
		x.credentialErr = fault.New(fault.Usage, "give one with --token or --token-file, or put it into "+DefaultTokenFile+" (mode 0600); make one with: kubeadm token create",
			"%w", errNoCredential)
	}
	return token
}

// useUserOfFile makes what the user of the discovery file has the credential, and reports whether it has anything.
func (x *access) useUserOfFile(path string) bool {
	file, err := bootstrap.ReadDiscoveryFile(path, time.Now())
	if err != nil {
		return false // chooseDiscovery says so
	}
	credential, err := file.Credential()
	x.credentialErr = err
	if credential != nil {
		x.credential, x.node = credential, nodeOfCertificate(credential)
	}
	return err != nil || credential != nil
}

// useBundle is useUserOfFile for a file that must have a client certificate for one node.
func (x *access) useBundle(path string) {
	x.useUserOfFile(path)
	file, err := bootstrap.ReadDiscoveryFile(path, time.Now())
	if err != nil || x.credentialErr != nil {
		return
	}
	if leaf := file.Leaf(); leaf == nil || nodeOf(leaf) == "" {
		x.credential = nil
		x.credentialErr = fault.New(fault.Usage, "have one made: nodejoin bundle NODE; any other kubeconfig is for --discovery-file", "%s is no bundle: there is no client certificate for one node in it", path)
	}
}

// hasSingleUse reports whether the file of a credential is to be removed after its use.
func (c *Config) hasSingleUse() bool {
	return c.options.TokenSingleUse || slices.ContainsFunc(c.sources, func(s source) bool { return s.BootstrapToken != nil && s.BootstrapToken.SingleUse })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// chooseDiscovery decides how the cluster is found and trusted: by a discovery file, by a CA that was given, by token,
// or by a CA that is in place.
func (c *Config) chooseDiscovery(x *access, token bootstrap.Token) (bootstrap.Discovery, error) {
	o := c.options
	inPlace := filepath.Join(c.paths.Root, c.paths.CAFile)
	switch {
	case bootstrap.IsURL(o.DiscoveryFile):
		return bootstrap.ParseDiscoveryURL(o.DiscoveryFile, c.site)
	case o.DiscoveryFile+o.Bundle != "":
		file, err := bootstrap.ReadDiscoveryFile(orDefault(o.Bundle, o.DiscoveryFile), time.Now())
		if err != nil {
			return nil, err
		}
		file.Cluster.Override(c.site)
		return &bootstrap.Known{Cluster: file.Cluster}, nil
	case len(c.site.Endpoints) == 0:
		return nil, fault.New(fault.Usage, "name it: nodejoin join HOST:PORT (kubeadm token create --print-join-command prints the whole line), or under cluster.servers in "+DefaultConfigFile, "there is no API server to join")
	case o.CertificateAuthority != "":
		return knownBy(c.site, o.CertificateAuthority, o.CertificateAuthority)
	case len(c.pins) == 0 && !o.SkipCAVerification && exists(inPlace):
		return knownBy(c.site, inPlace, inPlace+", which was in place")
	}
	d := &bootstrap.ByToken{Site: c.site, Token: token, Pins: c.pins, SkipPins: o.SkipCAVerification}
	if err := d.Check(); err != nil {
		return nil, err
	}
	if token.IsZero() {
		if x.credentialErr == nil {
			return nil, fault.New(fault.Usage, "give the CA with --certificate-authority, or a bootstrap token",
				"only a bootstrap token can verify cluster-info, and %s is none", x.credential)
		}
		return nil, x.credentialErr
	}
	return d, nil
}

// knownBy returns the discovery of a cluster whose CA is in a file. source is how the file is told to a person.
func knownBy(site bootstrap.Cluster, path, source string) (bootstrap.Discovery, error) {
	ca, err := bootstrap.ReadBundle(path, time.Now())
	if err != nil {
		return nil, err
	}
	site.CA, site.Source = ca, source
	return &bootstrap.Known{Cluster: site}, nil
}

// credentialPaths returns the files that a credential or a CA is read from, on this machine: whoever changes one has
// given the agent something new to try.
func (c *Config) credentialPaths() []string {
	o := c.options
	var paths []string
	for _, path := range []string{o.TokenFile, o.DiscoveryFile, o.Bundle, o.CertificateAuthority} {
		if path != "" && path != "-" && !bootstrap.IsURL(path) {
			paths = append(paths, path)
		}
	}
	for _, source := range c.sources {
		if source.BootstrapToken != nil {
			paths = append(paths, c.tokenPaths(source.BootstrapToken)...)
		} else {
			paths = append(paths, source.paths...)
		}
	}
	if o.Token == "" && o.TokenFile == "" && o.Bundle == "" && len(c.sources) == 0 {
		paths = append(paths, c.usualTokenPaths()...)
	}
	return paths
}

// sameAttempt lets a discovery that is read anew go on where the last one with the same token stopped: it counts
// refusals over attempts.
func sameAttempt(last, now bootstrap.Discovery) bootstrap.Discovery {
	before, ok := last.(*bootstrap.ByToken)
	after, also := now.(*bootstrap.ByToken)
	if ok && also && before.Token == after.Token {
		return before
	}
	return now
}
