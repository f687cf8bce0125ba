//go:build unix

package cli

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	testToken = "abcdef.0123456789abcdef"
	testPin   = "sha256:0f9d2c6b8e5a41d7c3b0a9f8e7d6c5b4a3928170f6e5d4c3b2a190817263544f"
	otherPin  = "sha256:1f9d2c6b8e5a41d7c3b0a9f8e7d6c5b4a3928170f6e5d4c3b2a190817263544f"
)

// configured returns what a configuration file and a command line make together.
func configured(t *testing.T, file string, args ...string) (agent.Options, error) {
	t.Helper()
	var p program
	var flags agent.Options
	cmd := &cobra.Command{Use: "run"}
	addJoinFlags(cmd, &flags)
	cmd.Flags().StringVar((*string)(&flags.Rotation), "rotation", "", "")
	cmd.Flags().StringVar(&flags.Listen, "metrics-listen", "", "")
	cmd.Flags().DurationVar(&flags.Timeout, "timeout", agent.DefaultTimeout, "")
	p.addConfigFlags(cmd, &flags)
	if err := cmd.ParseFlags(append(args, "--config", writeConfig(t, file))); err != nil {
		t.Fatal(err)
	}
	servers := cmd.Flags().Args()
	flags.Servers = append(servers, flags.Servers...)
	o, _, err := p.options(cmd, flags, len(servers) != 0)
	return o, err
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsOverrideTheFile(t *testing.T) {
	const (
		usual = `nodeName: a
credentials: [{bootstrapToken: {file: /t, singleUse: true}}]
rotation: kubelet
certificates: [{name: kubelet-client, keyAlgorithm: RSA-2048, lifetime: 1h}, {name: kubelet-serving, ipAddresses: [192.0.2.1]}]
paths: {kubeconfig: /k, certDir: /c, caFile: /ca, stateDir: /s, runtimeDir: /r}
metrics: {listen: "unix:/m"}
`
		pinned  = "cluster: {servers: [s], tlsServerName: n, proxyURL: \"http://p\", caCertHashes: [\"" + testPin + "\"]}\n"
		byCA    = "cluster: {servers: [s], certificateAuthority: /a}\n"
		skipped = "cluster: {servers: [s], unsafeSkipCAVerification: true}\n"
		byFile  = "cluster: {discoveryFile: /d}\n"
	)
	type options = agent.Options
	for _, test := range []struct {
		name   string
		file   string
		args   []string
		change func(o *options) // of what the file alone makes
	}{
		{"no flags", usual + pinned, nil, func(*options) {}},
		{"node", usual, []string{"--node-name", "b"}, func(o *options) { o.NodeName = "b" }},
		{"this host's name", usual, []string{"--node-name="}, func(o *options) { o.NodeName = "" }},
		{"token", usual, []string{"--token", testToken}, func(o *options) { o.Token = testToken }},
		{"token file", usual, []string{"--token-file", "/u", "--token-single-use"}, func(o *options) { o.TokenFile, o.TokenSingleUse = "/u", true }},
		{"tokens", usual, []string{"--discovery-token", "d", "--tls-bootstrap-token", "b"}, func(o *options) { o.DiscoveryToken, o.TLSBootstrapToken = "d", "b" }},
		{"servers", usual + pinned, []string{"--server", "x", "--server", "y"}, func(o *options) { o.Servers = []string{"x", "y"} }},
		{"a server as an argument", usual + pinned, []string{"z", "--server", "x"}, func(o *options) { o.Servers = []string{"z", "x"} }},
		{"the way there", usual + pinned, []string{"--tls-server-name", "m", "--proxy-url", "http://q"}, func(o *options) { o.TLSServerName, o.ProxyURL = "m", "http://q" }},
		{"a server in the place of a file", usual + byFile, []string{"z"}, func(o *options) { o.Servers, o.DiscoveryFile = []string{"z"}, "" }},
		{"a file in the place of hashes", usual + pinned, []string{"--discovery-file", "/e"}, func(o *options) { o.Servers, o.CACertHashes, o.DiscoveryFile = nil, nil, "/e" }},
		{"a file in the place of a CA", usual + byCA, []string{"--discovery-file", "/e"}, func(o *options) { o.Servers, o.CertificateAuthority, o.DiscoveryFile = nil, "", "/e" }},
		{"a file in the place of faith", usual + skipped, []string{"--discovery-file", "/e"}, func(o *options) { o.Servers, o.SkipCAVerification, o.DiscoveryFile = nil, false, "/e" }},
		{"hashes in the place of hashes", usual + pinned, []string{"--discovery-token-ca-cert-hash", otherPin}, func(o *options) { o.CACertHashes = []string{otherPin} }},
		{"hashes in the place of a CA", usual + byCA, []string{"--discovery-token-ca-cert-hash", otherPin}, func(o *options) { o.CertificateAuthority, o.CACertHashes = "", []string{otherPin} }},
		{"hashes in the place of a file", usual + byFile, []string{"--discovery-token-ca-cert-hash", otherPin}, func(o *options) { o.DiscoveryFile, o.CACertHashes = "", []string{otherPin} }},
		{"a CA in the place of hashes", usual + pinned, []string{"--certificate-authority", "/b"}, func(o *options) { o.CACertHashes, o.CertificateAuthority = nil, "/b" }},
		{"faith in the place of hashes", usual + pinned, []string{"--discovery-token-unsafe-skip-ca-verification"}, func(o *options) { o.CACertHashes, o.SkipCAVerification = nil, true }},
		{"what excludes each other as flags", usual, []string{"--discovery-file", "/e", "--server", "x"}, func(o *options) { o.Servers, o.DiscoveryFile = []string{"x"}, "/e" }},
		{"the request", usual, []string{"--key-algorithm", "ECDSA-P384", "--lifetime", "2h"}, func(o *options) { o.KeyAlgorithm, o.Lifetime = "ECDSA-P384", 2*time.Hour }},
		{"the daemon", usual, []string{"--rotation", "agent", "--metrics-listen", "[::1]:1"}, func(o *options) { o.Rotation, o.Listen = agent.RotationAgent, "[::1]:1" }},
		{"no metrics", usual, []string{"--metrics-listen="}, func(o *options) { o.Listen = "" }},
		{"patience", usual, []string{"--timeout", "1m"}, func(o *options) { o.Timeout = time.Minute }},
		{"paths", usual, []string{"--kubeconfig", "/1", "--ca-file", "/2", "--state-dir", "/3", "--runtime-dir", "/4"}, func(o *options) {
			o.Kubeconfig, o.CAFile, o.StateDir, o.RuntimeDir = "/1", "/2", "/3", "/4"
		}},
		{"the serving certificate is beside the client's", usual, []string{"--cert-dir", "/x"}, func(o *options) { o.CertDir, o.Certificates[0].Place.Dir = "/x", "/x" }},
		{"a prefix", usual, []string{"--root", "/x"}, func(o *options) { o.Root, o.Listen = "/x", "unix:/x/m" }},
		{"a flag that says what is the default", usual, []string{"--kubeconfig", agent.DefaultKubeconfig}, func(o *options) { o.Kubeconfig = agent.DefaultKubeconfig }},
	} {
		t.Run(test.name, func(t *testing.T) {
			want, err := configured(t, test.file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := configured(t, test.file, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			test.change(&want)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(agent.Options{}, "ConfigFile"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestMetricsHaveASocketOfTheirOwn(t *testing.T) {
	for _, args := range [][]string{{"--metrics-listen", "unix:/run/nodejoin/nodejoin.sock"}, {"--runtime-dir", "/m/"}} {
		_, err := configured(t, "metrics: {listen: \"unix:/m/nodejoin.sock\"}\n", args...)
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "is the socket that nodejoin status asks") {
			t.Errorf("%q: the error is %v", args, err)
		}
	}
}

func TestFilesAreNamedFromAnywhere(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	const url = "https://example.com/cluster.yaml"
	for _, test := range []struct{ given, want string }{
		{"a", filepath.Join(dir, "a")},
		{"./a/../b", filepath.Join(dir, "b")},
		{"../a", filepath.Join(filepath.Dir(dir), "a")},
		{"/a", "/a"},
		{"-", "-"},
		{"", ""},
		{url, url},
		{testToken, testToken}, // in the wrong place: it is looked for there
	} {
		for flag, value := range map[string]func(o agent.Options) string{
			"--token-file":            func(o agent.Options) string { return o.TokenFile },
			"--discovery-file":        func(o agent.Options) string { return o.DiscoveryFile },
			"--certificate-authority": func(o agent.Options) string { return o.CertificateAuthority },
		} {
			o, err := configured(t, "", flag, test.given)
			if got := value(o); err != nil || got != test.want {
				t.Errorf("%s %s is %q, %v, want %q", flag, test.given, got, err, test.want)
			}
		}
	}
}

// output is a buffer that is written to and read at the same time.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// A file that is named from where the agent was started is watched as every other.
func TestRunWatchesRelativePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"c.yaml": "metrics: {listen: \"\"}\n", "token": testToken} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log output
	ended := make(chan int, 1)
	go func() {
		ended <- Main([]string{"run", "--config", "c.yaml", "--token-file", "./token", "--root", t.TempDir(), "--node-name", "a"}, strings.NewReader(""), &log, &log)
	}()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "the agent runs"); {
		select {
		case status := <-ended:
			t.Fatalf("it ended with %d:\n%s", status, log.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not run:\n%s", log.String())
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := <-ended; status != 0 || strings.Contains(log.String(), "there are no events") {
		t.Errorf("it ended with %d:\n%s", status, log.String())
	}
}

// What a person typed is what a person reads.
func TestMistakesAreToldWithTheNameAsTyped(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("c.yaml", []byte("rotation: both\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "validate", "c.yaml"}, {"config", "validate", "--config", "c.yaml"}, {"join", "--config", "c.yaml"}, {"run", "--config", "c.yaml"}} {
		var stdout, stderr bytes.Buffer
		status := Main(args, strings.NewReader(""), &stdout, &stderr)
		if want := "nodejoin: c.yaml:1: rotation: \"both\" is not one of agent, kubelet\n"; status != 2 || !strings.HasPrefix(stderr.String(), want) {
			t.Errorf("%q: status %d, %q", args, status, stderr.String())
		}
	}
}

// What the agent would refuse at its first request is refused when the file is checked.
func TestValidateChecksTemplates(t *testing.T) {
	path := writeConfig(t, "certificates:\n- name: a\n  signerName: example.com/a\n  directory: /a\n  commonName: a\n  organizations: [system:masters]\n")
	var stdout, stderr bytes.Buffer
	status := Main([]string{"config", "validate", path}, strings.NewReader(""), &stdout, &stderr)
	if want := path + `:6: certificates[0].organizations[0]: the organization "system:masters" is above all authorization`; status != 2 || !strings.Contains(stderr.String(), want) {
		t.Errorf("status %d, %q%q", status, stdout.String(), stderr.String())
	}
}
