package agent

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// Defaults of Options.
const (
	DefaultKubeconfig = "/etc/kubernetes/kubelet.conf"
	DefaultCertDir    = "/var/lib/kubelet/pki"
	DefaultCAFile     = "/etc/kubernetes/pki/ca.crt"
	DefaultStateDir   = "/var/lib/nodejoin"
	DefaultTokenFile  = "/etc/nodejoin/token" //nolint:gosec // a path
	DefaultTimeout    = 15 * time.Minute
)

// Options are what a person says, as flags have it. The zero value of each field is its default.
type Options struct {
	NodeName string // this host's name

	Servers              []string // HOST:PORT, tried in turn
	TLSServerName        string   // the servers' own names
	ProxyURL             string   // no proxy; the environment is not asked
	Token                string   // id.secret: both of the next two
	DiscoveryToken       string   // signs cluster-info
	TLSBootstrapToken    string   // authenticates the request
	TokenFile            string   // a file for Token, "-" for Stdin; else the systemd credential "token", else DefaultTokenFile
	TokenSingleUse       bool     // remove TokenFile once the identity was seen to work
	CACertHashes         []string // pins
	SkipCAVerification   bool     // trust whatever CA a holder of the token hands out
	DiscoveryFile        string   // kubeconfig: a path or an https URL
	CertificateAuthority string   // CA bundle that verifies Servers; else CAFile, if it is there

	KeyAlgorithm string        // csr.DefaultAlgorithm
	Lifetime     time.Duration // the signer's
	Timeout      time.Duration // DefaultTimeout
	Force        bool          // make a new request whatever there is

	Kubeconfig string // DefaultKubeconfig
	CertDir    string // DefaultCertDir
	CAFile     string // DefaultCAFile
	StateDir   string // DefaultStateDir
	Root       string // no prefix

	Stdin     io.Reader // for TokenFile "-"
	UserAgent string    // "nodejoin"
}

// Config is what an agent works by: Options, checked. It does not change.
type Config struct {
	nodeName  string
	named     bool // by a person, and not by the host
	paths     rotate.Paths
	algorithm csr.Algorithm
	lifetime  time.Duration
	timeout   time.Duration
	force     bool
	userAgent string

	// A machine that has joined needs neither of these any more, so that they are missing is no mistake until they
	// are needed: the error waits for that.
	discovery     bootstrap.Discovery
	discoveryErr  error
	credential    bootstrap.Credential
	credentialErr error

	pins   []bootstrap.Pin
	usedUp string // file to remove once the identity works; "" for none
}

