//go:build unix

package systemd

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every example is a unit or a drop-in that systemd understands, says at its top where it goes, and is in the README.
func TestExamples(t *testing.T) {
	const dir = "examples"
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || entry.IsDir() || name == "README.md" {
			return err
		}
		found++
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			place, _, _ := strings.Cut(string(text), "\n")
			if !strings.HasSuffix(place, "/"+filepath.ToSlash(name)) && !strings.HasSuffix(name, ".yaml") || !strings.HasPrefix(place, "# /etc/") {
				t.Errorf("it does not say where it goes: %q", place)
			}
			if !strings.Contains(string(readme), "("+filepath.ToSlash(name)+")") {
				t.Error("the README does not name it")
			}
			if !strings.HasSuffix(name, ".yaml") {
				verifyExample(t, name, string(text))
			}
		})
		return nil
	})
	if err != nil || found < 9 {
		t.Errorf("%d examples: %v", found, err)
	}
}

// verifyExample has systemd read an example beside the units that it is about.
func verifyExample(t *testing.T, name, text string) {
	t.Helper()
	units := t.TempDir()
	agent := analyzable(t, units)
	for _, other := range []string{"kubelet.service", "my-service.service"} {
		if err := os.WriteFile(filepath.Join(units, other), []byte("[Service]\nExecStart=/bin/true\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, service := range []string{"restart-on-rotation.service", "hook-touch.service"} {
		data, err := os.ReadFile(filepath.Join("examples", service))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(units, service), []byte(programs.Replace(string(data))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(units, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(programs.Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	if of, isDropIn := strings.CutSuffix(filepath.Dir(path), ".d"); isDropIn {
		path = of
	}
	t.Setenv("SYSTEMD_UNIT_PATH", units+":") // and where else units are
	analyze(t, "verify", "--man=no", "--recursive-errors=no", path)
	if filepath.Base(path) == unitName {
		analyze(t, "security", "--offline=true", "--threshold=25", "--no-pager", agent)
	}
}

// programs are replaced by one that is on every machine.
var programs = strings.NewReplacer("="+packaged+" ", "=/bin/true ", "=/usr/bin/systemctl ", "=/bin/true ", "=/usr/bin/install ", "=/bin/true ")
