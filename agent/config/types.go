package config

import (
	"fmt"
	"strings"
	"time"
)

// The comments of the types and fields in this file are the text of REFERENCE.md: run `go generate` after a change. They
// are written for an operator. A last paragraph "Default: VALUE." or "Required." is the field's default there; a test
// compares it with what [File.Default] fills in. Backquotes are code.

// File is the configuration file of nodejoin. It is YAML; every key is optional, and an empty file is valid. With an API
// server and a CA hash under `cluster`, and a bootstrap token in /etc/nodejoin/token, a machine joins and stays joined.
// A flag on the command line wins over the file.
//
// The file is read from /etc/nodejoin/config.yaml or from where `--config` says. It must be a regular file of at most
// 1 MiB that belongs to root or to the user that runs nodejoin, and that nobody else can write to. No secret belongs
// into it: tokens are in files of their own.
//
// It is read strictly. Unknown and repeated keys, values of a wrong type, anchors, aliases, tags and a second document
// are mistakes, and all mistakes are reported together, each with its line and the path of its field. A key without a
// value counts as left out. A duration is a number with a unit, as in `90s`, `15m`, `24h` or `1h30m`; a path is absolute
// and written without `.`, `..` and repeated or final slashes.
//
// Check a file with `nodejoin config validate`; `nodejoin config print` shows it with all defaults filled in. A running
// agent reads it again when it has changed and on SIGHUP. If it has mistakes then, the agent says so and keeps to what
// it read before.
type File struct {
	// The version of this format: `nodejoin/v1alpha1`. It goes together with `kind`; both may be left out.
	//
	// Default: nodejoin/v1alpha1.
	APIVersion string `json:"apiVersion,omitempty"`

	// The kind of this file: `AgentConfiguration`.
	//
	// Default: AgentConfiguration.
	Kind string `json:"kind,omitempty"`

	// The name of the node that this machine is: lower-case letters, digits, `-` and `.`. A machine that has joined
	// keeps the name that it joined with, whatever its host name becomes.
	//
	// Default: the host name.
	NodeName string `json:"nodeName,omitempty"`

	// How the cluster is found and why it is trusted.
	Cluster Cluster `json:"cluster,omitzero"`

	// What this machine may show to get its first certificate, or a new one after its own stopped working. They are tried
	// in this order, and the file of each is read anew at every attempt: put a new token there, and the agent goes on.
	//
	// Default: the bootstrap token in /etc/nodejoin/token.
	Credentials []Credential `json:"credentials,omitempty"`

	// Who rotates the kubelet's client certificate.
	//
	// With `agent` nodejoin does, and the kubelet should run with `rotateCertificates: false`; it takes up new files by
	// itself. With `kubelet` nodejoin joins, and then only watches, repairs and recovers. A kubelet that is found to
	// rotate as well is never fought over the files: it is treated as `kubelet` and `nodejoin status` says so.
	//
	// Default: agent.
	Rotation string `json:"rotation,omitempty"`

	// When a certificate is replaced.
	RotateAfter RotateAfter `json:"rotateAfter,omitzero"`

	// How long to wait after a denied request until the agent asks again by itself; at least `1s`. With `0` it never does,
	// and waits for SIGHUP or `nodejoin join --force`.
	//
	// Default: 24h.
	DeniedPause *Duration `json:"deniedPause,omitempty"`

	// The certificates to keep. Two are built in. `kubelet-client` is what makes this machine a node: it is always kept,
	// and an entry of that name only changes how. `kubelet-serving` is what the kubelet shows to the API server: it is
	// kept where it has an entry. An entry of any other name is a certificate of your own.
	//
	// Default: kubelet-client alone.
	Certificates []Certificate `json:"certificates,omitempty"`

	// How the CA bundle on disk is kept up to date.
	Trust Trust `json:"trust,omitzero"`

	// Commands that are run after a change.
	Hooks []Hook `json:"hooks,omitempty"`

	// Where files are.
	Paths Paths `json:"paths,omitzero"`

	// Where metrics and health are served.
	Metrics Metrics `json:"metrics,omitzero"`

	// How the agent logs, to standard error.
	Log Log `json:"log,omitzero"`
}

