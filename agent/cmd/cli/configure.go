package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/machine"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// addConfigFlags adds the flags that every command about this machine has: where its files are.
func (p *program) addConfigFlags(cmd *cobra.Command, o *agent.Options) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&p.configPath, "config", "", "configuration file (default "+agent.DefaultConfigFile+", if it is there)")
	f.StringVar(&o.Kubeconfig, "kubeconfig", agent.DefaultKubeconfig, "kubeconfig to write")
	f.StringVar(&o.CertDir, "cert-dir", agent.DefaultCertDir, "directory of the key and certificate")
	f.StringVar(&o.CAFile, "ca-file", agent.DefaultCAFile, "CA bundle to write")
	f.StringVar(&o.StateDir, "state-dir", agent.DefaultStateDir, "directory of the pending key, the lock and the state")
	f.StringVar(&o.RuntimeDir, "runtime-dir", agent.DefaultRuntimeDir, "directory of the running agent's socket")
	f.StringVar(&o.Root, "root", "", "directory to put before all of these paths")
}

// configure returns the configuration: the flags that were given over the configuration file over the defaults. servers
// says that API servers were given as arguments.
func (p *program) configure(cmd *cobra.Command, flags agent.Options, servers bool) (*agent.Config, *config.File, error) {
	o, file, err := p.options(cmd, flags, servers)
	if err != nil {
		return nil, nil, err
	}
	c, err := o.Config()
	return c, file, err
}

// configFile returns the path of the configuration file, and whether it was asked for.
func (p *program) configFile(root string) (path string, named bool) {
	if p.configPath != "" {
		return p.configPath, true
	}
	return filepath.Join(orRoot(root), agent.DefaultConfigFile), false
}

func orRoot(root string) string {
	if root == "" {
		return config.DefaultRoot
	}
	return root
}

func (p *program) loadFile(root string) (file *config.File, path string, err error) {
	path, named := p.configFile(root)
	file, err = config.Load(path)
	if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && !named { // the latter is told where files are written
		return &config.File{}, "", nil
	}
	return file, path, err
}

func (p *program) options(cmd *cobra.Command, flags agent.Options, servers bool) (agent.Options, *config.File, error) {
	file, path, err := p.loadFile(flags.Root)
	if err != nil {
		return flags, nil, err
	}
	o, err := optionsOf(file)
	if err != nil {
		return flags, nil, err
	}
	override(cmd, &o, flags, servers)
	if err := config.CheckListen(o.Listen, o.RuntimeDir); err != nil {
		return flags, nil, fault.New(fault.Usage, "see: "+cmd.CommandPath()+" --help", "--metrics-listen: %w", err)
	}
	if socket, ok := strings.CutPrefix(o.Listen, "unix:"); ok {
		o.Listen = "unix:" + filepath.Join(o.Root, socket)
	}
	o.Stdin, o.Version, o.ConfigFile = p.stdin, Version, absolute(path)
	o.UserAgent = fmt.Sprintf("nodejoin/%s (%s/%s)", Version, runtime.GOOS, runtime.GOARCH)
	return o, file, nil
}

// override puts the flags that were given in the place of what the file says.
func override(cmd *cobra.Command, o *agent.Options, flags agent.Options, servers bool) {
	given := func(name string) bool {
		f := cmd.Flags().Lookup(name)
		return f != nil && f.Changed
	}
	// How the cluster is found and why it is trusted exclude each other: what the file says of it goes when a flag says otherwise.
	if given("discovery-file") {
		o.Servers, o.CACertHashes, o.CertificateAuthority, o.SkipCAVerification = nil, nil, "", false
	}
	if given("bundle") {
		o.Servers, o.CACertHashes, o.CertificateAuthority, o.SkipCAVerification, o.DiscoveryFile = nil, nil, "", false, ""
	}
	if given("discovery-token-ca-cert-hash") || given("discovery-token-unsafe-skip-ca-verification") || given("certificate-authority") {
		o.CACertHashes, o.CertificateAuthority, o.SkipCAVerification, o.DiscoveryFile = nil, "", false, ""
	}
	if given("server") || servers {
		o.DiscoveryFile, o.Servers = "", flags.Servers
	}
	for _, flag := range []struct {
		name string
		take func()
	}{
		{"node-name", func() { o.NodeName = flags.NodeName }},
		{"token", func() { o.Token = flags.Token }},
		{"token-file", func() { o.TokenFile = absolute(flags.TokenFile) }},
		{"token-single-use", func() { o.TokenSingleUse = flags.TokenSingleUse }},
		{"discovery-token", func() { o.DiscoveryToken = flags.DiscoveryToken }},
		{"tls-bootstrap-token", func() { o.TLSBootstrapToken = flags.TLSBootstrapToken }},
		{"discovery-token-ca-cert-hash", func() { o.CACertHashes = flags.CACertHashes }},
		{"discovery-token-unsafe-skip-ca-verification", func() { o.SkipCAVerification = flags.SkipCAVerification }},
		{"discovery-file", func() { o.DiscoveryFile = absolute(flags.DiscoveryFile) }},
		{"bundle", func() { o.Bundle = absolute(flags.Bundle) }},
		{"bearer-token-file", func() { o.BearerTokenFile = absolute(flags.BearerTokenFile) }},
		{"client-certificate", func() { o.ClientCertificate = absolute(flags.ClientCertificate) }},
		{"client-key", func() { o.ClientKey = absolute(flags.ClientKey) }},
		{"certificate-authority", func() { o.CertificateAuthority = absolute(flags.CertificateAuthority) }},
		{"tls-server-name", func() { o.TLSServerName = flags.TLSServerName }},
		{"proxy-url", func() { o.ProxyURL = flags.ProxyURL }},
		{"key-algorithm", func() { o.KeyAlgorithm = flags.KeyAlgorithm }},
		{"lifetime", func() { o.Lifetime = flags.Lifetime }},
		{"timeout", func() { o.Timeout = flags.Timeout }},
		{"force", func() { o.Force = flags.Force }},
		{"rotation", func() { o.Rotation = flags.Rotation }},
		{"metrics-listen", func() { o.Listen = flags.Listen }},
		{"kubeconfig", func() { o.Kubeconfig = flags.Kubeconfig }},
		{"cert-dir", func() { o.CertDir = flags.CertDir }},
		{"ca-file", func() { o.CAFile = flags.CAFile }},
		{"state-dir", func() { o.StateDir = flags.StateDir }},
		{"runtime-dir", func() { o.RuntimeDir = flags.RuntimeDir }},
		{"root", func() { o.Root = flags.Root }},
	} {
		if given(flag.name) {
			flag.take()
		}
	}
	moveServing(o)
}

