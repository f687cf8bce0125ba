package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// adminCommands are what stories of an administrator can do.
var adminCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"userconfig": cmdUserConfig,
	"userdata":   cmdUserData,
}

func init() { maps.Copy(commands, adminCommands) }

// userconfig FILE NAME [GROUP...] writes the kubeconfig of a user of the cluster.
func cmdUserConfig(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: userconfig FILE NAME [GROUP...]")
	}
	ts.Check(storyOf(ts).cp.WriteKubeconfig(ts.MkAbs(args[0]), testbed.Certificate{CommonName: args[1], Organization: args[2:]}))
}

// userdata FILE DIR does below a directory what cloud-init does with user data: it writes the files, but for their owner. It
// prints them, and the commands, which it does not run.
func cmdUserData(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: userdata FILE DIR")
	}
	text := ts.ReadFile(args[0])
	if line := "#cloud-config\n"; len(text) < len(line) || text[:len(line)] != line {
		ts.Fatalf("the first line is not #cloud-config")
	}
	var data struct {
		BootCmd    [][]string `json:"bootcmd"`
		WriteFiles []struct {
			Path, Owner, Permissions, Content string
			Defer                             bool
		} `json:"write_files"`
		RunCmd [][]string `json:"runcmd"`
	}
	ts.Check(yaml.UnmarshalStrict([]byte(text), &data))
	for _, file := range data.WriteFiles {
		mode, err := strconv.ParseUint(file.Permissions, 8, 9)
		ts.Check(err)
		path := filepath.Join(ts.MkAbs(args[1]), file.Path)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, []byte(file.Content), os.FileMode(mode)))
		fmt.Fprintln(ts.Stdout(), file.Permissions, file.Owner, file.Path)
	}
	for _, command := range slices.Concat(data.BootCmd, data.RunCmd) {
		fmt.Fprintln(ts.Stdout(), "run", command)
	}
}