// Config checks the options. Nothing is written, and no secret stands in an error.
func (o Options) Config() (*Config, error) {
	c := &Config{
		named: o.NodeName != "", force: o.Force,
		timeout: orDefault(o.Timeout, DefaultTimeout), userAgent: orDefault(o.UserAgent, "nodejoin"),
	}
	if o.Timeout < 0 {
		return nil, fault.New(fault.Usage, "give a time above zero, for example 15m", "the time-out %s is negative", o.Timeout)
	}
	for _, step := range []func(*Config) error{o.checkNode, o.checkPaths, o.checkRequest, o.checkAccess} {
		if err := step(c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// errNoCredential says that none was given, and not that one was given that is wrong.
var errNoCredential = errors.New("there is no credential to ask for a certificate with")

// missing returns what a machine that needs a certificate was not given: first what was given and is wrong.
func (c *Config) missing() error {
	credentialErr := c.credentialErr
	if c.credential != nil {
		credentialErr = nil
	}
	if credentialErr != nil && !errors.Is(credentialErr, errNoCredential) || c.discoveryErr == nil {
		return credentialErr
	}
	return c.discoveryErr
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

func (o Options) checkNode(c *Config) error {
	name := o.NodeName
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fault.New(fault.Usage, "give the node's name with --node-name", "this host has no name: %w", err)
		}
		name = host
	}
	var err error
	c.nodeName, err = csr.ParseNodeName(name)
	return err
}

func (o Options) checkPaths(c *Config) error {
	for _, path := range []struct {
		name, value, fallback string
		into                  *string
	}{
		{"--kubeconfig", o.Kubeconfig, DefaultKubeconfig, &c.paths.Kubeconfig},
		{"--cert-dir", o.CertDir, DefaultCertDir, &c.paths.CertDir},
		{"--ca-file", o.CAFile, DefaultCAFile, &c.paths.CAFile},
		{"--state-dir", o.StateDir, DefaultStateDir, &c.paths.StateDir},
		{"--root", o.Root, "/", &c.paths.Root},
	} {
		*path.into = filepath.Clean(orDefault(path.value, path.fallback))
		if !filepath.IsAbs(*path.into) {
			return fault.New(fault.Usage, "give an absolute path", "%s is the relative path %q: it would move with the working directory", path.name, path.value)
		}
	}
	return nil
}

func (o Options) checkRequest(c *Config) (err error) {
	if c.algorithm, err = csr.ParseAlgorithm(orDefault(o.KeyAlgorithm, string(csr.DefaultAlgorithm))); err != nil {
		return err
	}
	c.lifetime, err = csr.ParseLifetime(o.Lifetime)
	return err
}

// checkAccess reads everything that says whom to trust and what to show. What stands on the command line must be right;
// the error of what is read from elsewhere waits until it is needed.
func (o Options) checkAccess(c *Config) (err error) {
	if err := errors.Join(o.checkMisplaced(), o.checkConflicts()); err != nil {
		return err
	}
	site := bootstrap.Cluster{TLSServerName: o.TLSServerName} // as it is known beforehand
	if site.ProxyURL, err = bootstrap.ParseProxyURL(o.ProxyURL); err != nil {
		return err
	}
	if err := bootstrap.CheckServerName(o.TLSServerName); err != nil {
		return err
	}
	site.Endpoints = make([]bootstrap.Endpoint, len(o.Servers))
	for i, server := range o.Servers {
		if site.Endpoints[i], err = bootstrap.ParseEndpoint(server); err != nil {
			return err
		}
	}
	c.pins = make([]bootstrap.Pin, len(o.CACertHashes))
	for i, hash := range o.CACertHashes {
		if c.pins[i], err = bootstrap.ParsePin(hash); err != nil {
			return err
		}
	}
	discoveryToken, bootstrapToken, err := o.tokens(c)
	if err != nil {
		return err
	}
	if !bootstrapToken.IsZero() {
		c.credential = bootstrapToken.Credential()
	}
	if bootstrap.IsURL(o.DiscoveryFile) {
		c.discovery, err = bootstrap.ParseDiscoveryURL(o.DiscoveryFile, site)
		return err
	}
	c.discovery, c.discoveryErr = o.chooseDiscovery(c, site, discoveryToken)
	return nil
}

// checkMisplaced refuses a token in a place where it would be printed or published.
func (o Options) checkMisplaced() error {
	for _, flag := range []struct{ name, value string }{
		{"--node-name", o.NodeName},
		{"--tls-server-name", o.TLSServerName},
		{"--token-file", o.TokenFile},
		{"--discovery-file", o.DiscoveryFile},
		{"--certificate-authority", o.CertificateAuthority},
	} {
		if bootstrap.LooksLikeToken(flag.value) {
			return fault.New(fault.Usage, "give the token with --token, or put it into a file of its own", "a bootstrap token stands in the place of %s", flag.name)
		}
	}
	return nil
}

func (o Options) checkConflicts() error {
	for _, clash := range []struct {
		both  bool
		names string
	}{
		{o.Token != "" && o.TokenFile != "", "--token and --token-file"},
		{o.TokenFile == "-" && o.TokenSingleUse, "--token-file - and --token-single-use"},
		{o.Token != "" && o.TokenSingleUse, "--token and --token-single-use"},
		{o.DiscoveryFile != "" && len(o.Servers) != 0, "--discovery-file and an API server"},
		{o.DiscoveryFile != "" && len(o.CACertHashes) != 0, "--discovery-file and --discovery-token-ca-cert-hash"},
		{o.DiscoveryFile != "" && o.SkipCAVerification, "--discovery-file and --discovery-token-unsafe-skip-ca-verification"},
		{o.DiscoveryFile != "" && o.CertificateAuthority != "", "--discovery-file and --certificate-authority"},
		{o.CertificateAuthority != "" && len(o.CACertHashes) != 0, "--certificate-authority and --discovery-token-ca-cert-hash"},
		{o.CertificateAuthority != "" && o.SkipCAVerification, "--certificate-authority and --discovery-token-unsafe-skip-ca-verification"},
		{o.SkipCAVerification && len(o.CACertHashes) != 0, "--discovery-token-ca-cert-hash and --discovery-token-unsafe-skip-ca-verification"},
	} {
		if clash.both {
			return fault.New(fault.Usage, "leave one of them out", "%s exclude each other", clash.names)
		}
	}
	return nil
}

// tokens returns the token that signs cluster-info and the one that authenticates, and leaves in c why there is none.
func (o Options) tokens(c *Config) (discovery, authentication bootstrap.Token, err error) {
	switch {
	case o.Token != "":
		if discovery, err = bootstrap.ParseToken(o.Token); err != nil {
			return discovery, authentication, err
		}
	case o.TokenFile != "":
		discovery = o.readToken(c, o.TokenFile)
	case o.DiscoveryToken != "" && o.TLSBootstrapToken != "":
	case o.DiscoveryFile != "" && !bootstrap.IsURL(o.DiscoveryFile) && o.TLSBootstrapToken == "" && o.useTokenOfFile(c):
	default:
		discovery = o.readDefaultToken(c)
	}
	authentication = discovery
	if o.DiscoveryToken != "" {
		if discovery, err = bootstrap.ParseToken(o.DiscoveryToken); err != nil {
			return discovery, authentication, err
		}
	}
	if o.TLSBootstrapToken != "" {
		authentication, err = bootstrap.ParseToken(o.TLSBootstrapToken)
	}
	return discovery, authentication, err
}

// readToken reads the token's file, and leaves in c why it cannot.
func (o Options) readToken(c *Config, path string) bootstrap.Token {
	token, err := bootstrap.ReadTokenFile(path, o.Stdin)
	if c.credentialErr = err; err == nil && o.TokenSingleUse {
		c.usedUp = path
	}
	return token
}

// readDefaultToken looks for the token's file where it may be.
func (o Options) readDefaultToken(c *Config) bootstrap.Token {
	path := filepath.Join(c.paths.Root, DefaultTokenFile)
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" { // LoadCredential= of systemd.exec(5)
		if file := filepath.Join(dir, "token"); exists(file) {
			path = file
		}
	}
	token := o.readToken(c, path)
	if errors.Is(c.credentialErr, fs.ErrNotExist) {
		c.credentialErr = fault.New(fault.Usage, "give one with --token or --token-file, or put it into "+DefaultTokenFile+" (mode 0600); make one with: kubeadm token create",
			"%w", errNoCredential)
	}
	return token
}

// useTokenOfFile makes the token in the discovery file the credential, and reports whether it has one.
func (o Options) useTokenOfFile(c *Config) bool {
	file, err := bootstrap.ReadDiscoveryFile(o.DiscoveryFile, time.Now())
	if err != nil {
		return false // chooseDiscovery says so
	}
	bearer, err := file.Bearer()
	if c.credentialErr = err; err == nil && !bearer.IsZero() {
		c.credential = &bootstrap.BearerToken{Name: "the token in " + o.DiscoveryFile, Token: bearer, Advice: "put a new token into " + o.DiscoveryFile}
	}
	return err != nil || !bearer.IsZero()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// chooseDiscovery decides how the cluster is found and trusted: by a discovery file, by a CA that was given, by token,
// or by a CA that is in place.
func (o Options) chooseDiscovery(c *Config, site bootstrap.Cluster, token bootstrap.Token) (bootstrap.Discovery, error) {
	inPlace := filepath.Join(c.paths.Root, c.paths.CAFile)
	switch {
	case o.DiscoveryFile != "":
		file, err := bootstrap.ReadDiscoveryFile(o.DiscoveryFile, time.Now())
		if err != nil {
			return nil, err
		}
		file.Cluster.Override(site)
		return &bootstrap.Known{Cluster: file.Cluster}, nil
	case len(site.Endpoints) == 0:
		return nil, fault.New(fault.Usage, "name it: nodejoin join HOST:PORT (kubeadm token create --print-join-command prints the whole line)", "there is no API server to join")
	case o.CertificateAuthority != "":
		return knownBy(site, o.CertificateAuthority, o.CertificateAuthority)
	case len(c.pins) == 0 && !o.SkipCAVerification && exists(inPlace):
		return knownBy(site, inPlace, inPlace+", which was in place")
	}
	d := &bootstrap.ByToken{Site: site, Token: token, Pins: c.pins, SkipPins: o.SkipCAVerification}
	if err := d.Check(); err != nil {
		return nil, err
	}
	if token.IsZero() {
		return nil, c.credentialErr
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
