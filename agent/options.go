package agent

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// Defaults of Options: the configuration file's.
const (
	DefaultConfigFile    = config.DefaultPath
	DefaultTokenFile     = config.DefaultTokenFile
	DefaultKubeconfig    = config.DefaultKubeconfig
	DefaultCertDir       = config.DefaultCertDir
	DefaultCAFile        = config.DefaultCAFile
	DefaultStateDir      = config.DefaultStateDir
	DefaultRuntimeDir    = config.DefaultRuntimeDir
	DefaultKubeletConfig = config.DefaultKubeletConfig
	DefaultDeniedPause   = config.DefaultDeniedPause
	DefaultTrustEvery    = config.DefaultTrustInterval
	DefaultTimeout       = 15 * time.Minute
)

// Options are what a person says, as flags and the configuration file have it. The zero value of each field is its
// default.
type Options struct {
	NodeName string // this host's name

	Servers              []string            // HOST:PORT, tried in turn
	TLSServerName        string              // the servers' own names
	ProxyURL             string              // no proxy; the environment is not asked
	Token                string              // id.secret: both of the next two
	DiscoveryToken       string              // signs cluster-info
	TLSBootstrapToken    string              // authenticates the request
	TokenFile            string              // a file for Token, "-" for Stdin; else the systemd credential "token", else DefaultTokenFile
	TokenSingleUse       bool                // remove TokenFile once the identity was seen to work
	Bundle               string              // a DiscoveryFile with a client certificate for one node
	BearerTokenFile      string              // any other bearer token
	ClientCertificate    string              // a client certificate that was issued beforehand
	ClientKey            string              // its key: in ClientCertificate
	Credentials          []config.Credential // tried in order, where none of the above is given; paths are below Root
	CACertHashes         []string            // pins
	SkipCAVerification   bool                // trust whatever CA a holder of the token hands out
	DiscoveryFile        string              // kubeconfig: a path or an https URL
	CertificateAuthority string              // CA bundle that verifies Servers; else CAFile, if it is there

	KeyAlgorithm string        // of the kubelet's client certificate: csr.DefaultAlgorithm
	Lifetime     time.Duration // of the same: the signer's
	Timeout      time.Duration // of Join: DefaultTimeout
	Force        bool          // make a new request whatever there is

	Rotation     Rotation       // RotationAgent
	Window       rotate.Window  // when in its lifetime a certificate is rotated: the window's own default
	DeniedPause  *time.Duration // after a denial, how long until the same is asked for again: DefaultDeniedPause; 0 is for ever
	Client       rotate.Place   // of the kubelet's client certificate: copies, owner and mode; name and directory are not looked at
	Certificates []Certificate  // beside the kubelet's client certificate
	FixedTrust   bool           // leave the CA bundle as it is, whatever the cluster's becomes
	TrustEvery   time.Duration  // how often the cluster's CA bundle is looked at: DefaultTrustEvery
	Hooks        []rotate.Hook  // run after a change
	Listen       string         // loopback HOST:PORT or unix:PATH for metrics and health; none

	Kubeconfig    string // DefaultKubeconfig
	CertDir       string // DefaultCertDir
	CAFile        string // DefaultCAFile
	StateDir      string // DefaultStateDir
	RuntimeDir    string // DefaultRuntimeDir
	KubeletConfig string // DefaultKubeletConfig
	Root          string // no prefix

	Stdin      io.Reader // for TokenFile "-"
	UserAgent  string    // "nodejoin"
	Version    string    // of this program, for its status
	ConfigFile string    // where some of this came from, for the status; none
}

// Rotation says who rotates the kubelet's client certificate.
type Rotation string

// The owners of the rotation. Where it is the kubelet the agent joins and then watches: it repairs what is damaged and
// recovers what was lost.
const (
	RotationAgent   Rotation = config.RotationAgent
	RotationKubelet Rotation = config.RotationKubelet
)

