package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/nodejoin/nodejoin/agent/cmd/cli"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// A token whose secret must not be seen, and a pin that is well formed.
const (
	badID     = "abcdef"
	badSecret = "0123456789abcdef"
	badToken  = badID + "." + badSecret
)

// A CA certificate of the year 2000.
const expiredCA = `-----BEGIN CERTIFICATE-----
MIIBVDCB+6ADAgECAgEBMAoGCCqGSM49BAMCMBIxEDAOBgNVBAMTB2V4cGlyZWQw
HhcNMDAwMTAxMDAwMDAwWhcNMDEwMTAxMDAwMDAwWjASMRAwDgYDVQQDEwdleHBp
cmVkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEifWBMv5A9oaJ4DOwgx48k3G/
Qfo7lWGc54FyZaQTgIPYeo4rFiuJY6eSjIoAybMaDE0es+Ich10s2Q0cbzekOKNC
MEAwDgYDVR0PAQH/BAQDAgIEMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFOak
+76VHbQ8zS+UP1FRny9hTULUMAoGCCqGSM49BAMCA0gAMEUCIQDBiXQhSpTSXvLw
V/Jw2ZaHjsDll6BdylxbJ7SdTiffagIgCk/COmnAoJzXhLVgQlM9fGEJPEG131UT
aQXeHHhjn9o=
-----END CERTIFICATE-----
`

var anyPin = "sha256:" + strings.Repeat("0", 64)

// refusal is input that cannot be right.
type refusal struct {
	name   string
	args   []string // after "join"
	stdin  string
	cause  string // part of the line that says what is wrong
	remedy string // part of the line that says what to do
}

