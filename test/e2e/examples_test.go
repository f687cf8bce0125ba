package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/test/strategy"
)

// examples is the file with an example of every strategy. It is written of what the tests run with, so that nothing in it
// is wrong that the tests would notice.
const examples = "../../bootstrap/EXAMPLES.md"

const examplesHead = `<!-- Written by: go test ./test/e2e -run '^TestExamples$' -update. Do not edit. -->
# Every way in, with an example

For each kind of credential: the arguments of the API server that it takes, the rights, and the configuration of the node. All of it is what the tests
run with, against a real API server, with other addresses and paths. The rights are for both kinds of joiners, those that may become any node (the group
nodejoin:provisioners) and those that may become one only (nodejoin:joiners, whose user names are those of nodes); give those that you need.
"nodejoin manifests" prints the least rights for bootstrap tokens and for joiners of one node. Nodes need one more right, to have their
certificates rotated: "nodejoin manifests --rotation".
`

func TestExamples(t *testing.T) {
	bed := needWays(t)
	text := examplesHead
	for _, s := range strategy.All() {
		text += example(t, bed, s)
	}
	text += "\n## The files that these examples name\n" + block("The file of --authentication-config, which maps the claim `node` to a node's name", "yaml", fileOf(t, bed, "authentication.yaml")) +
		block("The proxy, nginx", "nginx", fileOf(t, bed, "nginx/nginx.conf")) +
		"\nA file of --token-auth-file has a line for each token:\n\n```csv\nTOKEN,system:node:worker-7,worker-7,nodejoin:joiners\nTOKEN,provisioner,provisioner,nodejoin:provisioners\n```\n" +
		"\nA file of --authentication-token-webhook-config-file is a kubeconfig whose cluster is what judges the tokens. In the tests that is another cluster, at\n" +
		"`https://judge.example.com:6443/apis/authentication.k8s.io/v1/tokenreviews`, and the user is one who may create tokenreviews there.\n"
	text = plain(bed, text)
	known, err := os.ReadFile(examples)
	switch {
	case err == nil && string(known) == text:
	case *update:
		if err := os.WriteFile(examples, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the tests run with (%v). Write it with -update.", examples, err)
	}
}

// example is the section of one strategy.
func example(t *testing.T, bed *strategy.Bed, s strategy.Strategy) string {
	const node = "worker-7"
	c, err := bed.Credential(t.Context(), s, strategy.Request{Node: s.Name + "-own", Bound: s.Unbindable == ""})
	if err != nil {
		t.Fatal(err)
	}
	config := "cluster:\n  servers: [" + bed.ControlPlane(s).Endpoint + "]\n  certificateAuthority: /etc/kubernetes/pki/ca.crt\ncredentials:\n" + c.YAML
	files := slices.Sorted(maps.Keys(c.Files))
	for i, path := range files {
		files[i] = "`" + path + "`"
	}
	bound := "This credential is for one node only: its user is `" + c.User + "`."
	if s.Unbindable != "" {
		bound = "This credential cannot be bound to one node: " + s.Unbindable + "."
	}
	text := "\n## " + strings.ToUpper(s.Title[:1]) + s.Title[1:] + "\n\n" + bound + " `make demo STRATEGY=" + s.Name + "` shows it.\n" +
		block("The API server", "", strings.Join(bed.Arguments(s), "\n")+"\n") +
		block("The rights", "yaml", s.RBAC) +
		block("/etc/nodejoin/config.yaml of the node", "yaml", config) +
		fmt.Sprintf("\nThe node has %s.\n", strings.Join(files, ", "))
	return strings.ReplaceAll(text, s.Name+"-own", node)
}

func block(title, language, text string) string {
	return "\n" + title + ":\n\n```" + language + "\n" + text + "```\n"
}

func fileOf(t *testing.T, bed *strategy.Bed, name string) string {
	text, err := os.ReadFile(filepath.Join(bed.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var certificate = regexp.MustCompile(`(?s)( *)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----`)

// plain puts the addresses and paths of an example in the place of the tests' own.
func plain(bed *strategy.Bed, text string) string {
	text = certificate.ReplaceAllString(text, "$1-----BEGIN CERTIFICATE-----\n$1...\n$1-----END CERTIFICATE-----")
	return strings.NewReplacer(
		bed.Proxy.ByCertificate, "join.example.com:8443", bed.Proxy.ByPassword, "join.example.com:8444", bed.Proxy.ByToken, "join.example.com:8445",
		bed.Provider.Issuer, "https://login.example.com", bed.Flags.Endpoint, "api.example.com:6443", bed.Config.Endpoint, "api.example.com:6443",
		bed.Dir+"/nginx", "/etc/nginx/nodejoin", bed.Flags.Dir, "/etc/kubernetes", bed.Config.Dir, "/etc/kubernetes", bed.Dir, "/etc/kubernetes",
	).Replace(text)
}
