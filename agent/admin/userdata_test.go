//go:build linux

package admin

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

var update = flag.Bool("update", false, "write the user data of packaging/cloud-init")

// What stands in the examples in the place of what is secret, or different in each cluster.
const (
	examples      = "../../packaging/cloud-init"
	exampleToken  = "abcdef.0123456789abcdef"
	examplePin    = "sha256:" + "0f9d2c6b8e5a41d7c3b0a9f8e7d6c5b4a3928170f6e5d4c3b2a190817263544f"
	exampleCA     = "-----BEGIN CERTIFICATE-----\nTHE CA OF THE CLUSTER\n-----END CERTIFICATE-----\n"
	exampleKey    = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nTHE KEY OF THE REPOSITORY\n-----END PGP PUBLIC KEY BLOCK-----\n"
	exampleBundle = `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: THE CA OF THE CLUSTER
    server: https://10.0.0.1:6443
  name: cluster
contexts:
- context:
    cluster: cluster
    user: system:node:worker-1
  name: system:node:worker-1@cluster
current-context: system:node:worker-1@cluster
kind: Config
users:
- name: system:node:worker-1
  user:
    client-certificate-data: A CERTIFICATE OF A QUARTER OF AN HOUR
    client-key-data: ITS PRIVATE KEY
`
)

var (
	exampleTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pinPattern  = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
)

// exampleUserData returns the examples by their names: bootstrap tokens, with each way to install nodejoin, and then the
// other credentials on an image that has it.
func exampleUserData(t *testing.T) map[string][]byte {
	t.Helper()
	made := map[string][]byte{}
	add := func(name string, data []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		made[name+".yaml"] = data
	}
	sum := strings.Repeat("0", 64)
	for name, install := range map[string]string{
		"": "", "-deb": "/opt/nodejoin.deb", "-rpm": "/opt/nodejoin.rpm",
		"-deb-url": "https://pkgs.example.com/nodejoin.deb#sha256=" + sum, "-rpm-url": "https://pkgs.example.com/nodejoin.rpm#sha256=" + sum,
		"-apt": "apt=https://pkgs.example.com/apt", "-dnf": "dnf=https://pkgs.example.com/rpm",
	} {
		data, err := exampleInvitation(t).UserData(exampleMachine(t, install))
		// The hash of a CA that was made for this.
		add("bootstrap-token"+name, pinPattern.ReplaceAll(data, []byte(examplePin)), err)
	}
	data, err := BundleUserData("worker-1", exampleTime, []byte(exampleBundle), cloudinit.Machine{})
	add("bundle", data, err)
	for _, u := range []struct {
		name, comment string
		credential    config.Credential
		secret        cloudinit.File
	}{
		{
			"jwt", "It holds a JWT for system:node:worker-1, of an issuer that the API server knows: whoever reads it can join as this node, until it ends.",
			config.Credential{BearerToken: &config.BearerToken{File: "/etc/nodejoin/jwt", NodeNameClaim: "node"}},
			cloudinit.File{Path: "/etc/nodejoin/jwt", Content: []byte("HEADER.CLAIMS.SIGNATURE")},
		},
		{
			"oidc", "It holds the secret of a client of an OpenID Connect provider: whoever reads it can join as what the provider says of that client.",
			config.Credential{OIDC: &config.OIDC{Issuer: "https://login.example.com", ClientID: "worker-1", ClientSecretFile: "/etc/nodejoin/client-secret", NodeNameClaim: "node"}},
			cloudinit.File{Path: "/etc/nodejoin/client-secret", Content: []byte("THE SECRET OF THE CLIENT")},
		},
	} {
		data, err := (&cloudinit.UserData{
			Comment: "It makes a machine the node worker-1 of 10.0.0.1:6443, and keeps it one.\n" + u.comment,
			Config: &config.File{
				Cluster:     config.Cluster{Servers: []string{"10.0.0.1:6443"}, CertificateAuthority: "/etc/nodejoin/ca.crt"},
				Credentials: []config.Credential{u.credential},
			},
			Files: []cloudinit.File{u.secret, {Path: "/etc/nodejoin/ca.crt", Content: []byte(exampleCA), Public: true}},
		}).Marshal()
		add(u.name, data, err)
	}
	return made
}

func exampleInvitation(t *testing.T) *Invitation {
	t.Helper()
	authority, err := testbed.NewCA(t.TempDir(), "kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := bootstrap.ParseBundle(authority.PEM, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := bootstrap.ParseEndpoint("10.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	token, err := bootstrap.ParseToken(exampleToken)
	if err != nil {
		t.Fatal(err)
	}
	return &Invitation{Cluster: &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: ca}, Node: "worker-1", Token: token, Expires: &exampleTime}
}

func exampleMachine(t *testing.T, install string) (m cloudinit.Machine) {
	t.Helper()
	if install == "" {
		return m
	}
	var key []byte
	if strings.Contains(install, "=https://") {
		key = []byte(exampleKey)
	}
	var err error
	if m.Install, err = cloudinit.ParseInstall(install, key); err != nil {
		t.Fatal(err)
	}
	return m
}

// The examples are what "token create --cloud-init" and "bundle --cloud-init" print.
func TestExamplesOfUserData(t *testing.T) {
	made := exampleUserData(t)
	for name, data := range made {
		path := filepath.Join(examples, name)
		if *update {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		there, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(data), string(there)); diff != "" {
			t.Errorf("%s is not what is printed; go test ./agent/admin -run '^TestExamplesOfUserData$' -update writes it:\n%s", path, diff)
		}
	}
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		if made[filepath.Base(file)] == nil {
			t.Errorf("%s is printed by nothing", file)
		}
	}
}

// cloud-init accepts the examples.
func TestSchema(t *testing.T) {
	program := expect.Program(t, "cloud-init")
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), program, "schema", "--config-file", file).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("Valid ")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
