package config

import (
	"cmp"
	"slices"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/csr"
)

// The format.
const (
	APIVersion = "nodejoin/v1alpha1"
	Kind       = "AgentConfiguration"
)

// Names of the built-in certificates, and what else a hook can be run on.
const (
	KubeletClient  = "kubelet-client"
	KubeletServing = "kubelet-serving"
	OnCA           = "ca"
	OnKubeconfig   = "kubeconfig"
)

// kubeletServer is what the files of the certificate kubelet-serving are called.
const kubeletServer = "kubelet-server"

// Values of File.Rotation.
const (
	RotationAgent   = "agent"
	RotationKubelet = "kubelet"
)

// Defaults that more than this package may need.
const (
	DefaultListen        = "127.0.0.1:10263"
	DefaultMinPercent    = 70
	DefaultMaxPercent    = 90
	DefaultDeniedPause   = 24 * time.Hour
	DefaultTrustInterval = time.Hour
	DefaultHookTimeout   = 30 * time.Second
	DefaultMode          = "0600"
)

// BuiltIn reports whether the certificate's template is the agent's own.
func (c *Certificate) BuiltIn() bool { return c.Name == KubeletClient || c.Name == KubeletServing }

// Default fills in every default that does not depend on the machine. The certificate kubelet-client is then the first
// of the list. A copy of f that was made before, as by assignment, keeps what it has.
func (f *File) Default() {
	fill(&f.APIVersion, APIVersion)
	fill(&f.Kind, Kind)
	f.Credentials = slices.Clone(f.Credentials)
	if len(f.Credentials) == 0 {
		f.Credentials = []Credential{{BootstrapToken: &BootstrapToken{}}}
	}
	for i := range f.Credentials {
		f.Credentials[i].fill()
	}
	fill(&f.Rotation, RotationAgent)
	fill(&f.RotateAfter.MinPercent, DefaultMinPercent)
	fill(&f.RotateAfter.MaxPercent, DefaultMaxPercent)
	fill(&f.DeniedPause, new(Duration(DefaultDeniedPause)))
	f.defaultCertificates()
	fill(&f.Trust.Follow, new(true))
	fill(&f.Trust.Interval, Duration(DefaultTrustInterval))
	f.Hooks = slices.Clone(f.Hooks)
	for i := range f.Hooks {
		fill(&f.Hooks[i].Timeout, Duration(DefaultHookTimeout))
	}
	f.Paths.fill()
	fill(&f.Metrics.Listen, new(DefaultListen))
	fill(&f.Log.Format, "text")
	fill(&f.Log.Level, "info")
}

func (f *File) defaultCertificates() {
	list := []Certificate{{Name: KubeletClient}}
	for _, c := range f.Certificates {
		if c.Name == KubeletClient {
			list[0] = c
		} else {
			list = append(list, c)
		}
	}
	f.Certificates = list
	for i := range f.Certificates {
		f.Certificates[i].fill()
	}
}

func (c *Certificate) fill() {
	fill(&c.KeyAlgorithm, string(csr.DefaultAlgorithm))
	fill(&c.Mode, DefaultMode)
	if len(c.Usages) == 0 && !c.BuiltIn() {
		auth := certificates.UsageServerAuth
		if c.SignerName == certificates.KubeAPIServerClientSignerName {
			auth = certificates.UsageClientAuth
		}
		c.Usages = []string{string(certificates.UsageDigitalSignature), string(auth)}
	}
}

func (p *Paths) fill() {
	fill(&p.Kubeconfig, DefaultKubeconfig)
	fill(&p.CertDir, DefaultCertDir)
	fill(&p.CAFile, DefaultCAFile)
	fill(&p.StateDir, DefaultStateDir)
	fill(&p.RuntimeDir, DefaultRuntimeDir)
	fill(&p.KubeletConfig, DefaultKubeletConfig)
}

// fill gives a field that is zero its default.
func fill[T comparable](field *T, value T) { *field = cmp.Or(*field, value) }
