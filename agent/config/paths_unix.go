//go:build unix

package config

// Defaults that are paths of this machine's.
const (
	DefaultPath          = "/etc/nodejoin/config.yaml"
	DefaultTokenFile     = "/etc/nodejoin/token" //nolint:gosec // a path
	DefaultKubeconfig    = "/etc/kubernetes/kubelet.conf"
	DefaultCertDir       = "/var/lib/kubelet/pki"
	DefaultCAFile        = "/etc/kubernetes/pki/ca.crt"
	DefaultStateDir      = "/var/lib/nodejoin"
	DefaultRuntimeDir    = "/run/nodejoin"
	DefaultKubeletConfig = "/var/lib/kubelet/config.yaml"
	DefaultRoot          = "/"
)
