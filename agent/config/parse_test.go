package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	testToken = "abcdef.0123456789abcdef"
	testJWT   = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJub2RlIn0.c2lnbmF0dXJl"
	testPin   = "sha256:0f9d2c6b8e5a41d7c3b0a9f8e7d6c5b4a3928170f6e5d4c3b2a190817263544f"
)

// mistakesOf returns the mistakes as they are told, without the file's name. It checks what holds for every error.
func mistakesOf(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	mistakes, ok := errors.AsType[Mistakes](err)
	if !ok || len(mistakes) == 0 {
		t.Fatalf("the error holds no mistakes: %v", err)
	}
	if fault.ClassOf(err) != fault.Usage || fault.Remedy(err) != "correct the file, then check it: nodejoin config validate" {
		t.Errorf("class %d, remedy %q", fault.ClassOf(err), fault.Remedy(err))
	}
	lines := make([]string, len(mistakes))
	for i, m := range mistakes {
		if m.File != "c.yaml" {
			t.Errorf("the file is %q", m.File)
		}
		lines[i] = strings.TrimPrefix(m.String(), "c.yaml:")
		if strings.ContainsAny(lines[i], "\n\r\x00") {
			t.Errorf("more than one line: %q", lines[i])
		}
	}
	if want := "c.yaml:" + strings.Join(lines, "; c.yaml:"); err.Error() != want {
		t.Errorf("the error is %q instead of %q", err, want)
	}
	return lines
}

type badFile struct {
	name, text string
	want       []string
}

// wantMistakes parses each text and compares all mistakes, word for word.
func wantMistakes(t *testing.T, tests []badFile) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := Parse([]byte(test.text), "c.yaml")
			if diff := cmp.Diff(test.want, mistakesOf(t, err)); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
			if err != nil && f != nil {
				t.Error("there is a file beside the error")
			}
		})
	}
}

