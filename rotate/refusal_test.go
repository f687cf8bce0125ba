//go:build linux

package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// directories are those of a store, each with something in it.
var directories = []string{"var/lib/kubelet/pki", "var/lib/nodejoin", "etc/kubernetes", "etc/kubernetes/pki"}

// joined returns a store of a machine that has joined, with a pending key and a state.
func joined(t *testing.T) (*Store, string) {
	t.Helper()
	store, root := newStore(t)
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	if err := store.Client.SavePendingKey(pendingKey); err != nil {
		t.Fatal(err)
	}
	return store, root
}

// TestRefusedDirectory: a directory that somebody else can change is refused, by what reads and by what writes.
func TestRefusedDirectory(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(dir string) error
		root   bool
		want   string
		remedy string
	}{
		{"writable by the group", func(dir string) error { return os.Chmod(dir, 0o775) }, false, "is writable by others (mode 0775)", "chmod go-w "},
		{"writable by all", func(dir string) error { return os.Chmod(dir, 0o757) }, false, "is writable by others (mode 0757)", "chmod go-w "},
		{"writable by all, sticky", func(dir string) error { return os.Chmod(dir, os.ModeSticky|0o777) }, false, "is writable by others (mode 0777)", "chmod go-w "},
		{"of another user", func(dir string) error { return os.Chown(dir, 4711, 0) }, true, "belongs to another user (uid 4711)", "chown root "},
		{"a file", func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		}, false, "not a directory", "move it"},
		{"a link that leads nowhere", func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.Symlink("/nowhere/at/all", dir)
		}, false, "is a link that leads nowhere", "rm "},
		{"a link to a directory that all can write to", func(dir string) error {
			other := filepath.Join(tempDir(t), "other")
			if err := os.Rename(dir, other); err != nil {
				return err
			}
			if err := os.Chmod(other, 0o777); err != nil {
				return err
			}
			return os.Symlink(other, dir)
		}, false, "is writable by others", "chmod go-w "},
	} {
		for _, dir := range directories {
			t.Run(test.name+"/"+dir, func(t *testing.T) {
				if test.root {
					expect.Root(t)
				}
				store, root := joined(t)
				if err := test.spoil(filepath.Join(root, dir)); err != nil {
					t.Fatal(err)
				}
				before := fmt.Sprint(modes(t, root))
				_, err := store.Load()
				expect.Fault(t, err, fault.Files, test.want)
				if !strings.Contains(fault.Remedy(err), test.remedy) {
					t.Errorf("the remedy is %q", fault.Remedy(err))
				}
				if dir == "var/lib/nodejoin" {
					expect.Fault(t, store.Client.SavePendingKey(pendingKey), fault.Files, test.want)
					_, err := store.Lock()
					expect.Fault(t, err, fault.Files, test.want)
				} else {
					expect.Fault(t, store.Commit(kubeconfigOf(pairNo(t, 1)), testTime), fault.Files, test.want)
				}
				if after := fmt.Sprint(modes(t, root)); after != before {
					t.Errorf("something was written:\n%s\n%s", before, after)
				}
			})
		}
	}
}

func TestLink(t *testing.T) {
	const file = "kubelet-client-2026-03-14-15-09-26.pem"
	for _, test := range []struct {
		name, target string
		refused      bool
	}{
		{"outside", "/etc/passwd", true},
		{"outside, to a pair", "OUTSIDE/pair.pem", true},
		{"upwards", "../pki/" + file, true},
		{"upwards, hidden", "x/../../pki/" + file, true},
		{"into a directory", "sub/" + file, true},
		{"the parent", "..", true},
		{"the directory", ".", true},
		{"like ours, elsewhere", "/var/lib/kubelet/pki2/" + file, true},
		{"inside, the long way", "/var/lib/kubelet/../kubelet/pki/" + file, false},
		{"inside, absolute", "/var/lib/kubelet/pki/" + file, false},
		{"inside", file, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, root := joined(t)
			outside := t.TempDir()
			write(t, filepath.Join(outside, "pair.pem"), string(pairNo(t, 1).pem), 0o600)
			current := filepath.Join(store.paths.CertDir, currentName)
			if err := os.Remove(current); err != nil {
				t.Fatal(err)
			}
			link(t, strings.Replace(test.target, "OUTSIDE", outside, 1), current)
			disk, err := store.Load()
			if test.refused {
				expect.Fault(t, err, fault.Files, "points outside its directory")
				if fault.Remedy(err) != "look at who changed it, then remove the link: rm "+filepath.Join(root, "var/lib/kubelet/pki", currentName) {
					t.Errorf("the remedy is %q", fault.Remedy(err))
				}
				return
			}
			if err != nil || disk.Pair == nil || disk.Pair.Fingerprint() != pairNo(t, 0).Fingerprint() {
				t.Errorf("got %+v, %v", disk, err)
			}
		})
	}
}

