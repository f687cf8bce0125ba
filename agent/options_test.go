package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

const (
	someToken  = "abcdef.0123456789abcdef"
	otherToken = "ghijkl.0123456789abcdef"
)

var somePin = "sha256:" + strings.Repeat("0", 64)

// options returns options for a machine whose files are in a directory of the test.
func options(t *testing.T, change func(*Options)) Options {
	t.Helper()
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	o := Options{NodeName: "node", Root: t.TempDir()}
	change(&o)
	return o
}

func TestOptionsConflict(t *testing.T) {
	for _, test := range []struct {
		want   string
		change func(*Options)
	}{
		{"--token and --token-file", func(o *Options) { o.Token, o.TokenFile = someToken, "-" }},
		{"--bundle and a bootstrap token", func(o *Options) { o.Bundle, o.Token = "f", someToken }},
		{"--bundle and another credential", func(o *Options) { o.Bundle, o.BearerTokenFile = "f", "t" }},
		{"--bundle and another credential", func(o *Options) { o.Bundle, o.ClientCertificate = "f", "c" }},
		{"a bootstrap token and another credential", func(o *Options) { o.TokenFile, o.BearerTokenFile = "f", "t" }},
		{"a bootstrap token and another credential", func(o *Options) { o.TLSBootstrapToken, o.ClientCertificate = someToken, "c" }},
		{"--bearer-token-file and --client-certificate", func(o *Options) { o.BearerTokenFile, o.ClientCertificate = "t", "c" }},
		{"--bundle and --discovery-file", func(o *Options) { o.Bundle, o.DiscoveryFile = "f", "d" }},
		{"--bundle and an API server", func(o *Options) { o.Bundle, o.Servers = "f", []string{"api"} }},
		{"--bundle and --discovery-token-ca-cert-hash", func(o *Options) { o.Bundle, o.CACertHashes = "f", []string{somePin} }},
		{"--bundle and --certificate-authority", func(o *Options) { o.Bundle, o.CertificateAuthority = "f", "ca" }},
		{"--token-file - and --token-single-use", func(o *Options) { o.TokenFile, o.TokenSingleUse = "-", true }},
		{"--token and --token-single-use", func(o *Options) { o.Token, o.TokenSingleUse = someToken, true }},
		{"--discovery-file and an API server", func(o *Options) { o.DiscoveryFile, o.Servers = "f", []string{"api"} }},
		{"--discovery-file and --discovery-token-ca-cert-hash", func(o *Options) { o.DiscoveryFile, o.CACertHashes = "f", []string{somePin} }},
		{"--discovery-file and --discovery-token-unsafe-skip-ca-verification", func(o *Options) { o.DiscoveryFile, o.SkipCAVerification = "f", true }},
		{"--discovery-file and --certificate-authority", func(o *Options) { o.DiscoveryFile, o.CertificateAuthority = "f", "ca" }},
		{"--certificate-authority and --discovery-token-ca-cert-hash", func(o *Options) { o.CertificateAuthority, o.CACertHashes = "ca", []string{somePin} }},
		{"--certificate-authority and --discovery-token-unsafe-skip-ca-verification", func(o *Options) { o.CertificateAuthority, o.SkipCAVerification = "ca", true }},
		{"--discovery-token-ca-cert-hash and --discovery-token-unsafe-skip-ca-verification", func(o *Options) { o.CACertHashes, o.SkipCAVerification = []string{somePin}, true }},
	} {
		t.Run(test.want, func(t *testing.T) {
			_, err := options(t, test.change).Config()
			if fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" {
				t.Errorf("class %d, remedy %q", fault.ClassOf(err), fault.Remedy(err))
			}
			if want := test.want + " exclude each other"; err == nil || err.Error() != want {
				t.Errorf("%v instead of %s", err, want)
			}
		})
	}
}

func TestOptionsDefaults(t *testing.T) {
	config, err := options(t, func(o *Options) { o.Root = "" }).Config()
	if err != nil {
		t.Fatal(err)
	}
	if config.timeout != 15*time.Minute || config.algorithm != "ECDSA-P256" || config.lifetime != 0 || config.force || config.accesses()[0].usedUp != "" {
		t.Errorf("%+v", config)
	}
	p := config.paths
	if p.Kubeconfig != DefaultKubeconfig || p.CertDir != DefaultCertDir || p.CAFile != DefaultCAFile || p.StateDir != DefaultStateDir || p.Root != "/" {
		t.Errorf("%+v", p)
	}
}

// A machine that has joined needs neither a server nor a token, so that they are missing is told when they are needed.
func TestOptionsMissing(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string // "": nothing is missing
	}{
		{"everything", func(*Options) {}, "there is no API server to join"},
		{"the token", func(o *Options) { o.Servers, o.CACertHashes = []string{"api"}, []string{somePin} }, "there is no credential"},
		{"the token's file", func(o *Options) {
			o.Servers, o.CACertHashes, o.TokenFile = []string{"api"}, []string{somePin}, "/no/such/file"
		}, "cannot read the token"},
		{"the token that authenticates", func(o *Options) { o.Servers, o.DiscoveryToken, o.SkipCAVerification = []string{"api"}, someToken, true }, "there is no credential"},
		{"the token that discovers", func(o *Options) {
			o.Servers, o.TLSBootstrapToken, o.SkipCAVerification = []string{"api"}, someToken, true
		}, "there is no credential"},
		{"the server", func(o *Options) { o.Token = someToken }, "there is no API server to join"},
		{"nothing", func(o *Options) { o.Servers, o.Token, o.CACertHashes = []string{"api"}, someToken, []string{somePin} }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := options(t, test.change).Config()
			if err != nil {
				t.Fatal(err)
			}
			switch err := config.accesses()[0].missing(); {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == ""):
				t.Errorf("%v (class %d, remedy %q), which lacks %q", err, fault.ClassOf(err), fault.Remedy(err), test.want)
			}
		})
	}
}