// Cluster says how the cluster is found and why it is trusted. A machine that has joined knows both from its kubeconfig,
// and uses this again only to recover.
//
// The cluster is trusted for one of: `discoveryFile`; a CA in `certificateAuthority`; the bootstrap token together with
// `caCertHashes`; or, with nothing said, the CA bundle at `paths.caFile` if it is there. They exclude each other.
type Cluster struct {
	// The API servers, each HOST:PORT, HOST (port 6443) or an https URL without a path. They are tried in turn; while one
	// is down the next is used.
	Servers []string `json:"servers,omitempty"`

	// The DNS name that the API servers' certificates carry, where it is not the one in `servers`.
	//
	// Default: the servers' own names.
	TLSServerName string `json:"tlsServerName,omitempty"`

	// A proxy on the way to the API servers: `http://HOST:PORT` or `socks5://HOST:PORT`, without user and password. The
	// environment (HTTPS_PROXY) is not asked.
	//
	// Default: no proxy.
	ProxyURL string `json:"proxyURL,omitempty"`

	// Hashes of the public keys of the cluster's CA certificates, each `sha256:` and 64 hexadecimal digits, as kubeadm
	// prints them after `--discovery-token-ca-cert-hash`. Only certificates with one of these keys are trusted at the
	// join.
	CACertHashes []string `json:"caCertHashes,omitempty"`

	// The path of a file with the CA certificates that verify the API servers, in PEM.
	//
	// Default: paths.caFile, if that is there.
	CertificateAuthority string `json:"certificateAuthority,omitempty"`

	// A kubeconfig that names the cluster and its CA: the path of a file, or an https URL.
	DiscoveryFile string `json:"discoveryFile,omitempty"`

	// Trust whatever CA the holder of the bootstrap token hands out. Everybody who knows the token can then pass for the
	// cluster.
	//
	// Default: false.
	UnsafeSkipCAVerification bool `json:"unsafeSkipCAVerification,omitempty"`
}

// Credential is one way to authenticate before this machine has a certificate. It has exactly one of these keys, beside
// `endpoint`. `--root` is put before all paths in it.
type Credential struct {
	// A bootstrap token, as `kubeadm token create` makes it.
	BootstrapToken *BootstrapToken `json:"bootstrapToken,omitempty"`

	// Any other bearer token that the API server accepts: of a service account, of an OpenID Connect provider, or one that
	// a webhook judges.
	BearerToken *BearerToken `json:"bearerToken,omitempty"`

	// A client certificate that was issued beforehand, by a CA that the API server trusts with its clients.
	ClientCertificate *ClientCertificate `json:"clientCertificate,omitempty"`

	// Tokens that an OpenID Connect provider hands out for a refresh token, or for the client's own secret.
	OIDC *OIDC `json:"oidc,omitempty"`

	// A name and a password, for an authenticating proxy. It needs `endpoint`: no API server knows passwords.
	Basic *Basic `json:"basic,omitempty"`

	// A program that prints a token or a client certificate: a credential plugin, as kubectl has them.
	Exec *Exec `json:"exec,omitempty"`

	// Where the credential is shown, if not to `cluster.servers`: an authenticating proxy in front of the API server. Only
	// the certificate is asked for there; it is used with `cluster.servers`.
	Endpoint *Endpoint `json:"endpoint,omitempty"`
}

// Endpoint is the server that one credential is for.
type Endpoint struct {
	// HOST:PORT, HOST (port 6443) or an https URL without a path. `cluster.proxyURL` is not used on the way there.
	//
	// Required.
	Server string `json:"server,omitempty"`

	// The path of a file with the CA certificates that verify the server, in PEM.
	//
	// Default: what verifies `cluster.servers`.
	CertificateAuthority string `json:"certificateAuthority,omitempty"`

	// The DNS name that the server's certificate carries, where it is not the one in `server`.
	//
	// Default: the server's own name.
	TLSServerName string `json:"tlsServerName,omitempty"`
}