// run runs the program in this process. What it says is compared with what was wanted, and nothing may be written below
// root or next to the input.
func (r refusal) run(t *testing.T, code int, dirs ...string) {
	t.Helper()
	var before []map[string]string
	for _, dir := range dirs {
		before = append(before, snapshot(t, dir))
	}
	var stdout, stderr bytes.Buffer
	got := cli.Main(r.args, strings.NewReader(r.stdin), &stdout, &stderr)
	t.Log(stderr.String())
	if got != code {
		t.Errorf("exit status %d instead of %d", got, code)
	}
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	if len(lines) < 2 {
		t.Fatalf("no cause and remedy in %q", stderr.String())
	}
	if code == 2 && len(lines) != 2 {
		t.Errorf("%d lines instead of two: %q", len(lines), stderr.String())
	}
	cause, remedy := lines[len(lines)-2], lines[len(lines)-1]
	if !strings.HasPrefix(cause, "nodejoin: ") || !strings.Contains(cause, r.cause) {
		t.Errorf("the cause is told as %q, which lacks %q", cause, r.cause)
	}
	if !strings.HasPrefix(remedy, "  remedy: ") || !strings.Contains(remedy, r.remedy) {
		t.Errorf("the remedy is told as %q, which lacks %q", remedy, r.remedy)
	}
	if stdout.Len() != 0 {
		t.Errorf("standard output has %q", stdout.String())
	}
	if strings.Contains(strings.ToLower(stderr.String()), badSecret) {
		t.Errorf("the token's secret is told: %q", stderr.String())
	}
	for i, dir := range dirs {
		if changes := difference(before[i], snapshot(t, dir)); len(changes) != 0 {
			t.Errorf("written: %q", changes)
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	taken, err := snapshotOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// input makes the files of a table.
type input struct {
	t   *testing.T
	dir string
	n   int
}

func (in *input) file(content string, mode os.FileMode) string {
	in.t.Helper()
	in.n++
	path := filepath.Join(in.dir, fmt.Sprint(in.n))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		in.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		in.t.Fatal(err)
	}
	return path
}

// It runs the program in this process, and so before the tests that go on in the background: client-go's log is everybody's.
func TestBadInput(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	root, in := t.TempDir(), &input{t: t, dir: t.TempDir()}
	ca, err := testbed.NewCA(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]refusal{
		"flags":          flagRefusals(),
		"token":          tokenRefusals(in),
		"node name":      nodeNameRefusals(),
		"endpoint":       endpointRefusals(),
		"pin":            pinRefusals(),
		"CA file":        caRefusals(t, in, ca),
		"discovery file": discoveryFileRefusals(in, ca),
	}
	for name, table := range tables {
		t.Run(name, func(t *testing.T) {
			for _, row := range table {
				t.Run(row.name, func(t *testing.T) {
					row.args = append([]string{"join", "--root", root, "--timeout", "5s"}, row.args...)
					row.run(t, 2, root, in.dir)
				})
			}
		})
	}
	t.Run("command", func(t *testing.T) {
		for _, row := range []refusal{
			{name: "unknown", args: []string{"jion"}, cause: `unknown command "jion"`, remedy: "see: nodejoin --help"},
			{name: "a token", args: []string{badToken}, cause: `unknown command "abcdef.[redacted]"`, remedy: "see: nodejoin --help"},
			{name: "join forgotten", args: []string{"--token", badToken}, cause: "unknown flag: --token", remedy: "see: nodejoin --help"},
			{name: "unknown output", args: []string{"version", "-o", "xml"}, cause: `the output format "xml" is not known`, remedy: "choose text, json or yaml"},
			{name: "unknown log format", args: []string{"version", "--log-format", "xml"}, cause: `the log format "xml" is not known`, remedy: "choose text or json"},
		} {
			t.Run(row.name, func(t *testing.T) { row.run(t, 2, root) })
		}
	})
}

// joinWith is a command line that is right but for what is added to it.
func joinWith(more ...string) []string {
	return append([]string{"127.0.0.1:1", "--token", badToken, "--discovery-token-ca-cert-hash", anyPin, "--node-name", "node"}, more...)
}

func flagRefusals() []refusal {
	const help = "see: nodejoin join --help"
	const leave = "leave one of them out"
	return []refusal{
		{name: "unknown", args: joinWith("--no-such-flag"), cause: "unknown flag: --no-such-flag", remedy: help},
		{name: "unknown, with a secret", args: joinWith("--tokne=" + badToken), cause: "unknown flag: --tokne", remedy: help},
		{name: "unknown letter", args: joinWith("-x"), cause: "unknown shorthand flag", remedy: help},
		{name: "without its value", args: joinWith("--server"), cause: "flag needs an argument: --server", remedy: help},
		{name: "two API servers without a flag", args: joinWith("127.0.0.1:2"), cause: "there are 2 arguments instead of one HOST:PORT", remedy: "give each further API server with --server"},
		{name: "time-out negative", args: joinWith("--timeout", "-1s"), cause: "the time-out -1s is negative", remedy: "give a time above zero"},
		{name: "time-out zero", args: joinWith("--timeout", "0"), cause: "the time-out is zero", remedy: "give a time above zero"},
		{name: "time-out overflows", args: joinWith("--timeout", "9999999h"), cause: "--timeout", remedy: help},
		{name: "time-out a token", args: joinWith("--timeout", badToken), cause: "--timeout", remedy: help},
		{name: "time-out no time", args: joinWith("--timeout", "soon"), cause: "--timeout", remedy: help},
		{name: "lifetime negative", args: joinWith("--lifetime", "-1h"), cause: "shorter than the API allows", remedy: "ask for 10m or more"},
		{name: "lifetime short", args: joinWith("--lifetime", "9m59s"), cause: "the lifetime 9m59s is shorter than the API allows (10m0s)", remedy: "ask for 10m or more"},
		{name: "lifetime beyond the API's", args: joinWith("--lifetime", "600000h"), cause: "longer than the API allows", remedy: "ask for less"},
		{name: "key algorithm", args: joinWith("--key-algorithm", "DSA"), cause: `the key algorithm "DSA" is not known`, remedy: "choose one of ECDSA-P256, ECDSA-P384, RSA-2048, RSA-3072, RSA-4096"},
		{name: "relative path", args: joinWith("--kubeconfig", "kubelet.conf"), cause: `--kubeconfig is the relative path "kubelet.conf"`, remedy: "give an absolute path"},
		{name: "proxy", args: joinWith("--proxy-url", "proxy:3128"), cause: "the proxy's URL is not one", remedy: "http://HOST:PORT"},
		{name: "TLS server name", args: joinWith("--tls-server-name", "a name"), cause: `the TLS server name "a name" is not a DNS name`, remedy: "give the DNS name that the API server's certificate carries"},
		{name: "token twice", args: joinWith("--token-file", "-"), cause: "--token and --token-file exclude each other", remedy: leave},
		{name: "single use of no file", args: joinWith("--token-single-use"), cause: "--token and --token-single-use exclude each other", remedy: leave},
		{name: "pin and no pin", args: joinWith("--discovery-token-unsafe-skip-ca-verification"), cause: "exclude each other", remedy: leave},
		{name: "pin and CA", args: joinWith("--certificate-authority", "ca.crt"), cause: "--certificate-authority and --discovery-token-ca-cert-hash exclude each other", remedy: leave},
		{name: "file and server", args: joinWith("--discovery-file", "cluster.yaml"), cause: "--discovery-file and an API server exclude each other", remedy: leave},
		{name: "no server", args: []string{"--token", badToken, "--discovery-token-ca-cert-hash", anyPin}, cause: "there is no API server to join", remedy: "kubeadm token create --print-join-command"},
	}
}

func tokenRefusals(in *input) []refusal {
	var table []refusal
	for _, mistake := range []struct{ name, token, cause string }{
		{"upper case", strings.ToUpper(badToken), "has upper-case letters"},
		{"white space inside", badID + ". " + badSecret, "has white space in it"},
		{"white space before", " " + badToken, "has white space in it"},
		{"line break inside", badToken + "\n" + badToken, "has white space in it"},
		{"two final newlines", badToken + "\n\n", "has white space in it"},
		{"no dot", badID + badSecret, "has no dot"},
		{"ID too short", badToken[1:], "is not of the form ID.SECRET with 6 and 16 characters (found 5 and 16)"},
		{"secret too long", badToken + "0", "is not of the form ID.SECRET with 6 and 16 characters (found 6 and 17)"},
		{"other characters", "abc-ef." + badSecret, "has characters other than a-z and 0-9"},
		{"NUL", "abc\x00ef." + badSecret, "has characters other than a-z and 0-9"},
	} {
		table = append(table,
			refusal{name: mistake.name, args: []string{"127.0.0.1:1", "--token", mistake.token}, cause: "the bootstrap token " + mistake.cause, remedy: "kubeadm token create"},
			refusal{name: mistake.name + ", discovery", args: []string{"127.0.0.1:1", "--discovery-token", mistake.token}, cause: "the bootstrap token " + mistake.cause, remedy: "kubeadm token create"},
			refusal{name: mistake.name + ", authentication", args: []string{"127.0.0.1:1", "--tls-bootstrap-token", mistake.token}, cause: "the bootstrap token " + mistake.cause, remedy: "kubeadm token create"},
			refusal{name: mistake.name + ", in a file", args: []string{"127.0.0.1:1", "--token-file", in.file(mistake.token, 0o600)}, cause: mistake.cause, remedy: "kubeadm token create"},
			refusal{name: mistake.name + ", on standard input", args: []string{"127.0.0.1:1", "--token-file", "-"}, stdin: mistake.token, cause: "standard input: the bootstrap token " + mistake.cause, remedy: "kubeadm token create"})
	}
	empty, open, large := in.file("", 0o600), in.file(badToken, 0o644), in.file(strings.Repeat(badSecret, 1<<13), 0o600)
	return append(table,
		refusal{name: "missing file", args: []string{"127.0.0.1:1", "--token-file", "/no/such/token"}, cause: "open /no/such/token: no such file or directory", remedy: "write the token to that file with mode 0600"},
		refusal{name: "empty file", args: []string{"127.0.0.1:1", "--token-file", empty}, cause: empty + ": the bootstrap token is empty", remedy: "kubeadm token create"},
		refusal{name: "file readable by others", args: []string{"127.0.0.1:1", "--token-file", open}, cause: open + " holds a secret and is open to every user of this machine (mode 0644)", remedy: "chmod 0600 " + open},
		refusal{name: "directory", args: []string{"127.0.0.1:1", "--token-file", in.dir}, cause: in.dir + " is a directory", remedy: "write the token to that file with mode 0600"},
		refusal{name: "large file", args: []string{"127.0.0.1:1", "--token-file", large}, cause: large + " is larger than 65536 bytes", remedy: "write the token to that file with mode 0600"},
	)
}

func nodeNameRefusals() []refusal {
	var table []refusal
	for _, name := range []string{"node_1", "a/b", "..", "a..b", "-a", "a-", "ä", "a b", strings.Repeat("a", 254), "node\x00"} {
		table = append(table, refusal{name: name[:min(len(name), 10)], args: []string{"127.0.0.1:1", "--node-name", name}, cause: "is not a valid DNS subdomain (RFC 1123)", remedy: "--node-name"})
	}
	return append(table,
		refusal{name: "white space", args: []string{"127.0.0.1:1", "--node-name", " "}, cause: "the node name is empty", remedy: "--node-name"},
		refusal{name: "user name", args: []string{"127.0.0.1:1", "--node-name", "system:node:a"}, cause: `the node name "system:node:a" is a user name`, remedy: "without system:node:"},
	)
}

func endpointRefusals() []refusal {
	var table []refusal
	for _, mistake := range []struct{ endpoint, cause string }{
		{"http://api.example.com:6443", "is not an https URL"},
		{"https://admin:" + badSecret + "@api.example.com", "has user information in it"},
		{"admin:" + badSecret + "@api.example.com:6443", "has user information in it"},
		{"https://api.example.com/path", "has a path"},
		{"api.example.com/path", "no valid host name or IP address"},
		{"https://api.example.com?a=b", "has a path"},
		{"https://%zz", "cannot be parsed"},
		{"api.example.com:0", `has the port "0"`},
		{"api.example.com:70000", `has the port "70000"`},
		{"api.example.com:https", `has the port "https"`},
		{"api.example.com:", `has the port ""`},
		{":6443", "no valid host name or IP address"},
		{"a_b:6443", "no valid host name or IP address"},
		{"a b:6443", "no valid host name or IP address"},
		{badToken, "a bootstrap token stands in the place of the API server"},
	} {
		table = append(table,
			refusal{name: mistake.endpoint, args: []string{mistake.endpoint, "--token", badToken}, cause: mistake.cause, remedy: "HOST:PORT"},
			refusal{name: "second " + mistake.endpoint, args: []string{"127.0.0.1:1", "--token", badToken, "--server", mistake.endpoint}, cause: mistake.cause, remedy: "HOST:PORT"})
	}
	return table
}

func pinRefusals() []refusal {
	var table []refusal
	for _, mistake := range []struct{ name, pin, cause string }{
		{"short", anyPin[:len(anyPin)-1], "hexadecimal digits instead of 64"},
		{"too short", anyPin[:len(anyPin)-2], "has 62 hexadecimal digits instead of 64"},
		{"too long", anyPin + "00", "has 66 hexadecimal digits instead of 64"},
		{"not hexadecimal", anyPin[:len(anyPin)-1] + "g", "is not hexadecimal"},
		{"another hash", "sha512:" + strings.Repeat("0", 128), `is of kind "sha512": only "sha256" is known`},
		{"no kind", strings.Repeat("0", 64), `does not begin with "sha256:"`},
		{"a token", badToken, `does not begin with "sha256:"`},
	} {
		table = append(table, refusal{
			name: mistake.name, args: []string{"127.0.0.1:1", "--token", badToken, "--discovery-token-ca-cert-hash", mistake.pin},
			cause: mistake.cause, remedy: "openssl x509 -in /etc/kubernetes/pki/ca.crt",
		})
	}
	return table
}

func caRefusals(t *testing.T, in *input, ca *testbed.CA) []refusal {
	t.Helper()
	leaf, key, err := ca.Issue(testbed.Certificate{CommonName: "leaf"})
	if err != nil {
		t.Fatal(err)
	}
	text := string(ca.PEM)
	var table []refusal
	for _, mistake := range []struct{ name, content, cause string }{
		{"empty", "", "there is no PEM-encoded certificate in the CA bundle"},
		{"no PEM", "hello\n", "there is no PEM-encoded certificate in the CA bundle"},
		{"a key beside it", text + string(key), "entry 2 of the CA bundle: it is a private key"},
		{"a leaf", string(leaf), `the certificate "CN=leaf" is not a CA certificate`},
		{"expired", expiredCA, `the CA certificate "CN=expired" expired at 2001-01-01T00:00:00Z`},
		{"cut off", text[:len(text)-40], "an entry of the CA bundle is damaged or cut off"},
		{"a thousand", strings.Repeat(text, 1000), "the CA bundle has 1000 entries"},
		{"damaged", strings.Replace(text, "MII", "MIA", 1), "entry 1 of the CA bundle: x509:"},
	} {
		path := in.file(mistake.content, 0o644)
		table = append(table, refusal{
			name: mistake.name, args: []string{"127.0.0.1:1", "--token", badToken, "--certificate-authority", path},
			cause: mistake.cause, remedy: "/etc/kubernetes/pki/ca.crt",
		})
	}
	return append(table,
		refusal{name: "missing", args: []string{"127.0.0.1:1", "--token", badToken, "--certificate-authority", "/no/such/ca.crt"}, cause: "open /no/such/ca.crt: no such file or directory", remedy: "copy the cluster's CA certificate"},
		refusal{name: "directory", args: []string{"127.0.0.1:1", "--token", badToken, "--certificate-authority", in.dir}, cause: "is a directory", remedy: "copy the cluster's CA certificate"},
	)
}

// discoveryFile returns a kubeconfig with the given server and CA, and more of the cluster's entry and of the file.
func discoveryFile(server string, ca []byte, cluster, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: mine\n  cluster:\n    server: %s\n    certificate-authority-data: %s\n%s%s",
		server, base64.StdEncoding.EncodeToString(ca), cluster, more)
}

func discoveryFileRefusals(in *input, ca *testbed.CA) []refusal {
	good := discoveryFile("https://127.0.0.1:1", ca.PEM, "", "")
	user := func(fields string) string {
		return good + "users:\n- name: joiner\n  user:\n    " + fields + "\n"
	}
	var table []refusal
	for _, mistake := range []struct{ name, content, cause string }{
		{"empty", "", "it has 0 clusters instead of one"},
		{"not YAML", "clusters: [", "it is not a kubeconfig"},
		{"a list", "- a\n", "it is not a kubeconfig"},
		{"bad UTF-8", "clusters: \xff\n", "it is not a kubeconfig"},
		{"unknown key", good + "clsuters: []\n", `unknown field "clsuters"`},
		{"duplicate key", good + "kind: Config\n", `key "kind" already set in map`},
		{"another kind", strings.Replace(good, "kind: Config", "kind: Pod", 1), `its kind is "Pod", not Config`},
		{"two documents", good + "---\n" + good, "it holds more than one YAML document"},
		{"too large", good + "# " + strings.Repeat("x", 1<<20), "is larger than 1048576 bytes"},
		{"two clusters", good + "- name: other\n  cluster: {server: \"https://127.0.0.1:2\"}\n", "it has 2 clusters instead of one"},
		{"dangling context", good + "current-context: gone\n", `its current-context "gone" is not there`},
		{"context of no cluster", good + "current-context: c\ncontexts:\n- name: c\n  context: {cluster: other, user: u}\n", `its context "c" names the cluster "other", which is not there`},
		{"unverified", discoveryFile("https://127.0.0.1:1", ca.PEM, "    insecure-skip-tls-verify: true\n", ""), "it says insecure-skip-tls-verify"},
		{"http", discoveryFile("http://127.0.0.1:1", ca.PEM, "", ""), "is not an https URL"},
		{"no CA", discoveryFile("https://127.0.0.1:1", nil, "", ""), "it has no certificate-authority-data"},
		{"bad CA", discoveryFile("https://127.0.0.1:1", []byte("hello"), "", ""), "there is no PEM-encoded certificate in the CA bundle"},
		{"exec plugin", user("exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/evil}"), "it has an exec plugin"},
		{"auth provider", user("auth-provider: {name: gcp}"), "it has an auth-provider"},
		{"password", user("username: admin\n    password: " + badSecret), "it has a password"},
		{"client certificate", user("client-certificate: a.pem"), "its client-certificate: open "},
		{"impersonation", user("as: admin"), "it impersonates another"},
		{"token file missing", user("tokenFile: /no/such/token"), "no such file or directory"},
		{"two users", user("token: "+badToken) + "- name: b\n  user: {token: " + badToken + "}\n", "there are 2, and no current context says which"},
	} {
		path := in.file(mistake.content, 0o600)
		table = append(table, refusal{
			name: mistake.name, args: []string{"--discovery-file", path}, cause: mistake.cause, remedy: "",
		})
	}
	return append(table,
		refusal{name: "missing", args: []string{"--discovery-file", "/no/such/file"}, cause: "open /no/such/file: no such file or directory", remedy: "write a kubeconfig with one cluster"},
		refusal{name: "other scheme", args: []string{"--discovery-file", "ftp://example.com/a"}, cause: "would come over ftp", remedy: "serve the file over https"},
		refusal{name: "user information", args: []string{"--discovery-file", "https://a:" + badSecret + "@example.com/a"}, cause: "has user information in it", remedy: "leave the user information out"},
	)
}

// TestBadClusterInfo runs against a server that answers what no API server would: a real one signs what it has.
func TestBadClusterInfo(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	ca, rogue := newCA(t, "kubernetes"), newCA(t, "rogue")
	both := append(append([]byte{}, ca.PEM...), rogue.PEM...)
	const signature = "jws-kubeconfig-" + badID
	// signed returns the content of cluster-info for a kubeconfig with a CA, and more in it, signed as it should be.
	signed := func(ca []byte, cluster, more string) func(url string) map[string]string {
		return func(url string) map[string]string {
			text := discoveryFile(url, ca, cluster, more)
			jws, err := jws.ComputeDetachedSignature(text, badID, badSecret)
			if err != nil {
				t.Error(err)
			}
			return map[string]string{"kubeconfig": text, signature: jws}
		}
	}
	good := signed(ca.PEM, "", "")
	but := func(key, value string) func(url string) map[string]string {
		return func(url string) map[string]string {
			info := good(url)
			delete(info, signature)
			info[key] = value
			return info
		}
	}
	other, err := jws.ComputeDetachedSignature("another text", badID, badSecret)
	if err != nil {
		t.Fatal(err)
	}
	noAlgorithm := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"`+badID+`"}`)) + ".."
	const mend = "mend it: kubectl --namespace kube-public edit configmap cluster-info"
	for _, test := range []struct {
		name          string
		server        *testbed.CA // whose certificate it has
		info          func(url string) map[string]string
		cause, remedy string
	}{
		{"signed for others", ca, but("jws-kubeconfig-zzzzzz", "x"), "does not know the bootstrap token " + badID, "make a new token"},
		{"another text is signed", ca, but(signature, other), "is not signed with the secret of the token " + badID, "check the token's second half"},
		{"alg none", ca, but(signature, noAlgorithm), "is not signed with the secret of the token " + badID, "check the token's second half"},
		{"no kubeconfig", ca, signed(ca.PEM, "", "clusters: ["), "it is not a kubeconfig", mend},
		{"two clusters", ca, signed(ca.PEM, "", "- name: other\n  cluster: {server: \"https://127.0.0.1:2\"}\n"), "it has 2 clusters instead of one", mend},
		{"unverified", ca, signed(ca.PEM, "    insecure-skip-tls-verify: true\n", ""), "it says insecure-skip-tls-verify", mend},
		{"a program to run", ca, signed(ca.PEM, "", "users:\n- name: u\n  user: {exec: {command: /bin/evil}}\n"), "it has users", mend},
		{"a file of this machine", ca, signed(nil, "    certificate-authority: /etc/passwd\n", ""), "its certificate-authority is a path", mend},
		{"another CA", rogue, signed(rogue.PEM, "", ""), "has a pinned key: it offers \"CN=rogue\"", "if the CA was rotated, get the new hash"},
		// Whoever holds a token can sign: a pinned CA beside a rogue one does not make the rogue one trusted.
		{"a rogue CA beside the pinned one", rogue, signed(both, "", ""), "does not hold a certificate of the pinned CA", "the server is not of this cluster"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var server *httptest.Server
			server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Error("the token was sent")
				}
				if err := json.NewEncoder(w).Encode(map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": test.info(server.URL)}); err != nil {
					t.Error(err)
				}
			}))
			server.Config.ErrorLog = discardLog
			var err error
			if server.TLS, err = servingConfig(test.server); err != nil {
				t.Fatal(err)
			}
			server.StartTLS()
			defer server.Close()
			root := t.TempDir()
			refusal{
				args:  []string{"join", server.URL, "--token", badToken, "--discovery-token-ca-cert-hash", ca.Pin(), "--node-name", "node", "--root", root},
				cause: test.cause, remedy: test.remedy,
			}.run(t, 3, root)
		})
	}
}

func newCA(t *testing.T, name string) *testbed.CA {
	t.Helper()
	ca, err := testbed.NewCA(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