// TestDamaged: what is torn, empty or missing is told as such, and the next rotation mends it.
func TestDamaged(t *testing.T) {
	pair := pairNo(t, 0)
	chain, key := parts(t, pair)
	_, otherKey := parts(t, pairNo(t, 1))
	current := func(s *Store) string { return filepath.Join(s.paths.CertDir, currentName) }
	rewrite := func(content []byte) func(*Store) error {
		return func(s *Store) error { return os.WriteFile(current(s), content, 0o600) }
	}
	for _, test := range []struct {
		name   string
		damage func(*Store) error
		reason Reason
		want   string
	}{
		{"nothing", func(*Store) error { return nil }, "", ""},
		{"a torn pair", rewrite(pair.pem[:300]), Unreadable, "no usable key and certificate"},
		{"an empty pair", rewrite(nil), Unreadable, "no usable key and certificate"},
		{"a pair of zeros", rewrite(make([]byte, 4096)), Unreadable, "no usable key and certificate"},
		{"the chain alone", rewrite(chain), Unreadable, "no usable key and certificate"},
		{"the key alone", rewrite(key), Unreadable, "no usable key and certificate"},
		{"another key", rewrite(join(chain, otherKey)), Unreadable, "private key does not match"},
		{"a dangling link", func(s *Store) error {
			target, err := os.Readlink(current(s))
			if err != nil {
				return err
			}
			return os.Remove(filepath.Join(s.paths.CertDir, target))
		}, Unreadable, "no such file"},
		{"a directory for the link", func(s *Store) error {
			if err := os.Remove(current(s)); err != nil {
				return err
			}
			return os.Mkdir(current(s), 0o755)
		}, Unreadable, "is a directory"},
		{"a link to itself", func(s *Store) error {
			if err := os.Remove(current(s)); err != nil {
				return err
			}
			return os.Symlink(currentName, current(s))
		}, Unreadable, "too many levels"},
		{"a directory for the kubeconfig", func(s *Store) error {
			if err := os.Remove(s.paths.Kubeconfig); err != nil {
				return err
			}
			return os.Mkdir(s.paths.Kubeconfig, 0o755)
		}, "", ""},
		{"no link, and a kubeconfig that names it", func(s *Store) error { return os.Remove(current(s)) }, Missing, ""},
		{"no files at all", func(s *Store) error { return os.RemoveAll(s.paths.Root) }, Missing, ""},
		{"a file for the link", func(s *Store) error {
			if err := os.Remove(current(s)); err != nil {
				return err
			}
			return os.WriteFile(current(s), pair.pem, 0o600)
		}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, _ := newStore(t)
			if err := rotation(store, pair, testTime); err != nil {
				t.Fatal(err)
			}
			if err := test.damage(store); err != nil {
				t.Fatal(err)
			}
			disk := mustLoad(t, store)
			reason, message := WhyReplace(&disk.Found, wantedNode, testTime)
			if reason != test.reason || !strings.Contains(message, test.want) {
				t.Errorf("got %s: %s", reason, message)
			}
			if test.reason != "" && disk.Whole() {
				t.Error("it is whole")
			}
			err := rotation(store, pairNo(t, 1), testTime)
			if strings.HasPrefix(test.name, "a directory for") { // it may hold something: a person must look
				expect.Fault(t, err, fault.Files, "file exists")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantWhole(t, store, pairNo(t, 1))
		})
	}
}

// asNobody does something with the rights of another user.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	expect.Root(t)
	runtime.LockOSThread() // these rights are the thread's
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

func TestUnreadable(t *testing.T) {
	for _, path := range []string{
		"var/lib/kubelet/pki/" + currentName, "etc/kubernetes/kubelet.conf", "var/lib/nodejoin/" + pendingName, "var/lib/nodejoin/" + stateName, "etc/kubernetes/pki/ca.crt",
	} {
		t.Run(path, func(t *testing.T) {
			store, root := joined(t)
			for dir := root; dir != "/"; dir = filepath.Dir(dir) { // the way there is free
				if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
					if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
						t.Fatal(err)
					}
				}
			}
			for file, mode := range modes(t, root) {
				switch {
				case mode.IsDir():
					mode = 0o755
				case !mode.IsRegular():
					continue
				case file == path, strings.HasPrefix(file, "var/lib/kubelet/pki/") && strings.HasPrefix(path, "var/lib/kubelet/pki/"):
					mode = 0o600
				default:
					mode = 0o644
				}
				if err := os.Chmod(filepath.Join(root, file), mode); err != nil {
					t.Fatal(err)
				}
			}
			if path == "var/lib/kubelet/pki/"+currentName { // which leads there, too
				if err := os.Remove(store.paths.Kubeconfig); err != nil {
					t.Fatal(err)
				}
			}
			asNobody(t, func() {
				_, err := store.Load()
				expect.Fault(t, err, fault.Files, "cannot read this node's files: open ")
			})
		})
	}
}

// TestForbidden is of a user who may not write.
func TestForbidden(t *testing.T) {
	store, root := joined(t)
	before := fmt.Sprint(modes(t, root))
	asNobody(t, func() {
		for what, err := range map[string]error{
			"commit": store.Commit(kubeconfigOf(pairNo(t, 1)), testTime), "pending key": store.Client.SavePendingKey(pendingKey),
			"state": verified(store, "x"), "drop": store.Client.DropPendingKey(), "kubeconfig": store.CommitKubeconfig(kubeconfigOf(nil)), "CA": store.CommitCA(testCA),
		} {
			t.Run(what, func(t *testing.T) { expect.Fault(t, err, fault.Files, "permission denied") })
		}
		_, err := NewStore(testPaths(filepath.Join(root, "new"))).Lock()
		expect.Fault(t, err, fault.Files, "permission denied")
	})
	if after := fmt.Sprint(modes(t, root)); after != before {
		t.Errorf("something was written:\n%s\n%s", before, after)
	}
	wantWhole(t, store, pairNo(t, 0))
}