// BootstrapToken is a bootstrap token in a file. The token signs what the cluster tells about itself, and authenticates
// the request for the certificate.
type BootstrapToken struct {
	// The file that holds the token, `ID.SECRET` on one line. It must not be readable by everybody: mode 0600. Where
	// that is /etc/nodejoin/token, the systemd credential `token` (`LoadCredential=token:PATH`) is tried first, if the service
	// was given one, and then the file.
	//
	// Default: /etc/nodejoin/token.
	File string `json:"file,omitempty"`

	// Remove the file once the certificate that it led to was seen to work. A systemd credential cannot be removed by the
	// service that is given it: then log and status say what to remove.
	//
	// Default: false.
	SingleUse bool `json:"singleUse,omitempty"`
}

// BearerToken is a bearer token in a file, which another program may keep up to date.
type BearerToken struct {
	// The file that holds the token and nothing else. It must not be readable by everybody: mode 0600. It is read at each
	// use.
	//
	// Required.
	File string `json:"file,omitempty"`

	// The claim of the token, if it is a JWT, that holds the node's name, with `system:node:` before it or without. It
	// counts where `nodeName` is not given and the machine has not joined yet. While it cannot be read nothing else is
	// tried: the machine would become another node.
	//
	// Default: none.
	NodeNameClaim string `json:"nodeNameClaim,omitempty"`
}

// ClientCertificate is a client certificate and its key in files, which another program may keep up to date. One for
// `system:node:NAME` gives this machine the node name NAME, where `nodeName` is not given and the machine has not joined
// yet.
type ClientCertificate struct {
	// The file that holds the certificate and its chain, in PEM. It is read at each use.
	//
	// Required.
	CertificateFile string `json:"certificateFile,omitempty"`

	// The file that holds the key, in PEM and not encrypted. It must not be readable by everybody: mode 0600.
	//
	// Default: certificateFile, which holds both.
	PrivateKeyFile string `json:"privateKeyFile,omitempty"`
}

// OIDC says how a token is got from an OpenID Connect provider, each time that one is needed: with a refresh token where
// `refreshTokenFile` is given, else with the client's own secret (the client credentials grant). The API server is shown
// the id_token of the answer, or without one, after the client credentials grant, the access token.
type OIDC struct {
	// The issuer: an https URL, under which the provider publishes what it offers (OpenID Connect Discovery 1.0). No proxy
	// is used on the way there.
	//
	// Required.
	Issuer string `json:"issuer,omitempty"`

	// The client that this machine is to the provider.
	//
	// Required.
	ClientID string `json:"clientID,omitempty"`

	// The file that holds the client's secret. It must not be readable by everybody: mode 0600. Required without
	// `refreshTokenFile`.
	//
	// Default: a public client, which has none.
	ClientSecretFile string `json:"clientSecretFile,omitempty"`

	// The file that holds the refresh token. It must not be readable by everybody: mode 0600. A provider that answers with
	// a new refresh token has it written here in the place of the old one.
	//
	// Default: the client credentials grant.
	RefreshTokenFile string `json:"refreshTokenFile,omitempty"`

	// The scopes to ask for in the client credentials grant. A refresh token has its own.
	//
	// Default: the provider's own.
	Scopes []string `json:"scopes,omitempty"`

	// For whom the token is to be, for providers that take a parameter `audience` in the client credentials grant.
	//
	// Default: none.
	Audience string `json:"audience,omitempty"`

	// The path of a file with the CA certificates that verify the provider, in PEM.
	//
	// Default: those of this machine.
	CertificateAuthority string `json:"certificateAuthority,omitempty"`

	// The claim of the token that holds the node's name, with `system:node:` before it or without. It counts where
	// `nodeName` is not given and the machine has not joined yet. While it cannot be read nothing else is tried.
	//
	// Default: none.
	NodeNameClaim string `json:"nodeNameClaim,omitempty"`
}

