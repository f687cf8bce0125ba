package config

// Defaults that are paths of this machine's: a kubelet's are where they are on Linux, on the drive C.
const (
	DefaultPath          = `C:\etc\nodejoin\config.yaml`
	DefaultTokenFile     = `C:\etc\nodejoin\token` //nolint:gosec // a path
	DefaultKubeconfig    = `C:\etc\kubernetes\kubelet.conf`
	DefaultCertDir       = `C:\var\lib\kubelet\pki`
	DefaultCAFile        = `C:\etc\kubernetes\pki\ca.crt`
	DefaultStateDir      = `C:\var\lib\nodejoin`
	DefaultRuntimeDir    = `C:\run\nodejoin`
	DefaultKubeletConfig = `C:\var\lib\kubelet\config.yaml`
	DefaultRoot          = "" // a path with a drive has nothing before it
)
