package rotate

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReplaceSecret: the new content takes the place of the old, where the link leads and with its mode; nothing is left beside it.
func TestReplaceSecret(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	file, path := filepath.Join(dir, "data", "token"), filepath.Join(dir, "token")
	write(t, file, "old\n", 0o640)
	link(t, "data/token", path)
	must(t, ReplaceSecret(path, []byte("new\n")))
	got, err := os.ReadFile(path)
	must(t, err)
	info, err := os.Lstat(file)
	must(t, err)
	if string(got) != "new\n" || info.Mode() != 0o640 {
		t.Errorf("it holds %q with the mode %v", got, info.Mode())
	}
	if target, err := os.Readlink(path); err != nil || target != "data/token" {
		t.Errorf("the link leads to %q: %v", target, err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("there are %v", entries)
	}
	if err := ReplaceSecret(filepath.Join(dir, "absent"), []byte("new")); err == nil {
		t.Error("a file that is not there was made")
	}
	must(t, os.Remove(file))
	if err := ReplaceSecret(path, []byte("new")); err == nil {
		t.Error("a link that leads nowhere was replaced")
	}
}