// Basic is a name and a password.
type Basic struct {
	// The name.
	//
	// Required.
	Username string `json:"username,omitempty"`

	// The file that holds the password on one line. It must not be readable by everybody: mode 0600. It is read at each
	// use.
	//
	// Required.
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Exec is a program that prints an ExecCredential of client.authentication.k8s.io/v1
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins). It is run when a
// credential is needed, and again when what it printed has expired or was refused; it cannot ask a person. What it writes
// to standard error is not logged, since it may be a secret. Only programs that are named here are run: one that a
// kubeconfig names is not.
type Exec struct {
	// The program, by its absolute path, and its arguments. No shell is involved. The program must belong to root or to the
	// agent's user, and nobody else may be able to write to it. Everybody can read this file: a secret that the program
	// needs belongs elsewhere.
	//
	// Required.
	Command []string `json:"command,omitempty"`

	// Variables of its environment, beside PATH, HOME and KUBERNETES_EXEC_INFO. Nothing of the agent's own is in it.
	Env []EnvVar `json:"env,omitempty"`

	// How long it may run, at most `24h`; then it is ended.
	//
	// Default: 30s.
	Timeout Duration `json:"timeout,omitempty"`
}

// EnvVar is a variable of a program's environment.
type EnvVar struct {
	// The variable's name.
	//
	// Required.
	Name string `json:"name,omitempty"`

	// Its value.
	Value string `json:"value,omitempty"`
}

// RotateAfter says when a certificate is replaced: at a moment between these two parts of its lifetime, in per cent. The
// moment is drawn at random once for each certificate, so that machines which joined together do not all ask at once,
// and is remembered over restarts.
type RotateAfter struct {
	// The earliest, from 1 to 99.
	//
	// Default: 70.
	MinPercent int `json:"minPercent,omitempty"`

	// The latest, from 1 to 99 and not before `minPercent`.
	//
	// Default: 90.
	MaxPercent int `json:"maxPercent,omitempty"`
}