// Certificate is a certificate that is kept beside the kubelet's client certificate, requested as the node.
type Certificate struct {
	Name  string
	Place rotate.Place
	// Template is what is asked for. The kubelet's serving certificate has its names and its lifetime alone: the rest
	// follows from the node.
	Template csr.Template
	// MachineNames adds the machine's names and addresses, as they are at the time, to the template's.
	MachineNames bool
	Algorithm    csr.Algorithm // csr.DefaultAlgorithm
}

// ServingName is the name of the kubelet's serving certificate among the certificates.
const ServingName = config.KubeletServing

// Config is what an agent works by: Options, checked. It does not change; the files that it names are read again at each
// use.
type Config struct {
	options Options // with what is not below

	nodeName      string
	named         bool // by a person, and not by the host
	paths         rotate.Paths
	runtimeDir    string // on this machine
	kubeletConfig string // as it stands in files
	algorithm     csr.Algorithm
	lifetime      time.Duration
	timeout       time.Duration
	force         bool
	userAgent     string
	rotation      Rotation
	window        rotate.Window
	deniedPause   time.Duration
	certificates  []Certificate
	trustEvery    time.Duration

	serviceCredentials string // directory of what systemd has handed to the service, where $CREDENTIALS_DIRECTORY does not say it; "" is none

	site    bootstrap.Cluster // as it is known beforehand: endpoints, server name, proxy
	pins    []bootstrap.Pin
	given   tokens   // what was given and is not read from a file that can change
	sources []source // the credentials that are configured; none where tokens or a usual place say what to show
}

// Config checks the options. Nothing is written, and no secret stands in an error.
func (o Options) Config() (*Config, error) {
	c := &Config{
		options: o, named: o.NodeName != "", force: o.Force,
		timeout: orDefault(o.Timeout, DefaultTimeout), userAgent: orDefault(o.UserAgent, "nodejoin"),
		rotation: orDefault(o.Rotation, RotationAgent), window: o.Window, deniedPause: DefaultDeniedPause,
		certificates: o.Certificates, trustEvery: orDefault(o.TrustEvery, DefaultTrustEvery),
	}
	if o.DeniedPause != nil {
		c.deniedPause = *o.DeniedPause
	}
	if o.Timeout < 0 {
		return nil, fault.New(fault.Usage, "give a time above zero, for example 15m", "the time-out %s is negative", o.Timeout)
	}
	if c.rotation != RotationAgent && c.rotation != RotationKubelet {
		return nil, fault.New(fault.Usage, "choose agent or kubelet", "the rotation %q is not known", c.rotation)
	}
	for _, step := range []func(*Config) error{o.checkNode, o.checkPaths, o.checkRequest, o.checkAccess} {
		if err := step(c); err != nil {
			return nil, err
		}
	}
	return c, nil
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
		{"--runtime-dir", o.RuntimeDir, DefaultRuntimeDir, &c.runtimeDir},
		{"--kubelet-config", o.KubeletConfig, DefaultKubeletConfig, &c.kubeletConfig},
		{"--root", o.Root, config.DefaultRoot, &c.paths.Root},
	} {
		*path.into = orDefault(path.value, path.fallback)
		if *path.into == "" {
			continue
		}
		*path.into = filepath.Clean(*path.into)
		if !filepath.IsAbs(*path.into) {
			return fault.New(fault.Usage, "give an absolute path", "%s is the relative path %q: it would move with the working directory", path.name, path.value)
		}
	}
	if c.paths.Root != "" && config.DefaultRoot == "" {
		return fault.New(fault.Usage, "give each path on its own", "--root cannot be put before a path that has a drive")
	}
	c.runtimeDir = filepath.Join(c.paths.Root, c.runtimeDir)
	return nil
}

func (o Options) checkRequest(c *Config) (err error) {
	if c.algorithm, err = csr.ParseAlgorithm(orDefault(o.KeyAlgorithm, string(csr.DefaultAlgorithm))); err != nil {
		return err
	}
	c.lifetime, err = csr.ParseLifetime(o.Lifetime)
	return err
}

