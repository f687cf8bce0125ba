//go:build unix

package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string, mode fs.FileMode) func(*testing.T) {
		return func(t *testing.T) {
			if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name         string
		prepare      func(*testing.T)
		want, remedy string // "" for none
	}{
		{"right", write("nodeName: a\n", 0o644), "", ""},
		{"empty", write("", 0o600), "", ""},
		{"for reading alone", write("", 0o444), "", ""},
		{"through a link", func(t *testing.T) {
			if err := errors.Join(os.WriteFile(path+".real", nil, 0o600), os.Symlink(path+".real", path)); err != nil {
				t.Fatal(err)
			}
		}, "", ""},
		{"of the largest size", write(strings.Repeat("#234567\n", MaxSize/8), 0o600), "", ""},
		{"too large", write(strings.Repeat("#234567\n", MaxSize/8)+"#", 0o600), "cannot use the configuration: PATH is larger than 1048576 bytes", "name another file with --config"},
		{"a link to nothing", func(t *testing.T) {
			if err := os.Symlink(path+".none", path); err != nil {
				t.Fatal(err)
			}
		}, "cannot use the configuration: open PATH: no such file or directory", "write it, or name another with --config; nodejoin config print shows what can be in it"},
		{"missing", func(*testing.T) {}, "cannot use the configuration: open PATH: no such file or directory", "write it, or name another with --config; nodejoin config print shows what can be in it"},
		{"writable by its group", write("", 0o620), "cannot use the configuration: PATH is writable by others (mode 0620)", "chmod go-w PATH, after a look at what is in it"},
		{"writable by everybody", write("", 0o602), "cannot use the configuration: PATH is writable by others (mode 0602)", "chmod go-w PATH, after a look at what is in it"},
		{"a directory", func(t *testing.T) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "cannot use the configuration: PATH is not a regular file", "name a file with --config"},
		{"a pipe", func(t *testing.T) { // opening it must not wait for a writer
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "cannot use the configuration: PATH is not a regular file", "name a file with --config"},
		{"with a mistake", write("nodeName: a\nshoe: 42\n", 0o600), "PATH:2: shoe: unknown key", "correct the file, then check it: nodejoin config validate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			test.prepare(t)
			f, err := Load(path)
			if test.want == "" {
				if err != nil || f == nil {
					t.Errorf("%v, %v", f, err)
				}
				return
			}
			if err == nil || f != nil {
				t.Fatalf("accepted: %v, %v", f, err)
			}
			replace := func(text string) string { return strings.ReplaceAll(text, "PATH", path) }
			if err.Error() != replace(test.want) || fault.Remedy(err) != replace(test.remedy) || fault.ClassOf(err) != fault.Usage {
				t.Errorf("%d, %q\n%q", fault.ClassOf(err), err, fault.Remedy(err))
			}
			if missing := strings.Contains(test.want, "no such file"); errors.Is(err, fs.ErrNotExist) != missing {
				t.Errorf("is fs.ErrNotExist: %t", !missing)
			}
		})
	}
}

func TestLoadOwnership(t *testing.T) {
	expect.Root(t)
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if err == nil || err.Error() != "cannot use the configuration: "+path+" belongs to another user (uid 65534)" || fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}

func TestLoadUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, fs.ErrPermission) || fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}
