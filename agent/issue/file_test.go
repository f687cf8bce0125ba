package issue

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestCreateNeverOver(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if err := Absent(p, "remedy"); fault.ClassOf(err) != fault.Files {
			t.Errorf("Absent says of %s: %v", p, err)
		}
		if err := Create(p, []byte("second")); fault.ClassOf(err) != fault.Files {
			t.Errorf("Create says of %s: %v", p, err)
		}
	}
	data, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(data) != "first" || info.Mode() != 0o600 {
		t.Errorf("got %q, %v, %v, %v", data, info.Mode(), err, statErr)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("written through a link")
	}
}

// TestPendingDamaged has a file with something else than a key be told of, and not repeated.
func TestPendingDamaged(t *testing.T) {
	keep := Pending{filepath.Join(t.TempDir(), "jane.kubeconfig.pending")}
	wish := UserTemplate("jane", []string{"developers"}, 0)
	first, err := keep.Request(wish, csr.DefaultAlgorithm)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := keep.Request(wish, csr.DefaultAlgorithm); err != nil || second.Name != first.Name {
		t.Errorf("got %v, %v, want %s", second, err, first.Name)
	}
	if _, err := keep.Request(UserTemplate("jane", nil, 0), csr.DefaultAlgorithm); fault.ClassOf(err) != fault.Files {
		t.Errorf("another wish: %v", err)
	}
	if err := os.WriteFile(keep.Path, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = " is damaged: there is no key in it"
	if _, err := keep.Request(wish, csr.DefaultAlgorithm); err == nil || err.Error() != keep.Path+want {
		t.Errorf("got %v", err)
	}
}

// TestReplace: a link stays, and nobody else may read what it leads to, also where nothing could be written.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	file, path := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", path); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	target, linkErr := os.Readlink(path)
	if err != nil || statErr != nil || linkErr != nil || string(data) != "new" || info.Mode() != 0o600 || target != "file" {
		t.Errorf("got %q, %v, a link to %q: %v, %v, %v", data, info.Mode(), target, err, statErr, linkErr)
	}
	expect.Fault(t, Replace(filepath.Join(dir, "none"), nil), fault.Files, "no such file")
}