var badForm = []badFile{
	{"unknown key", "nodeName: a\nnodename: b\n", []string{"2: nodename: unknown key (is it nodeName?)"}},
	{"unknown key of more than one", "nodeNames: [b]\n", []string{"1: nodeNames: unknown key (is it nodeName?)"}},
	{"unknown key that no other is like", "shoe: 42\n", []string{"1: shoe: unknown key"}},
	{"unknown key below", "hooks:\n- name: a\n  comand: [/b]\n  command: [/b]\ncluster:\n  server: a\n", []string{
		"3: hooks[0].comand: unknown key", "6: cluster.server: unknown key (is it servers?)",
	}},
	{"unknown key with other characters", "\"a\\nb\": 1\n", []string{`1: "a\nb": unknown key`}},
	{"unknown key, long", strings.Repeat("k", 100) + ": 1\n", []string{`1: "` + strings.Repeat("k", 80) + `…": unknown key`}},
	{"duplicate key", "log:\n  level: info\n  format: text\n  level: warn\n", []string{"4: log.level: this key is there twice, first on line 2"}},
	{"duplicate key at the top, three times", "log: {}\nlog: {}\nlog: {}\n", []string{
		"2: log: this key is there twice, first on line 1", "3: log: this key is there twice, first on line 1",
	}},
	{"duplicate unknown key", "a: 1\na: 2\n", []string{"1: a: unknown key", "2: a: this key is there twice, first on line 1"}},
	{"a list at the top", "- a\n", []string{"1: must be a mapping of keys to values, not a list"}},
	{"a word at the top", "# what\nnodeName\n", []string{"2: must be a mapping of keys to values, not a string"}},
	{"a token at the top", testToken + "\n", []string{"1: a bootstrap token stands here: put it into a file of its own (mode 0600)"}},
	{"a mapping for a string", "nodeName: {a: b}\n", []string{"1: nodeName: must be a string, not a mapping"}},
	{"a list for a string", "nodeName:\n- a\n", []string{"1: nodeName: must be a string, not a list"}},
	{"a number for a string", "nodeName: 17\n", []string{"1: nodeName: must be a string, not a number: put it in quotes"}},
	{"a mode without quotes", "certificates: [{name: kubelet-client, mode: 0600}]\n", []string{"1: certificates[0].mode: must be a string, not a number: put it in quotes"}},
	{"true for a string", "nodeName: true\n", []string{"1: nodeName: must be a string, not true or false: put it in quotes"}},
	{"a date for a string", "nodeName: 2026-01-01\n", []string{"1: nodeName: must be a string, not a date: put it in quotes"}},
	{"a string for a list", "cluster:\n  servers: api:6443\n", []string{"2: cluster.servers: must be a list, not a string"}},
	{"a string for a mapping", "cluster: api:6443\n", []string{"1: cluster: must be a mapping of keys to values, not a string"}},
	{"a list for a mapping", "trust: []\n", []string{"1: trust: must be a mapping of keys to values, not a list"}},
	{"a string for true or false", "trust: {follow: \"yes\"}\n", []string{"1: trust.follow: must be true or false, not a string"}},
	{"yes for true", "trust: {follow: yes}\n", []string{"1: trust.follow: must be true or false, not a string"}},
	{"a string for a number", "rotateAfter: {minPercent: \"70\"}\n", []string{"1: rotateAfter.minPercent: must be a whole number, not a string"}},
	{"a broken number", "rotateAfter: {minPercent: 70.5}\n", []string{"1: rotateAfter.minPercent: must be a whole number, not a fraction"}},
	{"a hexadecimal number", "rotateAfter: {minPercent: 0x32}\n", []string{`1: rotateAfter.minPercent: "0x32" is not a decimal number in range`}},
	{"an endless number", "rotateAfter: {minPercent: 99999999999}\n", []string{`1: rotateAfter.minPercent: "99999999999" is not a decimal number in range`}},
	{"a string for an item", "hooks: [a]\n", []string{"1: hooks[0]: must be a mapping of keys to values, not a string"}},
	{"a number for an item", "cluster: {servers: [6443]}\n", []string{"1: cluster.servers[0]: must be a string, not a number: put it in quotes"}},
	{"an empty item", "cluster:\n  servers:\n  - a\n  -\n  - ~\n", []string{"4: cluster.servers[1]: this item of the list is empty", "5: cluster.servers[2]: this item of the list is empty"}},
	{"a list for a duration", "deniedPause: [1h]\n", []string{"1: deniedPause: must be a duration, not a list: write it as in 90s, 15m or 24h"}},
	{"a duration with no unit", "deniedPause: 3600\n", []string{"1: deniedPause: a duration needs a unit: write it as in 90s, 15m or 24h"}},
	{"a duration of days", "deniedPause: 1d\n", []string{`1: deniedPause: "1d" is not a duration: write it as in 90s, 15m or 24h`}},
	{"a negative duration", "deniedPause: -1h\n", []string{`1: deniedPause: "-1h" is negative`}},
	{"an overflowing duration", "deniedPause: 9999999h\n", []string{`1: deniedPause: "9999999h" is not a duration: write it as in 90s, 15m or 24h`}},
	{"a duration of centuries", "deniedPause: 999999h\n", []string{`1: deniedPause: "999999h" is longer than ten years`}},
	{"two documents", "nodeName: a\n---\nnodeName: b\n", []string{"2: there is more than one document"}},
	{"two documents, one empty", "---\n---\nnodeName: b\n", []string{"2: there is more than one document"}},
	{"a second document that is none", "nodeName: a\n---\nb: [\n", []string{"3: this is not YAML: did not find expected node content"}},
	{"text after the end", "nodeName: a\n...\nfoo\n", []string{"2: this is not YAML: did not find expected <document start>"}},
	{"not YAML on the first line", "nodeName: a: b\n", []string{"1: this is not YAML: mapping values are not allowed in this context"}},
	{"not YAML further on", "log:\n  level: info\n   format: text\n", []string{"3: this is not YAML: mapping values are not allowed in this context"}},
	{"a tab", "log:\n\tlevel: info\n", []string{"2: this is not YAML: found character that cannot start any token"}},
	{"an unfinished string", "nodeName: \"a\n", []string{"2: this is not YAML: found unexpected end of stream"}},
	{"a NUL byte", "nodeName: a\nlog: \x00\n", []string{"2: there is a NUL byte"}},
	{"a control character", "nodeName: a\n\nlog: \x1b[31m\n", []string{"3: there is a control character (U+001B)"}},
	{"a byte order mark in the middle", "nodeName: a\n\uFEFFlog: {}\n", []string{"2: there is a control character (U+FEFF)"}},
	{"a hidden line", "# a\rnodeName: b\n", []string{"1: there is a line break (U+000D) that most programs do not show as one"}},
	{"a hidden line, of Unicode", "log: {}\n# a\u2028nodeName: b\n", []string{"2: there is a line break (U+2028) that most programs do not show as one"}},
	{"a next line", "nodeName: \"a\u0085\"\n", []string{"1: there is a line break (U+0085) that most programs do not show as one"}},
	{"lines as on Windows", "nodeName: a\r\nlog: 1\r\n", []string{"2: log: must be a mapping of keys to values, not a number"}},
	{"bad UTF-8", "nodeName: a\n# \xff\n", []string{"2: there is a byte that is not UTF-8"}},
	{"UTF-16", "\xff\xfen\x00o\x00", []string{"1: there is a byte that is not UTF-8"}},
	{"too large", strings.Repeat("# large\n", MaxSize/8) + "#", []string{"1: it is larger than 1048576 bytes"}},
	{"too deep", strings.Repeat("[", MaxSize), []string{"1: this is not YAML: exceeded max depth of 10000"}},
	{"deeper than there is anything", "cluster: {servers: [[[[[[a]]]]]]}\n", []string{"1: cluster.servers[0]: must be a string, not a list"}},
	{"an anchor", "nodeName: &name a\n", []string{"1: nodeName: anchors and aliases are not allowed: write it out"}},
	{"an anchor on a mapping", "cluster: &c\n  shoe: 42\n", []string{"1: cluster: anchors and aliases are not allowed: write it out"}},
	{"an anchor on the file", "&all\nnodeName: a\n", []string{"1: anchors and aliases are not allowed: write it out"}},
	{"an anchor on a key", "&key nodeName: a\n", []string{"1: a key is not a plain word"}},
	{"an alias", "nodeName: a\ncluster:\n  servers: [&s a, *s]\n", []string{
		"3: cluster.servers[0]: anchors and aliases are not allowed: write it out", "3: cluster.servers[1]: anchors and aliases are not allowed: write it out",
	}},
	{"an alias of nothing", "nodeName: a\ncluster:\n  servers: *s\n", []string{"3: anchors and aliases are not allowed: write it out"}},
	{"an alias for a key", "? &k nodeName\n: a\n? *k\n: b\n", []string{"1: a key is not a plain word", "3: a key is not a plain word"}},
	{"a merge key", "log:\n  <<: {level: info}\n", []string{"2: log: merge keys are not allowed: write it out"}},
	{"a tag", "nodeName: !!str a\n", []string{"1: nodeName: tags are not allowed"}},
	{"a binary string", "nodeName: !!binary YQ==\n", []string{"1: nodeName: tags are not allowed"}},
	{"a tag of one's own on a list", "hooks: !include [a]\n", []string{"1: hooks: tags are not allowed"}},
	{"a tag on a key", "!!str nodeName: a\n", []string{"1: a key is not a plain word"}},
	{"a mapping for a key", "? {a: b}\n: c\n", []string{"1: a key is not a plain word"}},
	{"another YAML", "%YAML 2.0\n---\nnodeName: a\n", []string{"1: this is not YAML: found incompatible YAML document"}},
	{"another version", "apiVersion: nodejoin/v2\nkind: AgentConfiguration\n", []string{`1: apiVersion: "nodejoin/v2" is not known: this version of nodejoin reads nodejoin/v1alpha1`}},
	{"another kind", "apiVersion: nodejoin/v1alpha1\nkind: KubeletConfiguration\n", []string{`2: kind: "KubeletConfiguration" is not known: this version of nodejoin reads AgentConfiguration`}},
	{"a kind without a version", "nodeName: a\nkind: AgentConfiguration\n", []string{"1: apiVersion: is missing: write apiVersion: nodejoin/v1alpha1"}},
	{"a version without a kind", "apiVersion: nodejoin/v1alpha1\n", []string{"1: kind: is missing: write kind: AgentConfiguration"}},
}