// checkAccess checks what says whom to trust and what to show. What stands on the command line must be right; what is read from
// files is looked at when it is needed.
func (o Options) checkAccess(c *Config) (err error) {
	if err := errors.Join(o.checkMisplaced(), o.checkConflicts()); err != nil {
		return err
	}
	c.site = bootstrap.Cluster{TLSServerName: o.TLSServerName}
	if c.site.ProxyURL, err = bootstrap.ParseProxyURL(o.ProxyURL); err != nil {
		return err
	}
	if err := bootstrap.CheckServerName(o.TLSServerName); err != nil {
		return err
	}
	c.site.Endpoints = make([]bootstrap.Endpoint, len(o.Servers))
	for i, server := range o.Servers {
		if c.site.Endpoints[i], err = bootstrap.ParseEndpoint(server); err != nil {
			return err
		}
	}
	c.pins = make([]bootstrap.Pin, len(o.CACertHashes))
	for i, hash := range o.CACertHashes {
		if c.pins[i], err = bootstrap.ParsePin(hash); err != nil {
			return err
		}
	}
	if bootstrap.IsURL(o.DiscoveryFile) {
		if _, err := bootstrap.ParseDiscoveryURL(o.DiscoveryFile, c.site); err != nil {
			return err
		}
	}
	c.readSources()
	return c.readGiven()
}

// checkMisplaced refuses a token in a place where it would be printed or published.
func (o Options) checkMisplaced() error {
	for _, flag := range []struct{ name, value string }{
		{"--node-name", o.NodeName},
		{"--tls-server-name", o.TLSServerName},
		{"--token-file", o.TokenFile},
		{"--discovery-file", o.DiscoveryFile},
		{"--bundle", o.Bundle},
		{"--bearer-token-file", o.BearerTokenFile},
		{"--client-certificate", o.ClientCertificate},
		{"--client-key", o.ClientKey},
		{"--certificate-authority", o.CertificateAuthority},
	} {
		if bootstrap.LooksLikeToken(flag.value) {
			return fault.New(fault.Usage, "give the token with --token, or put it into a file of its own", "a bootstrap token stands in the place of %s", flag.name)
		}
	}
	return nil
}

// tokens returns whether a bootstrap token was given, and by what.
func (o Options) tokens() string {
	return o.Token + o.TokenFile + o.DiscoveryToken + o.TLSBootstrapToken
}

func (o Options) hasCredential() bool { return o.BearerTokenFile+o.ClientCertificate+o.ClientKey != "" }

func (o Options) checkConflicts() error {
	if o.ClientKey != "" && o.ClientCertificate == "" {
		return fault.New(fault.Usage, "give the certificate with --client-certificate", "--client-key is of no certificate")
	}
	for _, clash := range []struct {
		both  bool
		names string
	}{
		{o.Token != "" && o.TokenFile != "", "--token and --token-file"},
		{o.Bundle != "" && o.tokens() != "", "--bundle and a bootstrap token"},
		{o.Bundle != "" && o.hasCredential(), "--bundle and another credential"},
		{o.hasCredential() && o.tokens() != "", "a bootstrap token and another credential"},
		{o.BearerTokenFile != "" && o.ClientCertificate != "", "--bearer-token-file and --client-certificate"},
		{o.Bundle != "" && o.DiscoveryFile != "", "--bundle and --discovery-file"},
		{o.Bundle != "" && len(o.Servers) != 0, "--bundle and an API server"},
		{o.Bundle != "" && len(o.CACertHashes) != 0, "--bundle and --discovery-token-ca-cert-hash"},
		{o.Bundle != "" && o.CertificateAuthority != "", "--bundle and --certificate-authority"},
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

// Store returns the place of the identity on disk.
func (c *Config) Store() *rotate.Store { return rotate.NewStore(c.paths) }
