package pending

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// scratch returns an empty directory, whose files are removed one by one: os.RemoveAll needs more of a file system.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pending") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				t.Error(err)
			}
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func put(path, content string) error {
	f, err := New(path, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(content); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	return errors.Join(f.CloseAtomicallyReplace(), f.Cleanup())
}

func want(t *testing.T, path, content string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != content {
		t.Errorf("%s holds %q, want %q: %v", path, data, content, err)
	}
}

// TestReplace: a file takes the place of another, whole; one that does not leaves nothing.
func TestReplace(t *testing.T) {
	dir := scratch(t)
	path := filepath.Join(dir, "file")
	for _, content := range []string{"first", "second"} {
		if err := put(path, content); err != nil {
			t.Fatal(err)
		}
		want(t, path, content)
	}
	f, err := New(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Cleanup(); err != nil {
		t.Error(err)
	}
	want(t, path, "second")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there are %v: %v", entries, err)
	}
}

// TestReplaceRead: whoever reads the file, and so keeps it from being replaced, is waited for, but not for ever.
func TestReplaceRead(t *testing.T) {
	path := filepath.Join(scratch(t), "file")
	if err := put(path, "first"); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	closed := time.AfterFunc(5*renameAgain, func() { _ = reader.Close() })
	defer closed.Stop()
	if err := put(path, "second"); err != nil {
		t.Fatal(err)
	}
	want(t, path, "second")

	if reader, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := put(path, "third"); !errors.Is(err, windows.ERROR_SHARING_VIOLATION) && !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		t.Errorf("a file that stays open was replaced: %v", err)
	}
	want(t, path, "second")
}

// TestCreate: what is there is not written to.
func TestCreate(t *testing.T) {
	path := filepath.Join(scratch(t), "file")
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
}

// TestAttributes: a list inherits nothing, and lets users read where the mode lets others.
func TestAttributes(t *testing.T) {
	for _, test := range []struct {
		mode  fs.FileMode
		users bool
	}{{0o600, false}, {0o700, false}, {0o640, false}, {0o644, true}, {0o755, true}} {
		access, err := attributes(test.mode, "OICI")
		if err != nil {
			t.Fatal(err)
		}
		control, _, err := access.SecurityDescriptor.Control()
		if err != nil || control&windows.SE_DACL_PROTECTED == 0 {
			t.Errorf("%#o: it inherits: %v, %v", test.mode, control, err)
		}
		if list := access.SecurityDescriptor.String(); strings.Contains(list, ";BU)") != test.users || !strings.Contains(list, ";SY)") || !strings.Contains(list, ";BA)") {
			t.Errorf("%#o: %s", test.mode, list)
		}
	}
}