func TestOptionsTokens(t *testing.T) {
	write := func(t *testing.T, path, token string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	credentials := t.TempDir()
	write(t, filepath.Join(credentials, "token"), otherToken)
	for _, test := range []struct {
		name       string
		fallback   string // in DefaultTokenFile
		systemd    bool
		change     func(*Options)
		credential string // "": none
		discovery  string // ID of the token that verifies cluster-info
	}{
		{"the default file", someToken, false, func(*Options) {}, "the bootstrap token abcdef", "abcdef"},
		{"systemd's before it", someToken, true, func(*Options) {}, "the bootstrap token ghijkl", "ghijkl"},
		{"the flag before both", "", true, func(o *Options) { o.Token = someToken }, "the bootstrap token abcdef", "abcdef"},
		{"standard input", "", false, func(o *Options) { o.TokenFile, o.Stdin = "-", strings.NewReader(otherToken+"\n") }, "the bootstrap token ghijkl", "ghijkl"},
		{"one to discover, one to authenticate", "", false, func(o *Options) { o.DiscoveryToken, o.TLSBootstrapToken = someToken, otherToken }, "the bootstrap token ghijkl", "abcdef"},
		{"both, so no file is looked for", "garbage", false, func(o *Options) { o.DiscoveryToken, o.TLSBootstrapToken = someToken, otherToken }, "the bootstrap token ghijkl", "abcdef"},
		{"one for both and one of its own", "", false, func(o *Options) { o.Token, o.TLSBootstrapToken = someToken, otherToken }, "the bootstrap token ghijkl", "abcdef"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(t, test.change)
			o.Servers, o.SkipCAVerification = []string{"api"}, true
			if test.fallback != "" {
				write(t, filepath.Join(o.Root, DefaultTokenFile), test.fallback)
			}
			if test.systemd {
				t.Setenv("CREDENTIALS_DIRECTORY", credentials)
			}
			config, err := o.Config()
			if err != nil {
				t.Fatal(err)
			}
			if config.accesses()[0].credential.String() != test.credential {
				t.Errorf("%s instead of %s", config.accesses()[0].credential, test.credential)
			}
			if d, ok := config.accesses()[0].discovery.(*bootstrap.ByToken); !ok || d.Token.ID != test.discovery {
				t.Errorf("discovery by %+v instead of the token %s", config.accesses()[0].discovery, test.discovery)
			}
		})
	}
}

// A program that systemd has not started sees the service's own token, and none of this machine's service for another's tree.
func TestTokenOfTheService(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(otherToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string // "": none
	}{
		{"of this machine", func(o *Options) { o.Root = "" }, "the bootstrap token ghijkl"},
		{"of this machine, by the configuration", func(o *Options) {
			o.Root, o.Credentials = "", []config.Credential{{BootstrapToken: &config.BootstrapToken{}}}
		}, "the bootstrap token ghijkl"},
		{"another machine's tree", func(*Options) {}, ""},
		{"a file that was named", func(o *Options) { o.Root, o.TokenFile = "", "/nowhere/token" }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(t, test.change)
			o.Servers, o.SkipCAVerification = []string{"api"}, true
			c, err := o.Config()
			if err != nil {
				t.Fatal(err)
			}
			if x := c.accesses()[0]; x.credential != nil && !exists(DefaultTokenFile) {
				t.Errorf("the agent itself has %s", x.credential)
			}
			x := c.seenFromOutside(dir).accesses()[0]
			got := ""
			if x.credential != nil {
				got = x.credential.String()
			}
			if got != test.want {
				t.Errorf("the credential is %q instead of %q", got, test.want)
			}
			if lacks := test.name == "another machine's tree"; x.lacksUsual() != lacks {
				t.Errorf("a token is lacking where one usually is: %t", !lacks)
			}
		})
	}
}

// The doctor has the service's token for the credential, and looks at the file of it.
func TestDoctorSeesTheTokenOfTheService(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(otherToken), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, func(o *Options) {
		in := func(name string) string { return filepath.Join(dir, name) }
		o.Root, o.Kubeconfig, o.CertDir, o.CAFile, o.StateDir, o.RuntimeDir, o.KubeletConfig = "", in("kubelet.conf"), in("pki"), in("ca.crt"), in("state"), in("run"), in("kubelet.yaml")
		o.Servers, o.SkipCAVerification = []string{"127.0.0.1:1"}, true
	})
	c, err := o.Config()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range examine(t.Context(), c.seenFromOutside(dir), nil).Findings {
		found = append(found, f.Check+": "+f.Text)
	}
	text := strings.Join(found, "\n")
	for _, want := range []string{"credential: there is the bootstrap token ghijkl", "files: owners and modes are in order"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}
