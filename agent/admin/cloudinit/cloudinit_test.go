package cloudinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/config"
)

const (
	token = "abcdef.0123456789abcdef"
	pin   = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

func userData(t *testing.T) []byte {
	t.Helper()
	data, err := UserData("Makes a node.\nIt holds a secret.", &config.File{
		NodeName: "worker-1", Cluster: config.Cluster{Servers: []string{"10.0.0.1:6443"}, CACertHashes: []string{pin}},
	}, Secret{Path: "/etc/nodejoin/token", Content: []byte(token)})
	if err != nil {
		t.Fatal(err)
	}
	return data
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
runcmd: [[nodejoin, join]]
`
	if diff := cmp.Diff(want, string(userData(t))); diff != "" {
		t.Error(diff)
	}
}

// What another YAML parser reads is what was meant, and the configuration in it is one that nodejoin reads.
func TestUserDataIsRead(t *testing.T) {
	type entry struct{ Path, Owner, Permissions, Content string }
	var document struct {
		WriteFiles []entry    `json:"write_files"`
		RunCmd     [][]string `json:"runcmd"`
	}
	if err := yaml.UnmarshalStrict(userData(t), &document); err != nil {
		t.Fatal(err)
	}
	if len(document.WriteFiles) != 2 || !cmp.Equal(document.RunCmd, [][]string{{"nodejoin", "join"}}) {
		t.Fatalf("%+v", document)
	}
	if got, want := document.WriteFiles[0], (entry{"/etc/nodejoin/token", "root:root", "0600", token + "\n"}); got != want {
		t.Errorf("%+v instead of %+v", got, want)
	}
	file, err := config.Parse([]byte(document.WriteFiles[1].Content), "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if file.NodeName != "worker-1" || !cmp.Equal(file.Cluster.CACertHashes, []string{pin}) {
		t.Errorf("%+v", file)
	}
}

func TestUserDataRefuses(t *testing.T) {
	_, err := UserData("", &config.File{NodeName: "Not A Name"})
	if err == nil || !strings.Contains(err.Error(), "nodeName") {
		t.Errorf("%v", err)
	}
}

func TestSchema(t *testing.T) {
	program, err := exec.LookPath("cloud-init")
	if err != nil && os.Getenv("NODEJOIN_TEST_ALL") == "1" {
		t.Fatalf("NODEJOIN_TEST_ALL is set, but there is no cloud-init: %v", err)
	}
	if err != nil {
		t.Skip("cloud-init is not installed")
	}
	path := filepath.Join(t.TempDir(), "user-data")
	if err := os.WriteFile(path, userData(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "schema", "--config-file", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
