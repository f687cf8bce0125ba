//go:build linux

package packaging

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// arm64 is the program of the arm64 package, run by qemu as an arm64 machine's kernel would run it.
type arm64 struct{ qemu, program string }

func (a arm64) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), a.qemu, append([]string{a.program}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nodejoin %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The program in the arm64 package runs, and joins a real control plane.
func TestARM64Package(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the program for another architecture")
	}
	a := arm64{qemu: expect.Program(t, "qemu-aarch64-static")}
	expect.Program(t, "dpkg-deb")
	dir := t.TempDir()
	dist := filepath.Join(dir, "dist")
	execute(t, "make", "-C", "..", "packages", "PLATFORMS=linux/arm64", "FORMATS=deb", "VERSION=v0.1.0-rc.1", "SOURCE_DATE_EPOCH=1795846057", "DIST="+dist)
	deb := filepath.Join(dist, "nodejoin_0.1.0~rc.1_arm64.deb")
	execute(t, "dpkg-deb", "--extract", deb, filepath.Join(dir, "tree"))
	a.program = filepath.Join(dir, "tree/usr/bin/nodejoin")
	if got := execute(t, "dpkg-deb", "--field", deb, "Architecture"); strings.TrimSpace(got) != "arm64" {
		t.Errorf("the package is for %s", got)
	}

	if got := a.run(t, "version"); !strings.HasPrefix(got, "nodejoin v0.1.0-rc.1 (") || !strings.Contains(got, "linux/arm64") {
		t.Errorf("version: %s", got)
	}
	a.run(t, "config", "validate", filepath.Join(dir, "tree/etc/nodejoin/config.yaml"))

	cp := testbed.New(t, testbed.Options{})
	line, err := cp.Kubeadm(t.Context(), "token", "create", "--print-join-command")
	if err != nil {
		t.Fatal(err)
	}
	machine := filepath.Join(dir, "machine")
	kubeconfig := filepath.Join(machine, "kubelet.conf")
	join := append(strings.Fields(line)[1:], "--node-name", "arm", "--config", filepath.Join(dir, "tree/etc/nodejoin/config.yaml"), // the same line with its first word changed
		"--kubeconfig", kubeconfig, "--cert-dir", filepath.Join(machine, "pki"), "--ca-file", filepath.Join(machine, "ca.crt"),
		"--state-dir", filepath.Join(machine, "state"), "--runtime-dir", filepath.Join(machine, "run"))
	if got := a.run(t, join...); !strings.Contains(got, "This machine has joined as the node arm") {
		t.Errorf("join: %s", got)
	}
	got, err := cp.Kubectl(t.Context(), "--kubeconfig", kubeconfig, "auth", "whoami", "--output=jsonpath={.status.userInfo.username}")
	if err != nil || got != "system:node:arm" {
		t.Errorf("the kubeconfig is of %q, %v", got, err)
	}
}

func execute(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
