package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The checksums are those of the release alone, and of this run: neither what else is in the directory nor what a former run left.
func TestSumsAreOfTheRelease(t *testing.T) {
	r := &release{out: filepath.Join(t.TempDir(), "dist")}
	put := func(name, data string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.out, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time, the directory has the first one's files
		if err := r.prepare(); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(r.out, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range left {
			if filepath.Base(path) != "foreign.txt" && filepath.Base(path) != "nodejoin.asc" {
				t.Errorf("%s was left", filepath.Base(path))
			}
		}
		put("nodejoin_1.0.0_amd64.deb", "deb")
		put("nodejoin-1.0.0-1.x86_64.rpm", "rpm")
		put("foreign.txt", "foreign")
		put("nodejoin.asc", "key")
		put("SHA256SUMS.asc", "signature")
		if err := writeSums(r.out); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(r.out, sumsName))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%x  nodejoin-1.0.0-1.x86_64.rpm\n%x  nodejoin_1.0.0_amd64.deb\n", sha256.Sum256([]byte("rpm")), sha256.Sum256([]byte("deb")))
		if string(got) != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
}

// architectures are the names by which dpkg and rpm call the platforms of a release.
var architectures = map[string]struct{ deb, rpm string }{
	"linux/amd64":   {"amd64", "x86_64"},
	"linux/arm64":   {"arm64", "aarch64"},
	"linux/arm/v7":  {"armhf", "armv7hl"},
	"linux/ppc64le": {"ppc64el", "ppc64le"},
	"linux/s390x":   {"s390x", "s390x"},
	"linux/riscv64": {"riscv64", "riscv64"},
}

// The packages of all platforms are called, and say that they are, for the architectures of dpkg and rpm. Their program is none here.
func TestArchitectures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds nfpm where it is not built yet")
	}
	dpkg, rpm := tool(t, "dpkg-deb"), tool(t, "rpm")
	if !dpkg && !rpm {
		t.Skip("neither dpkg-deb nor rpm is there to read packages")
	}
	dir := t.TempDir()
	r := &release{source: "../../..", out: filepath.Join(dir, "dist"), version: "v1.2.3", packaged: "1.2.3", date: committed, stderr: io.Discard}
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	program, stage := filepath.Join(dir, "program"), filepath.Join(dir, "tree")
	if err := os.WriteFile(program, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	documents, err := r.documents()
	if err == nil {
		err = r.stage(stage, program, documents)
	}
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range platforms {
		if p.os != "linux" {
			continue
		}
		found++
		want := architectures[p.String()]
		for _, format := range []string{"deb", "rpm"} {
			if err := r.nfpm(t.Context(), p, format, stage); err != nil {
				t.Fatal(p, err)
			}
		}
		if dpkg {
			architecture(t, want.deb, "dpkg-deb", "--field", filepath.Join(r.out, "nodejoin_1.2.3_"+want.deb+".deb"), "Architecture")
		}
		if rpm {
			architecture(t, want.rpm, "rpm", "--query", "--queryformat", "%{ARCH}", "--package", filepath.Join(r.out, "nodejoin-1.2.3-1."+want.rpm+".rpm"))
		}
	}
	if found != len(architectures) {
		t.Errorf("%d platforms of Linux", found)
	}
}

func architecture(t *testing.T, want, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("%s: %q instead of %q, %v", strings.Join(slices.Concat([]string{program}, args), " "), got, want, err)
	}
}