// Certificate is a certificate that is kept: asked for, checked, written, and replaced in time with a new key.
//
// The built-in ones ask for what the kubelet would, so that `signerName`, `commonName`, `organizations`, `uris`, `usages`
// and `directory` cannot be given for them, and for `kubelet-client`, which carries no names of machines, neither can
// `dnsNames`, `ipAddresses` and `machineNames`. Their files are in `paths.certDir`; those of `kubelet-serving` are called
// kubelet-server, as the kubelet calls them.
type Certificate struct {
	// `kubelet-client`, `kubelet-serving`, or a name of your own: at most 63 lower-case letters, digits and `-`. It names
	// the files, and the certificate in `nodejoin status`, in metrics and under `hooks`. `ca`, `kubeconfig` and
	// `kubelet-server` are taken.
	//
	// Required.
	Name string `json:"name,omitempty"`

	// Who is to sign: the name of a signer in the cluster, DOMAIN/NAME, as in `kubernetes.io/kube-apiserver-client`.
	// Required for a certificate of your own. Somebody must approve its requests; the agent only waits.
	SignerName string `json:"signerName,omitempty"`

	// The subject's common name. A certificate of your own needs this or one of the names below.
	CommonName string `json:"commonName,omitempty"`

	// The subject's organizations, which for a client of the API server are its groups.
	Organizations []string `json:"organizations,omitempty"`

	// The DNS names to certify; `*` may be the first label.
	DNSNames []string `json:"dnsNames,omitempty"`

	// The IP addresses to certify. A `kubelet-serving` with neither `dnsNames` nor `ipAddresses` gets this machine's names
	// and addresses.
	IPAddresses []string `json:"ipAddresses,omitempty"`

	// The URIs to certify, each absolute, as in `spiffe://example.com/metrics`.
	URIs []string `json:"uris,omitempty"`

	// Certify this machine's names and addresses beside those that are listed, and ask for a new certificate when they
	// change.
	//
	// Default: false.
	MachineNames bool `json:"machineNames,omitempty"`

	// What the key is for, in the words of the API: `signing`, `digital signature`, `content commitment`,
	// `key encipherment`, `key agreement`, `data encipherment`, `encipher only`, `decipher only`, `any`, `server auth`,
	// `client auth`, `code signing`, `email protection`, `s/mime`, `ipsec end system`, `ipsec tunnel`, `ipsec user`,
	// `timestamping`, `ocsp signing`, `microsoft sgc`, `netscape sgc`. These are asked for and no others; only of the
	// kubelet's two signers `key encipherment` is asked for, too, where the key is an RSA key, as the kubelet does. For the
	// signer `kubernetes.io/kube-apiserver-client` the default is [digital signature, client auth].
	//
	// Default: [digital signature, server auth].
	Usages []string `json:"usages,omitempty"`

	// For how long to ask; at least `10m`. The signer may give less. With `0` it decides alone.
	//
	// Default: 0.
	Lifetime Duration `json:"lifetime,omitempty"`

	// The kind of key: `ECDSA-P256`, `ECDSA-P384`, `RSA-2048`, `RSA-3072` or `RSA-4096`.
	//
	// Default: ECDSA-P256.
	KeyAlgorithm string `json:"keyAlgorithm,omitempty"`

	// The directory of its files: NAME-current.pem is a link to the newest NAME-TIME.pem, which holds the certificate, its
	// chain and the key. It belongs to root or to the agent's user, and nobody else may be able to write to it. Required for
	// a certificate of your own. The unit of systemd that is shipped takes a drop-in for most places: see `paths`.
	Directory string `json:"directory,omitempty"`

	// A file for a copy of the certificate and its chain, for programs that want certificate and key in two files. Where it
	// may be, and where that takes a drop-in, is as for `directory`.
	//
	// Default: no copy.
	CertificateFile string `json:"certificateFile,omitempty"`

	// A file for a copy of the key.
	//
	// Default: no copy.
	PrivateKeyFile string `json:"privateKeyFile,omitempty"`

	// The user that the files belong to, by name or number. In the sandbox of the unit of systemd that is shipped the agent can
	// give no file to another user or group: that takes the drop-in `owner.conf` of /usr/share/doc/nodejoin/examples/systemd.
	//
	// Default: the agent's user.
	Owner string `json:"owner,omitempty"`

	// The group that the files belong to, by name or number. It takes the same drop-in as `owner`.
	//
	// Default: the agent's group.
	Group string `json:"group,omitempty"`

	// The mode of the files that hold the key, octal and in quotes, as in `"0640"`. The owner must be able to read, the
	// group may, and nobody else.
	//
	// Default: "0600".
	Mode string `json:"mode,omitempty"`
}

// Trust says how the CA bundle at `paths.caFile` is kept up to date when the cluster's CA is rotated. A new bundle is
// believed only from a server that the present one verifies, and not if it would cut this machine off.
type Trust struct {
	// Follow the cluster. With `false` the bundle stays as it is, and somebody else must replace it in time.
	//
	// Default: true.
	Follow *bool `json:"follow,omitempty"`

	// How often to look; at least `1s`.
	//
	// Default: 1h.
	Interval Duration `json:"interval,omitempty"`
}