func TestForm(t *testing.T) { wantMistakes(t, badForm) }

// An alias bomb takes neither time nor memory: nothing is ever expanded.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := range 60 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 10))
	}
	for _, text := range []string{b.String(), "cluster: {servers: &a [x, x]}\ncredentials: [*a, *a, *a]\n"} {
		start := time.Now()
		if _, err := Parse([]byte(text), "c.yaml"); len(mistakesOf(t, err)) == 0 {
			t.Error("accepted")
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
	}
}

func TestMistakesTogether(t *testing.T) {
	text := `apiVersion: nodejoin/v1alpha1
kind: AgentConfiguration
nodeName: system:node:a
cluster:
  servers: [api:0, "api:70000"]
  caCertHashes: [md5:aa]
rotation: nobody
certificates:
- name: kubelet-client
  organization: [a]
- name: metrics
  mode: "0666"
log: {level: loud, format: xml}
`
	_, err := Parse([]byte(text), "/etc/nodejoin/config.yaml")
	want := `/etc/nodejoin/config.yaml:3: nodeName: the node name "system:node:a" is a user name; ` +
		`/etc/nodejoin/config.yaml:5: cluster.servers[0]: the API server "api:0" has the port "0": it is not between 1 and 65535; ` +
		`/etc/nodejoin/config.yaml:5: cluster.servers[1]: the API server "api:70000" has the port "70000": it is not between 1 and 65535; ` +
		`/etc/nodejoin/config.yaml:6: cluster.caCertHashes[0]: the CA certificate hash "md5:aa" is of kind "md5": only "sha256" is known; ` +
		`/etc/nodejoin/config.yaml:7: rotation: "nobody" is not one of agent, kubelet; ` +
		`/etc/nodejoin/config.yaml:10: certificates[0].organization: unknown key (is it organizations?); ` +
		`/etc/nodejoin/config.yaml:11: certificates[1].signerName: is missing: a certificate other than kubelet-client and kubelet-serving needs a signer; ` +
		`/etc/nodejoin/config.yaml:11: certificates[1].directory: is missing: a certificate other than kubelet-client and kubelet-serving needs a directory; ` +
		`/etc/nodejoin/config.yaml:11: certificates[1].commonName: is missing: a certificate needs a commonName, dnsNames, ipAddresses, uris or machineNames; ` +
		`/etc/nodejoin/config.yaml:12: certificates[1].mode: "0666" lets others write; ` +
		`/etc/nodejoin/config.yaml:13: log.format: "xml" is not one of text, json; ` +
		`/etc/nodejoin/config.yaml:13: log.level: "loud" is not one of debug, info, warn, error`
	if err == nil || err.Error() != want {
		t.Errorf("the error is\n%v\ninstead of\n%s", err, want)
	}
}