func TestBadInputOfAnAdministrator(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "/no/such/config")
	for name, table := range map[string][]refusal{
		"token create": {
			{name: "no kubeconfig", cause: "there is no kubeconfig: /no/such/config is not there", remedy: "--kubeconfig"},
			{name: "no kubeconfig where the flag says", args: []string{"--kubeconfig", "/no/such/other"}, cause: "there is no kubeconfig: /no/such/other is not there", remedy: "/etc/kubernetes/admin.conf"},
			{name: "two tokens", args: []string{badToken, badToken}, cause: "there are 2 arguments", remedy: "nodejoin token create --help"},
			{name: "token too long", args: []string{badToken + "0"}, cause: "the bootstrap token is not of the form ID.SECRET with 6 and 16 characters (found 6 and 17)", remedy: "a random one is made"},
			{name: "token in capitals", args: []string{"ABCDEF." + badSecret}, cause: "the bootstrap token has upper-case letters", remedy: "a random one is made"},
			{name: "secret alone", args: []string{badSecret}, cause: "the bootstrap token has no dot", remedy: "a random one is made"},
			{name: "negative ttl", args: []string{"--ttl", "-1h"}, cause: "the time to live -1h0m0s is negative", remedy: "0 for a token that never expires"},
			{name: "short ttl", args: []string{"--ttl", "1ms"}, cause: "the time to live 1ms is less than a second", remedy: "24h"},
			{name: "ttl without a unit", args: []string{"--ttl", "24"}, cause: `invalid argument "24" for "--ttl" flag`, remedy: "nodejoin token create --help"},
			{name: "unknown usage", args: []string{"--usages", "signing,joining"}, cause: `the usage "joining" is not known`, remedy: "signing, authentication or both"},
			{name: "no usage", args: []string{"--usages", ""}, cause: "no usage is given", remedy: "signing, authentication or both"},
			{name: "group of nodes", args: []string{"--groups", "system:nodes"}, cause: `cannot be in the group "system:nodes"`, remedy: "system:bootstrappers:kubeadm:default-node-token"},
			{name: "group of all tokens", args: []string{"--groups", "system:bootstrappers"}, cause: `cannot be in the group "system:bootstrappers"`, remedy: "system:bootstrappers:kubeadm:default-node-token"},
			{name: "group that no token reaches", args: []string{"--groups", "system:bootstrappers:Edge"}, cause: `cannot be in the group "system:bootstrappers:Edge"`, remedy: "system:bootstrappers:kubeadm:default-node-token"},
			{name: "token as a group", args: []string{"--groups", badToken}, cause: "a bootstrap token cannot be in the group", remedy: "system:bootstrappers:kubeadm:default-node-token"},
			{name: "groups without authentication", args: []string{"--usages", "signing", "--groups", "system:bootstrappers:edge"}, cause: "does not authenticate", remedy: "add authentication"},
			{name: "line without authentication", args: []string{"--usages", "signing", "--print-join-command"}, cause: "for signing and for authentication", remedy: "--usages"},
			{name: "node without a use", args: []string{"--node", "a"}, cause: "a token alone has no name in it", remedy: "nodejoin bundle a"},
			{name: "bad node", args: []string{"--node", "A_1", "--print-join-command"}, cause: "is not a valid DNS subdomain", remedy: "--node"},
			{name: "two forms", args: []string{"--cloud-init", "--print-join-command"}, cause: "exclude each other", remedy: "one of them"},
			{name: "install without a machine", args: []string{"--install", "/opt/nodejoin.deb"}, cause: "are for the user data", remedy: "add --cloud-init"},
			{name: "install from nowhere", args: []string{"--cloud-init", "--install", "nodejoin"}, cause: "does not say how to install", remedy: "apt=URL"},
			{name: "repository without a key", args: []string{"--cloud-init", "--install", "apt=https://example.com/apt"}, cause: "not trusted without a key", remedy: "--install-key"},
			{name: "key without a repository", args: []string{"--cloud-init", "--install-key", "nodejoin.asc"}, cause: "none is given", remedy: "add --install apt=URL"},
			{name: "no such key", args: []string{"--cloud-init", "--install", "apt=https://example.com/apt", "--install-key", "nodejoin.asc"}, cause: "there is no nodejoin.asc", remedy: "--install-key"},
		},
		"token delete": {
			{name: "nothing", cause: "which token to delete", remedy: "nodejoin token list"},
			{name: "no kubeconfig", args: []string{"abcdef"}, cause: "there is no kubeconfig", remedy: "--kubeconfig"},
			{name: "half a token", args: []string{badToken[:len(badToken)-1]}, cause: "neither the ID of a token nor a token", remedy: "nodejoin token list"},
			{name: "the secret half", args: []string{badSecret}, cause: "neither the ID of a token nor a token", remedy: "nodejoin token list"},
			{name: "one of many", args: []string{"abcdef", "ABCDEF"}, cause: "neither the ID of a token nor a token", remedy: "nodejoin token list"},
		},
		"token list":   {{name: "a token", args: []string{badToken}, cause: "unknown command", remedy: "nodejoin token list --help"}},
		"token":        {{name: "a token", args: []string{badToken}, cause: "nodejoin token has no such command", remedy: "nodejoin token --help"}},
		"cluster-info": {{name: "no such command", args: []string{"print"}, cause: "nodejoin cluster-info has no such command", remedy: "nodejoin cluster-info --help"}},
		"cluster-info publish": {
			{name: "no kubeconfig", cause: "there is no kubeconfig", remedy: "--kubeconfig"},
			{name: "an argument", args: []string{"a:1"}, cause: "unknown command", remedy: "nodejoin cluster-info publish --help"},
		},
		"manifests": {
			{name: "group of no way", args: []string{"--group", "a"}, cause: `the group "a" is of one way to join`, remedy: "--bootstrap-tokens and --name-bound"},
			{name: "group of two ways", args: []string{"--group", "a", "--bootstrap-tokens", "--name-bound"}, cause: `the group "a" is of one way to join`, remedy: "--bootstrap-tokens and --name-bound"},
			{name: "group that no token can have", args: []string{"--group", "edge", "--bootstrap-tokens"}, cause: `cannot be in the group "edge"`, remedy: "system:bootstrappers:"},
			{name: "nodes", args: []string{"--group", "system:nodes", "--name-bound"}, cause: "is Kubernetes' own", remedy: "nodejoin:joiners"},
			{name: "an argument", args: []string{"rbac"}, cause: "unknown command", remedy: "nodejoin manifests --help"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range table {
				r.args = append(strings.Fields(name), r.args...)
				t.Run(r.name, func(t *testing.T) { r.run(t, 2) })
			}
		})
	}
}