// absolute returns a path that does not depend on the working directory: only such a file can be watched. What is no path
// stays as it is: standard input, a URL, and a token in the wrong place, which is to be noticed there.
func absolute(path string) string {
	if path == "" || path == "-" || bootstrap.IsURL(path) || bootstrap.LooksLikeToken(path) {
		return path
	}
	if from, err := filepath.Abs(path); err == nil {
		return from
	}
	return path // the working directory is gone
}

// moveServing keeps the kubelet's serving certificate beside its client certificate when a flag has moved that.
func moveServing(o *agent.Options) {
	for i := range o.Certificates {
		if o.Certificates[i].Name == agent.ServingName && o.CertDir != "" {
			o.Certificates[i].Place.Dir = o.CertDir
		}
	}
}

// optionsOf returns what the configuration file says, with its defaults.
func optionsOf(file *config.File) (agent.Options, error) {
	withDefaults := *file
	withDefaults.Default()
	f := &withDefaults
	o := agent.Options{
		NodeName: f.NodeName, Servers: f.Cluster.Servers, TLSServerName: f.Cluster.TLSServerName, ProxyURL: f.Cluster.ProxyURL,
		CACertHashes: f.Cluster.CACertHashes, SkipCAVerification: f.Cluster.UnsafeSkipCAVerification, DiscoveryFile: f.Cluster.DiscoveryFile, CertificateAuthority: f.Cluster.CertificateAuthority,
		Rotation:   agent.Rotation(f.Rotation),
		Window:     rotate.Window{Min: float64(f.RotateAfter.MinPercent) / 100, Max: float64(f.RotateAfter.MaxPercent) / 100},
		FixedTrust: !*f.Trust.Follow, TrustEvery: time.Duration(f.Trust.Interval), Listen: *f.Metrics.Listen,
		Kubeconfig: f.Paths.Kubeconfig, CertDir: f.Paths.CertDir, CAFile: f.Paths.CAFile, StateDir: f.Paths.StateDir, RuntimeDir: f.Paths.RuntimeDir, KubeletConfig: f.Paths.KubeletConfig,
	}
	o.DeniedPause = new(time.Duration(*f.DeniedPause))
	o.Credentials = file.Credentials // not the default, which knows fewer places than the agent does
	for _, h := range f.Hooks {
		o.Hooks = append(o.Hooks, rotate.Hook{Name: h.Name, Command: h.Command, On: h.On, Timeout: time.Duration(h.Timeout)})
	}
	for _, c := range f.Certificates {
		certificate, err := certificateOf(&c, f.Paths.CertDir)
		if err != nil {
			return o, err
		}
		if c.Name == config.KubeletClient {
			o.KeyAlgorithm, o.Lifetime, o.Client = c.KeyAlgorithm, time.Duration(c.Lifetime), certificate.Place
			continue
		}
		o.Certificates = append(o.Certificates, certificate)
	}
	return o, nil
}

func certificateOf(c *config.Certificate, certDir string) (agent.Certificate, error) {
	out := agent.Certificate{
		Name: c.Name, MachineNames: c.MachineNames, Algorithm: csr.Algorithm(c.KeyAlgorithm),
		Place:    rotate.Place{Name: c.Name, Dir: c.Directory, CertificateFile: c.CertificateFile, PrivateKeyFile: c.PrivateKeyFile},
		Template: c.Template(),
	}
	if c.Name == config.KubeletServing {
		out.Place.Name, out.Place.Dir = "kubelet-server", certDir // the kubelet's own names
		out.MachineNames = c.MachineNames || len(c.DNSNames)+len(c.IPAddresses) == 0
	}
	mode, err := strconv.ParseUint(c.Mode, 8, 32)
	if err != nil {
		return out, fault.New(fault.Usage, "give an octal number such as 0600", "the certificate %s has the mode %q", c.Name, c.Mode)
	}
	out.Place.Mode = os.FileMode(mode)
	if c.Owner != "" || c.Group != "" {
		uid, gid, err := machine.ResolveOwner(c.Owner, c.Group)
		if err != nil {
			return out, fault.New(fault.Usage, fault.Remedy(err), "the files of the certificate %s: %w", c.Name, err)
		}
		out.Place.Owner = &rotate.Owner{UID: uid, GID: gid}
	}
	return out, nil
}
