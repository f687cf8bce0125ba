package bootstrap

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// kubeconfigOf returns a kubeconfig as kubeadm writes it into cluster-info.
func kubeconfigOf(server string, bundle Bundle) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: ""
  cluster:
    server: %s
    certificate-authority-data: %s
contexts: null
current-context: ""
preferences: {}
users: null
`, server, base64.StdEncoding.EncodeToString(bundle.PEM()))
}

const testServer = "https://api.example.com:6443"

// insert returns a change that puts lines behind the line that has after in it.
func insert(after string, lines ...string) func(string) string {
	return func(text string) string {
		var out []string
		for line := range strings.Lines(text) {
			out = append(out, line)
			if strings.Contains(line, after) {
				out = append(out, strings.Join(lines, "\n")+"\n")
			}
		}
		return strings.Join(out, "")
	}
}

// replace returns a change that puts a line in the place of the one that has old in it.
func replace(old, line string) func(string) string {
	return func(text string) string {
		var out []string
		for l := range strings.Lines(text) {
			if strings.Contains(l, old) {
				l = line + "\n"
			}
			out = append(out, l)
		}
		return strings.Join(out, "")
	}
}

// users returns a change that gives the only user the lines.
func users(lines ...string) func(string) string {
	return replace("users:", "users:\n- name: u\n  user:\n    "+strings.Join(lines, "\n    "))
}

const credentials = "must not bring credentials"

// twoUsers is a change that adds the users a and b, who have tokens of their names.
func twoUsers(text string) string {
	return replace("users:", "users: [{name: a, user: {token: a}}, {name: b, user: {token: b}}]")(text)
}

// inContext returns a change that makes another one and adds a current context of the user.
func inContext(user string, change func(string) string) func(string) string {
	return func(text string) string {
		text = replace("contexts", `contexts: [{name: c, context: {cluster: "", user: "`+user+`"}}]`)(change(text))
		return replace("current-context", "current-context: c")(text)
	}
}

// kubeconfigRow is a change of a good kubeconfig and what becomes of it, from the network and in a file of this machine,
// and of the file's user; "" means that it is accepted.
type kubeconfigRow struct {
	name    string
	change  func(string) string
	network string
	local   string
	user    string
}

func kubeconfigRows(tb testing.TB) []kubeconfigRow {
	tb.Helper()
	const paths = "must not make this machine read its files"
	both := func(name string, change func(string) string, want string) kubeconfigRow {
		return kubeconfigRow{name, change, want, want, ""}
	}
	user := func(name string, change func(string) string, want string) kubeconfigRow {
		return kubeconfigRow{name, change, credentials, "", want}
	}
	rows := []kubeconfigRow{
		both("as kubeadm writes it", func(s string) string { return s }, ""),
		both("JSON", func(string) string {
			return `{"clusters":[{"name":"","cluster":{"server":"https://api.example.com:6443","certificate-authority-data":"` +
				base64.StdEncoding.EncodeToString(machineCA.pem()) + `"}}]}`
		}, ""),
		both("beginning with ---", func(s string) string { return "---\n" + s }, ""),
		both("without a kind", replace("kind:", ""), ""),
		both("a context that leads somewhere", func(s string) string {
			return replace("current-context", "current-context: c")(replace("contexts", "contexts:\n- name: c\n  context: {cluster: \"\", user: \"\"}")(s))
		}, ""),
		both("a server name", insert("server:", "    tls-server-name: api.example.com"), ""),
		both("a proxy", insert("server:", "    proxy-url: http://proxy:3128"), ""),

		both("empty", func(string) string { return "" }, "it has 0 clusters"),
		both("garbage", func(string) string { return "\x00\xff" }, "not a kubeconfig"),
		both("text", func(string) string { return "a page of a captive portal" }, "not a kubeconfig"),
		both("a page", func(string) string { return "<html>" }, "not a kubeconfig"),
		both("too large", func(s string) string { return s + strings.Repeat("#", maxKubeconfig) }, "larger than 1048576 bytes"),
		both("another kind", replace("kind:", "kind: Secret"), `its kind is "Secret"`),
		both("an unknown key", insert("server:", "    sever: https://api.example.com"), `unknown field "sever"`),
		both("an unknown key at the top", insert("kind:", "token: "+testTokenText), `unknown field "token"`),
		both("a duplicate key", insert("server:", "    server: https://rogue.example.com"), `key "server" already set`),
		both("a duplicate key at the top", insert("kind:", "clusters: []"), `key "clusters" already set`),
		both("two duplicate keys", func(s string) string { return s + "kind: Config\nusers: null\n" }, `key "kind" already set`),
		both("a wrong type", replace("contexts:", "contexts: "+testTokenText), "not a kubeconfig"),
		both("two documents", func(s string) string { return s + "---\n" + s }, "more than one YAML document"),
		both("two documents, ended by dots", func(s string) string { return s + "...\n" + s }, "more than one YAML document"),
		both("two documents, broken by CR", func(s string) string { return strings.ReplaceAll(s, "\n", "\r") + "---\r" + s }, "more than one YAML document"),
		both("two documents, broken by LS", func(s string) string { return s + "#\u2028---\u2028" + s }, "more than one YAML document"),
		both("an alias bomb", aliasBomb, "not a kubeconfig"),
		both("nested too deeply", func(string) string { return strings.Repeat("[", 100_000) }, "not a kubeconfig"),

		both("no clusters", func(string) string { return "kind: Config\n" }, "it has 0 clusters instead of one"),
		both("two clusters", insert("clusters:", "- {name: a, cluster: {server: https://rogue.example.com}}"), "it has 2 clusters instead of one"),
		both("a dangling current-context", replace("current-context", "current-context: c"), `its current-context "c" is not there`),
		both("a dangling cluster", func(s string) string {
			return replace("current-context", "current-context: c")(replace("contexts", "contexts:\n- {name: c, context: {cluster: x}}")(s))
		}, `names the cluster "x", which is not there`),
		both("insecure", insert("server:", "    insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"),
		both("insecure, without a CA", replace("certificate-authority-data", "    insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"),
		both("no CA", replace("certificate-authority-data", ""), "no certificate-authority-data"),
		both("an empty CA", replace("certificate-authority-data", "    certificate-authority-data: \"\""), "no certificate-authority-data"),
		both("a CA that is not base64", replace("certificate-authority-data", "    certificate-authority-data: '!'"), "not a kubeconfig"),
		both("a CA that is not PEM", replace("certificate-authority-data", "    certificate-authority-data: AAAA"), "no PEM-encoded certificate"),
		both("no server", replace("server:", ""), "no valid host name"),
		both("http", replace("server:", "    server: http://api.example.com"), "not an https URL"),
		both("a server with a password", replace("server:", "    server: https://u:"+testTokenSecret+"@api.example.com"), "user information"),
		both("a server name that is none", insert("server:", "    tls-server-name: a b"), "not a DNS name"),
		both("a proxy that is none", insert("server:", "    proxy-url: ftp://u:"+testTokenSecret+"@proxy"), "the proxy's URL is not one"),

		{"a token that is a map", users("token: {" + testTokenSecret + ": " + testTokenSecret + "}"), "not a kubeconfig", "not a kubeconfig", ""},
		{"a CA by path", replace("certificate-authority-data", "    certificate-authority: good-ca"), paths, "", ""},
		{"a CA by path beside its data", insert("server:", "    certificate-authority: good-ca"), paths, "", ""},
		{"a CA by a path that is not there", replace("certificate-authority-data", "    certificate-authority: absent"), paths, "its certificate-authority: open", ""},
		{"a CA by a path without an end", replace("certificate-authority-data", "    certificate-authority: /dev/zero"), paths, "its certificate-authority: /dev/zero is not a regular file", ""},

		user("a token", users("token: "+testTokenText), ""),
		user("a token with a line break", users(`token: "`+testTokenText+`\n"`), "its token is not a bearer token"),
		user("a user without anything", users("{}"), ""),
		user("a token file", users("tokenFile: good-token"), ""),
		user("a token file outside", users("tokenFile: /dev/zero"), "its tokenFile: /dev/zero is not a regular file"),
		user("a token file that is not there", users("tokenFile: absent"), "its tokenFile: open"),
		user("an exec plugin", users("exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, interactiveMode: Never}"), "it has an exec plugin"),
		user("an auth-provider", users("auth-provider: {name: oidc}"), "it has an auth-provider"),
		user("a password", users("username: u", "password: "+testTokenSecret), "it has a password"),
		user("a client certificate by path", users("client-certificate: /c", "client-key: /k"), "its client-certificate: open /c: "),
		user("a client key by path", users("client-key: /k"), "its client-key: open /k: "),
		user("a client certificate", users("client-certificate-data: AAAA"), "its client certificate: there is no private key in PEM"),
		user("a client key", users("client-key-data: AAAA"), "its client certificate: there is no private key in PEM"),
		user("impersonation", users("as: system:admin"), "it impersonates another"),
		user("impersonation of a UID", users("as-uid: a"), "it impersonates another"),
		user("impersonation of groups", users("as-groups: [system:masters]"), "it impersonates another"),
		user("impersonation of more", users("as-user-extra: {a: [b]}"), "it impersonates another"),
		user("two users", twoUsers, "there are 2, and no current context says which"),
		user("two users and a context", inContext("b", twoUsers), ""),
		user("two users and a context of neither", inContext("", twoUsers), "there are 2, and no current context says which"),
		user("a context of a user who is not there", inContext("c", twoUsers), `the current context names "c", which is not there`),
		both("a context of a user where there are none", inContext("c", func(s string) string { return s }), ""),
	}
	return rows
}

// aliasBomb adds nine levels of nine aliases: 387 million nodes.
func aliasBomb(text string) string {
	var b strings.Builder
	b.WriteString(text + "extensions:\n- &a0 {name: x}\n")
	for i := range 9 {
		fmt.Fprintf(&b, "- &a%d [%s]\n", i+1, strings.Join(slices.Repeat([]string{fmt.Sprintf("*a%d", i)}, 9), ","))
	}
	return b.String()
}

func TestKubeconfig(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	writeFile(t, dir, "good-ca", string(ca.pem()), 0o644)
	writeFile(t, dir, "good-token", testTokenText+"\n", 0o600)
	good := kubeconfigOf(testServer, bundleOf(ca))
	for _, row := range kubeconfigRows(t) {
		data := []byte(row.change(good))
		check := func(t *testing.T, cluster *Cluster, err error, want string) {
			t.Helper()
			if want != "" {
				if err == nil {
					t.Fatalf("accepted:\n%s", data)
				}
				wantFault(t, fault.New(fault.Untrusted, "mend it", "%w", err), fault.Untrusted, want) // the caller gives the class
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := cluster.Endpoints; len(got) != 1 || got[0].URL() != testServer {
				t.Errorf("the endpoints are %v", got)
			}
			if cluster.CA.IsZero() || !cluster.Named {
				t.Errorf("the CA is %s, the endpoint the cluster's own word: %t", cluster.CA, cluster.Named)
			}
		}
		t.Run(row.name+"/network", func(t *testing.T) {
			cluster, config, err := parseKubeconfig(data, "", time.Now())
			check(t, cluster, err, row.network)
			if err == nil && len(config.AuthInfos) != 0 {
				t.Error("it brought users")
			}
		})
		t.Run(row.name+"/local", func(t *testing.T) {
			cluster, _, err := parseKubeconfig(data, dir, time.Now())
			check(t, cluster, err, row.local)
		})
		if row.network == credentials {
			t.Run(row.name+"/user", func(t *testing.T) {
				path := writeFile(t, dir, "discovery.conf", string(data), 0o600)
				file, err := ReadDiscoveryFile(path, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if credential, err := file.Credential(); row.user != "" {
					wantFault(t, err, fault.Usage, "the user of the discovery file "+path+" cannot be used: "+row.user)
					if credential != nil {
						t.Error("a credential came with the error")
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestReadDiscoveryFile(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	writeFile(t, dir, "ca.crt", string(ca.pem()), 0o644)
	writeFile(t, dir, "token", "\t"+testTokenText+" \r\n\n", 0o600)
	good := kubeconfigOf(testServer, bundleOf(ca))
	for _, test := range []struct {
		name   string
		change func(string) string
		bearer Secret
	}{
		{"no user", func(s string) string { return s }, Secret{}},
		{"a user without anything", users("{}"), Secret{}},
		{"a token", users("token: " + testTokenText), NewSecret(testTokenText)},
		{"a token file", users("tokenFile: token"), NewSecret(testTokenText)},
		{"a token file by its whole path", users("tokenFile: " + dir + "/token"), NewSecret(testTokenText)},
		{"a token file and a token", users("tokenFile: token", "token: a"), NewSecret(testTokenText)},
		{"the user of the context", inContext("b", twoUsers), NewSecret("b")},
		{"the only user, whom the context does not name", inContext("", users("token: a")), NewSecret("a")},
		{"a CA file beside it", replace("certificate-authority-data", "    certificate-authority: ca.crt"), Secret{}},
		{"a CA file by its whole path", replace("certificate-authority-data", "    certificate-authority: "+dir+"/ca.crt"), Secret{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, dir, "discovery.conf", test.change(good), 0o600)
			file, err := ReadDiscoveryFile(path, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			cluster := file.Cluster
			if len(cluster.Endpoints) != 1 || cluster.Endpoints[0].URL() != testServer || string(cluster.CA.PEM()) != string(ca.pem()) {
				t.Errorf("the cluster is %v", cluster)
			}
			if !cluster.Named || cluster.Source != "the discovery file "+path {
				t.Errorf("named: %t, source: %q", cluster.Named, cluster.Source)
			}
			if bearer, err := bearerOf(t, file); bearer != test.bearer || err != nil {
				t.Errorf("the bearer is %q, %v, want %q", bearer.Reveal(), err, test.bearer.Reveal())
			}
		})
	}
	for name, path := range map[string]string{"missing": dir + "/absent", "a directory": dir, "without an end": "/dev/zero", "empty": writeFile(t, dir, "empty", "", 0o600)} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadDiscoveryFile(path, time.Now())
			wantFault(t, err, fault.Usage, "discovery file")
		})
	}
	t.Run("a mistake", func(t *testing.T) {
		path := writeFile(t, dir, "discovery.conf", users("token: "+testTokenText, "tokn: "+testTokenText)(good), 0o600)
		_, err := ReadDiscoveryFile(path, time.Now())
		wantFault(t, err, fault.Usage, path+` cannot be used: it is not a kubeconfig: `)
	})
}

func TestDiscoveryFileOfABadTokenFile(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"empty":             {"", "token is empty"},
		"white space":       {" \n\t", "token is empty"},
		"two lines":         {testTokenText + "\n" + testTokenText, "token is not a bearer token"},
		"a space inside":    {"Bearer " + testTokenText, "token is not a bearer token"},
		"a control":         {testTokenText + "\x7f" + testTokenText, "token is not a bearer token"},
		"beyond ASCII":      {testTokenText + "\u00e4", "token is not a bearer token"},
		"not even UTF-8":    {testTokenText + "\xff", "token is not a bearer token"},
		"a byte-order mark": {"\ufeff" + testTokenText, "token is not a bearer token"},
		"NUL":               {"\x00", "token is not a bearer token"},
		"too large":         {strings.Repeat("a", maxTokenFile+1), "token is larger than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "token", test.content, 0o600)
			path := writeFile(t, dir, "discovery.conf", users("tokenFile: token")(kubeconfigOf(testServer, bundleOf(machineCA))), 0o600)
			file, err := ReadDiscoveryFile(path, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			_, err = file.Credential()
			wantFault(t, err, fault.Usage, test.want)
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the discovery file is not named: %v", err)
			}
		})
	}
}

// bearerOf returns the token of the file's user; none where there is no user.
func bearerOf(t *testing.T, file *DiscoveryFile) (Secret, error) {
	t.Helper()
	credential, err := file.Credential()
	if credential == nil || err != nil {
		return Secret{}, err
	}
	proof, err := credential.Proof(t.Context())
	if err != nil {
		return Secret{}, err
	}
	return proof.Token, nil
}