// Hook is a command that is run after a change. Its output goes to the log. That it fails is reported and undoes
// nothing; the agent runs it again when it starts, until it has succeeded once for the last change.
//
// Nothing of the agent's own environment is in the command's. What changed is told in these variables, of which those
// that are not known are absent:
//
//   - `NODEJOIN_CHANGED`: what has changed, as under `on`, with spaces between;
//   - `NODEJOIN_NODE`: the node's name;
//   - `NODEJOIN_CERTIFICATE`, `NODEJOIN_SERIAL`, `NODEJOIN_NOT_AFTER`: the certificate's file, serial number and end
//     (RFC 3339, UTC);
//   - `NODEJOIN_KUBECONFIG`, `NODEJOIN_CA_FILE`: the paths of the kubeconfig and of the CA bundle.
//
// There is no secret in them.
type Hook struct {
	// A name for it, of at most 63 lower-case letters, digits and `-`.
	//
	// Required.
	Name string `json:"name,omitempty"`

	// After a change of what: names of certificates, `ca` for the CA bundle, `kubeconfig`.
	//
	// Default: any of them.
	On []string `json:"on,omitempty"`

	// The program, by its absolute path, and its arguments. No shell is involved. Everybody can read this file: a secret
	// that the program needs belongs elsewhere. It runs in the agent's sandbox, and writes where the agent may: see `paths`.
	//
	// Required.
	Command []string `json:"command,omitempty"`

	// How long it may run, at most `24h`; then it is ended.
	//
	// Default: 30s.
	Timeout Duration `json:"timeout,omitempty"`
}

// Paths says where files are. They are absolute; `--root` is put before them.
//
// The unit of systemd that is shipped lets the agent, and its hooks, write in /etc/nodejoin, /etc/kubernetes, /var/lib/kubelet,
// /var/lib/nodejoin and /run/nodejoin, and nowhere else. Other places, of these files or of a certificate of your own, take the
// drop-in `directories.conf` of /usr/share/doc/nodejoin/examples/systemd; without it, writing fails with "read-only file system".
type Paths struct {
	// The kubeconfig of the kubelet. It names the CA bundle, the certificate and the key by path.
	//
	// Default: /etc/kubernetes/kubelet.conf.
	Kubeconfig string `json:"kubeconfig,omitempty"`

	// The directory of the kubelet's certificates.
	//
	// Default: /var/lib/kubelet/pki.
	CertDir string `json:"certDir,omitempty"`

	// The CA bundle that verifies the API servers.
	//
	// Default: /etc/kubernetes/pki/ca.crt.
	CAFile string `json:"caFile,omitempty"`

	// The directory of the agent's own files: keys of requests under way, state, lock.
	//
	// Default: /var/lib/nodejoin.
	StateDir string `json:"stateDir,omitempty"`

	// The directory of the socket that `nodejoin status` asks.
	//
	// Default: /run/nodejoin.
	RuntimeDir string `json:"runtimeDir,omitempty"`

	// The kubelet's configuration, which is only read: it says whether the kubelet rotates by itself, and where it expects
	// its serving certificate.
	//
	// Default: /var/lib/kubelet/config.yaml.
	KubeletConfig string `json:"kubeletConfig,omitempty"`
}

// Metrics says where `/metrics` (Prometheus), `/healthz` and `/readyz` are served, over plain HTTP.
type Metrics struct {
	// A loopback address as IP:PORT, or `unix:` and the path of a socket other than nodejoin.sock in `paths.runtimeDir`,
	// which has them, too. `--root` is put before the path. `""` serves them nowhere.
	//
	// Default: 127.0.0.1:10263.
	Listen *string `json:"listen,omitempty"`
}

// Log says how the agent logs.
type Log struct {
	// `text` or `json`.
	//
	// Default: text.
	Format string `json:"format,omitempty"`

	// `debug`, `info`, `warn` or `error`.
	//
	// Default: info.
	Level string `json:"level,omitempty"`
}

// Duration is a [time.Duration] that is written as in `24h` or `1h30m`.
type Duration time.Duration

// String returns the duration as it is written in the file, without parts that are zero at its end.
func (d Duration) String() string {
	if d == 0 {
		return "0"
	}
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText returns the duration as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration, as [time.ParseDuration] does.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%s is not a duration", quote(string(text)))
	}
	*d = Duration(parsed)
	return nil
}
