package cloudinit

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	token = "abcdef.0123456789abcdef"
	pin   = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	key   = keyHead + "\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"
)

var sum = strings.Repeat("0a", 32)

// example returns user data for a machine that gets nodejoin as --install says.
func example(t *testing.T, install string, noKubelet bool) []byte {
	t.Helper()
	u := UserData{
		Comment: "Makes a node.\nIt holds a secret.",
		Config:  &config.File{NodeName: "worker-1", Cluster: config.Cluster{Servers: []string{"10.0.0.1:6443"}, CACertHashes: []string{pin}}},
		Files:   []File{{Path: "/etc/nodejoin/token", Content: []byte(token)}, {Path: "/etc/nodejoin/ca.crt", Content: []byte("CA"), Public: true}},
		Machine: Machine{NoKubelet: noKubelet},
	}
	if install != "" {
		var err error
		if u.Install, err = ParseInstall(install, keyFor(install)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func keyFor(install string) []byte {
	if strings.HasPrefix(install, "apt=") || strings.HasPrefix(install, "dnf=") {
		return []byte(key)
	}
	return nil
}

func TestUserData(t *testing.T) {
	const want = `#cloud-config
# Makes a node.
# It holds a secret.
write_files:
- path: /etc/nodejoin/token
  owner: root:root
  permissions: "0600"
  content: |
    abcdef.0123456789abcdef
- path: /etc/nodejoin/ca.crt
  owner: root:root
  permissions: "0644"
  content: |
    CA
- path: /etc/nodejoin/config.yaml
  owner: root:root
  permissions: "0644"
  content: |
    nodeName: worker-1
    cluster:
      servers:
      - 10.0.0.1:6443
      caCertHashes:
      - ` + pin + `
runcmd:
- [systemctl, enable, --now, --no-block, nodejoin.service]
`
	if diff := cmp.Diff(want, string(example(t, "", true))); diff != "" {
		t.Error(diff)
	}
}

// read is user data as another YAML parser reads it.
type read struct {
	BootCmd    [][]string `json:"bootcmd"`
	WriteFiles []struct {
		Path, Owner, Permissions, Content string
		Defer                             bool
	} `json:"write_files"`
	Apt struct {
		Sources map[string]struct{ Source string }
	} `json:"apt"`
	YumRepos map[string]map[string]any `json:"yum_repos"`
	Packages []string                  `json:"packages"`
	RunCmd   [][]string                `json:"runcmd"`
}

func parse(t *testing.T, data []byte) (r read) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

var ways = map[string]string{
	"image": "", "deb": "/opt/nodejoin.deb", "rpm": "/opt/nodejoin.rpm",
	"deb-url": "https://example.com/nodejoin.deb#sha256=" + sum, "rpm-url": "https://example.com/nodejoin.rpm#sha256=" + sum,
	"apt": "apt=https://example.com/apt", "dnf": "dnf=https://example.com/rpm",
}

// What another YAML parser reads is what was meant: the configuration is one that nodejoin reads, a secret is for root alone and in
// no command, and the last command starts the agent and waits for nothing.
func TestUserDataIsRead(t *testing.T) {
	for name, install := range ways {
		t.Run(name, func(t *testing.T) {
			r := parse(t, example(t, install, false))
			files := map[string]string{}
			for _, f := range r.WriteFiles {
				files[f.Path] = f.Content
				if (f.Permissions == "0600") != strings.Contains(f.Content, token) || f.Owner != "root:root" {
					t.Errorf("%s is %s of %s", f.Path, f.Permissions, f.Owner)
				}
			}
			file, err := config.Parse([]byte(files[configFile]), "config.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if file.NodeName != "worker-1" || !cmp.Equal(file.Cluster.CACertHashes, []string{pin}) {
				t.Errorf("%+v", file)
			}
			if commands := fmt.Sprint(r.BootCmd, r.RunCmd, r.Apt, r.YumRepos); strings.Contains(commands, token) {
				t.Errorf("a secret is in a command: %s", commands)
			}
			if last := r.RunCmd[len(r.RunCmd)-1]; !cmp.Equal(last, []string{"systemctl", "enable", "--now", "--no-block", "nodejoin.service"}) {
				t.Errorf("the last command is %q", last)
			}
			if files[kubeletDropIn] != kubeletWaits {
				t.Errorf("the drop-in of the kubelet is %q", files[kubeletDropIn])
			}
		})
	}
}

func TestInstall(t *testing.T) {
	script := (&Install{way: download, place: "https://example.com/nodejoin.rpm", sum: sum}).download()[0][2]
	for _, row := range []struct {
		way      string
		commands [][]string
		packages []string
		apt, rpm string
	}{
		{way: "image"},
		{way: "deb", commands: [][]string{{"dpkg", "--force-confold", "--install", "/opt/nodejoin.deb"}}},
		{way: "rpm", commands: [][]string{{"rpm", "--upgrade", "--replacepkgs", "/opt/nodejoin.rpm"}}},
		{way: "deb-url", commands: [][]string{
			{"/usr/lib/apt/apt-helper", "download-file", "https://example.com/nodejoin.deb", "/run/nodejoin.deb", "SHA256:" + sum},
			{"dpkg", "--force-confold", "--install", "/run/nodejoin.deb"},
		}},
		{way: "rpm-url", commands: [][]string{{"sh", "-c", script, "sh", "https://example.com/nodejoin.rpm", "/run/nodejoin.rpm", sum}}},
		{way: "apt", packages: []string{"nodejoin"}, apt: "deb [signed-by=/etc/apt/keyrings/nodejoin.asc] https://example.com/apt stable main"},
		{way: "dnf", packages: []string{"nodejoin"}, rpm: "https://example.com/rpm"},
	} {
		t.Run(row.way, func(t *testing.T) {
			r := parse(t, example(t, ways[row.way], true))
			if got := r.RunCmd[:len(r.RunCmd)-1]; len(got) != len(row.commands) || (len(got) > 0 && !cmp.Equal(got, row.commands)) {
				t.Errorf("the commands are %q", got)
			}
			if !cmp.Equal(r.Packages, row.packages) || r.Apt.Sources["nodejoin"].Source != row.apt {
				t.Errorf("packages %q, apt %q", r.Packages, r.Apt.Sources["nodejoin"].Source)
			}
			var keys int
			for _, f := range r.WriteFiles {
				if f.Content == key {
					keys++
				}
			}
			if (keys == 1) != (row.packages != nil) {
				t.Errorf("there are %d keys", keys)
			}
			if repo := r.YumRepos["nodejoin"]; row.rpm != "" && (repo["baseurl"] != row.rpm || repo["gpgcheck"] != true || repo["repo_gpgcheck"] != true) {
				t.Errorf("%v", repo)
			}
		})
	}
}

// The script that gets an rpm installs nothing that has another sum.
func TestDownloadIsVerified(t *testing.T) {
	dir := t.TempDir()
	installed := filepath.Join(dir, "installed")
	for name, script := range map[string]string{
		"curl": "#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done\nprintf package >\"$2\"\n",
		"rpm":  "#!/bin/sh\necho \"$@\" >" + installed + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	run := func(sum string) error {
		i := Install{way: download, place: "https://example.com/nodejoin.rpm", sum: sum}
		words := i.download()[0]
		words[5] = filepath.Join(dir, "nodejoin.rpm") // the place where it is kept
		return exec.CommandContext(t.Context(), words[0], words[1:]...).Run()
	}
	if err := run(sum); err == nil {
		t.Error("a package with another sum is taken")
	}
	if _, err := os.Stat(installed); err == nil {
		t.Fatal("a package with another sum is installed")
	}
	if err := run(fmt.Sprintf("%x", sha256.Sum256([]byte("package")))); err != nil {
		t.Error(err)
	}
	if said, err := os.ReadFile(installed); err != nil || !strings.HasSuffix(string(said), "/nodejoin.rpm\n") {
		t.Errorf("%q, %v", said, err)
	}
}

func TestUserDataRefuses(t *testing.T) {
	u := UserData{Config: &config.File{NodeName: "Not A Name"}}
	if _, err := u.Marshal(); err == nil || !strings.Contains(err.Error(), "nodeName") {
		t.Errorf("%v", err)
	}
}

func TestParseInstallRefuses(t *testing.T) {
	for _, row := range []struct{ text, key, cause string }{
		{text: "", cause: "does not say how"},
		{text: "nodejoin.deb", cause: "does not say how"},
		{text: "https://example.com/nodejoin.deb", cause: "does not say how"},
		{text: "https://example.com/nodejoin.deb#sha256=00", cause: "does not say how"},
		{text: "ftp://example.com/nodejoin.deb#sha256=" + sum, cause: "no http or https URL"},
		{text: "https://me:secret@example.com/nodejoin.deb#sha256=" + sum, cause: "without a password"},
		{text: "https://example.com/nodejoin.tar.gz#sha256=" + sum, cause: "neither in .deb nor in .rpm"},
		{text: "/opt/../nodejoin.deb", cause: "not a clean path"},
		{text: "/opt/nodejoin.apk", cause: "neither in .deb nor in .rpm"},
		{text: "/opt/node join.deb", cause: "mean something elsewhere"},
		{text: "/opt/nodejoin.deb", key: key, cause: "a key is for a repository"},
		{text: "apt=example.com", key: key, cause: "no http or https URL"},
		{text: "apt=https://example.com/apt", cause: "not trusted without a key"},
		{text: "apt=https://example.com/apt stable main]", key: key, cause: "not a suite and its components"},
		{text: "apt=https://example.com/$MIRROR", key: key, cause: "mean something elsewhere"},
		{text: "dnf=https://example.com/rpm", key: "mDME", cause: "does not begin with"},
		{text: "dnf=https://example.com/rpm", key: "-----BEGIN PGP PRIVATE KEY BLOCK-----", cause: "a private one"},
		{text: "zypper=https://example.com/rpm", cause: "does not say how"},
	} {
		t.Run(row.text, func(t *testing.T) {
			var key []byte
			if row.key != "" {
				key = []byte(row.key)
			}
			_, err := ParseInstall(row.text, key)
			if err == nil || !strings.Contains(err.Error(), row.cause) || fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" {
				t.Errorf("%v (remedy: %s)", err, fault.Remedy(err))
			}
		})
	}
}

// The kubelet's drop-in says what the example does that the packages ship.
func TestKubeletWaits(t *testing.T) {
	example, err := os.ReadFile("../../../systemd/examples/kubelet.service.d/10-nodejoin.conf")
	if err != nil {
		t.Fatal(err)
	}
	directives := func(text string) (lines []string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	if diff := cmp.Diff(directives(string(example)), directives(kubeletWaits)); diff != "" {
		t.Error(diff)
	}
}

// The kubelet's drop-in finds the program wherever it is among the programs of services: it need not come from a package.
func TestKubeletFindsTheProgram(t *testing.T) {
	_, rest, _ := strings.Cut(kubeletWaits, "\nExecStartPre=")
	line, _, _ := strings.Cut(rest, "\n")
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "nodejoin"), []byte("#!/bin/sh\necho \"nodejoin $*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(line)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "nodejoin wait --timeout=0\n" {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}