func TestMostMistakes(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("a: b\n", 1000)), "c.yaml")
	mistakes, _ := errors.AsType[Mistakes](err)
	if len(mistakes) != 101 || mistakes[100].String() != "c.yaml: and 900 more mistakes" || mistakes[99].Line != 100 {
		t.Errorf("%d mistakes, the last: %v", len(mistakes), mistakes[len(mistakes)-1])
	}
}

func TestMistakeString(t *testing.T) {
	for want, m := range map[string]Mistake{
		"f:1: a.b: wrong": {"f", 1, "a.b", "wrong"},
		"f: wrong":        {"f", 0, "", "wrong"},
		"a.b: wrong":      {"", 0, "a.b", "wrong"},
		":2: wrong":       {"", 2, "", "wrong"},
	} {
		if got := m.String(); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
	if got := clip(strings.Repeat("x", longestText+1), longestText); len(got) != longestText+len("…") {
		t.Errorf("%d bytes", len(got))
	}
	if got := clip("aé", 2); got != "a…" {
		t.Errorf("%q: cut in the middle of a character", got)
	}
}

// What is repeated of the file does not make an error of its size.
func TestLongValue(t *testing.T) {
	_, err := Parse([]byte("nodeName: a\ncluster: {servers: [\"http://"+strings.Repeat("x", 100_000)+"\"]}\n"), "c.yaml")
	if lines := mistakesOf(t, err); len(lines) != 1 || len(lines[0]) > 500 {
		t.Errorf("%d mistakes, %d bytes", len(lines), len(err.Error()))
	}
}

func TestEmpty(t *testing.T) {
	for _, text := range []string{
		"", "\n", "# nothing\n", "---\n", "--- # nothing\n...\n", "{}", "null", "~\n", "\uFEFF", "nodeName:\nlog:\ncertificates: ~\nhooks: []\n",
		"cluster: {}\ntrust: {follow: }\nmetrics: {listen: ~}\ndeniedPause: null\n", "nodeName: \"\"\ncluster: {servers: [], proxyURL: ''}\n",
	} {
		f, err := Parse([]byte(text), "c.yaml")
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(&File{}, f); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// What is empty is another thing than what is left out.
func TestExplicitlyEmpty(t *testing.T) {
	f, err := Parse([]byte("deniedPause: 0\nmetrics: {listen: \"\"}\ntrust: {follow: false}\n"), "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"parsed", "with defaults"} {
		if f.DeniedPause == nil || *f.DeniedPause != 0 || f.Metrics.Listen == nil || *f.Metrics.Listen != "" || f.Trust.Follow == nil || *f.Trust.Follow {
			t.Errorf("%s: %v, %v, %v", state, f.DeniedPause, f.Metrics.Listen, f.Trust.Follow)
		}
		f.Default()
	}
	text, err := f.Marshal()
	for _, line := range []string{"deniedPause: 0\n", "  listen: \"\"\n", "  follow: false\n"} {
		if err != nil || !strings.Contains(string(text), line) {
			t.Errorf("%q is not in the text: %v\n%s", line, err, text)
		}
	}
}

// No secret that strays into the file is repeated, wherever it stands.
func TestNoSecretIsRepeated(t *testing.T) {
	const here = " stands here: put it into a file of its own (mode 0600)"
	pem := "\"-----BEGIN RSA PRIVATE KEY-----\\nMIIEsecret\\n\""
	tests := []badFile{
		{"string", "nodeName: " + testToken, []string{"1: nodeName: a bootstrap token" + here}},
		{"string, upper case", "nodeName: " + strings.ToUpper(testToken), []string{"1: nodeName: a bootstrap token" + here}},
		{"digits", "nodeName: 012345.0123456789012345", []string{"1: nodeName: a bootstrap token" + here}},
		{"bearer token", "nodeName: " + testJWT, []string{"1: nodeName: a bearer token" + here}},
		{"private key", "nodeName: " + pem, []string{"1: nodeName: a private key" + here}},
		{"item", "cluster: {servers: [" + testToken + "]}", []string{"1: cluster.servers[0]: a bootstrap token" + here}},
		{"in a server", "cluster: {servers: [\"" + testToken + ":0\"]}", []string{`1: cluster.servers[0]: the API server "[redacted]:0" has the port "0": it is not between 1 and 65535`}},
		{"for a list", "cluster: {servers: " + testToken + "}", []string{"1: cluster.servers: a bootstrap token" + here}},
		{"for a mapping", "credentials: [{bootstrapToken: " + testToken + "}]", []string{"1: credentials[0].bootstrapToken: a bootstrap token" + here}},
		{"for a credential", "credentials: [" + testToken + "]", []string{"1: credentials[0]: a bootstrap token" + here}},
		{"for a number", "rotateAfter: {minPercent: " + testToken + "}", []string{"1: rotateAfter.minPercent: a bootstrap token" + here}},
		{"for a duration", "deniedPause: " + testToken, []string{"1: deniedPause: a bootstrap token" + here}},
		{"for true or false", "trust: {follow: " + testToken + "}", []string{"1: trust.follow: a bootstrap token" + here}},
		{"key", testToken + ": a", []string{"1: a bootstrap token stands in the place of a key: put it into a file of its own (mode 0600)"}},
		{"in a key", "\"token=" + testToken + "\": a", []string{`1: "token=[redacted]": unknown key`}},
		{"under an unknown key", "token: " + testToken, []string{"1: token: unknown key"}},
		{"file of a token", "credentials: [{bootstrapToken: {file: " + testToken + "}}]", []string{"1: credentials[0].bootstrapToken.file: a bootstrap token" + here}},
		{"file of a bearer token", "credentials: [{bearerToken: {file: c2VjcmV0IHNlY3JldA}}]", []string{"1: credentials[0].bearerToken.file: is not the absolute path of a file"}},
		{"file of a token, too long", "credentials: [{bootstrapToken: {file: x" + testToken + "}}]", []string{"1: credentials[0].bootstrapToken.file: is not the absolute path of a file"}},
		{"argument", "hooks: [{name: a, command: [/bin/a, " + testToken + "]}]", []string{"1: hooks[0].command[1]: a bootstrap token" + here}},
		{"in an argument", "hooks: [{name: a, command: [/bin/a, --token=" + testToken + ", \"join '" + testToken + "'\"]}]", []string{
			"1: hooks[0].command[1]: a bootstrap token" + here, "1: hooks[0].command[2]: a bootstrap token" + here,
		}},
		{"in the proxy's URL", "cluster: {proxyURL: \"http://me:hunter2@proxy:3128\"}", []string{"1: cluster.proxyURL: the proxy's URL has user information in it, which everybody could read here"}},
		{"in a discovery URL", "cluster: {discoveryFile: \"https://me:hunter2@a/b\"}", []string{"1: cluster.discoveryFile: the URL of the discovery file has user information in it"}},
		{"in a URI", "certificates: [{name: a, signerName: a.b/c, directory: /a, uris: [\"https://me:hunter2@a/b\"]}]", []string{
			"1: certificates[0].uris[0]: the URI has user information in it, which everybody could read in the certificate",
		}},
		{"as an alias", "nodeName: *" + testToken, nil},
		{"in what is not YAML", "nodeName: \"" + testToken, []string{"1: this is not YAML: found unexpected end of stream"}},
	}
	wantMistakes(t, slices.DeleteFunc(slices.Clone(tests), func(b badFile) bool { return b.want == nil }))
	for _, test := range tests {
		_, err := Parse([]byte(test.text), "c.yaml")
		for _, secret := range []string{testToken, strings.ToUpper(testToken), testJWT, "0123456789", "MIIE", "hunter2", "c2VjcmV0"} {
			if err == nil || strings.Contains(err.Error()+fault.Remedy(err), secret) {
				t.Errorf("%s: the error is %v", test.name, err)
			}
		}
	}
}

func TestExample(t *testing.T) {
	data, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(data, "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A few of each kind; that every key is there is the business of the next test.
	switch c := f.Certificates[2]; {
	case f.NodeName != "worker-1" || len(f.Cluster.Servers) != 2 || f.Cluster.CACertHashes[0] != testPin:
		t.Errorf("%+v", f.Cluster)
	case c.Name != "metrics" || !c.MachineNames || time.Duration(c.Lifetime) != 24*time.Hour || c.Mode != "0640" || c.URIs[0] != "spiffe://example.com/metrics":
		t.Errorf("%+v", c)
	case f.RotateAfter != RotateAfter{70, 90} || time.Duration(*f.DeniedPause) != 24*time.Hour || !*f.Trust.Follow || *f.Metrics.Listen != "127.0.0.1:10263":
		t.Errorf("%+v", f)
	case f.Credentials[0].BootstrapToken.File != "/etc/nodejoin/token" || f.Credentials[1].BearerToken.File != "/run/identity/token":
		t.Errorf("%+v", f.Credentials)
	case !slices.Equal(f.Hooks[0].On, []string{"metrics", "ca"}) || len(f.Hooks[0].Command) != 3 || time.Duration(f.Hooks[0].Timeout) != 30*time.Second:
		t.Errorf("%+v", f.Hooks)
	}
}

// JSON, for `config print --output json`, has the keys of the file.
func TestJSON(t *testing.T) {
	f, err := Parse([]byte("deniedPause: 90m\nhooks: [{name: a, command: [/b], timeout: 1m30s}]\n"), "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(f)
	if want := `{"deniedPause":"1h30m","hooks":[{"name":"a","command":["/b"],"timeout":"1m30s"}]}`; err != nil || string(data) != want {
		t.Errorf("%s, %v", data, err)
	}
	again := &File{}
	if err := json.Unmarshal(data, again); err != nil || !cmp.Equal(f, again) {
		t.Errorf("%v\n%s", err, cmp.Diff(f, again))
	}
	if err := json.Unmarshal([]byte(`{"deniedPause":"soon"}`), again); err == nil || !strings.Contains(err.Error(), `"soon" is not a duration`) {
		t.Errorf("%v", err)
	}
}
