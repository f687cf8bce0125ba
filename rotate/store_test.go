//go:build unix

package rotate

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// contract is what a rotation leaves on disk, with modes.
var contract = map[string]fs.FileMode{
	"etc":                                fs.ModeDir | 0o755,
	"etc/kubernetes":                     fs.ModeDir | 0o755,
	"etc/kubernetes/kubelet.conf":        0o600,
	"etc/kubernetes/pki":                 fs.ModeDir | 0o755,
	"etc/kubernetes/pki/ca.crt":          0o644,
	"var":                                fs.ModeDir | 0o755,
	"var/lib":                            fs.ModeDir | 0o755,
	"var/lib/kubelet":                    fs.ModeDir | 0o755,
	"var/lib/kubelet/pki":                fs.ModeDir | 0o755,
	"var/lib/nodejoin":                   fs.ModeDir | 0o700,
	"var/lib/nodejoin/state.json":        0o600,
	"var/lib/kubelet/pki/" + currentName: fs.ModeSymlink | 0o777,
	"var/lib/kubelet/pki/kubelet-client-2026-03-14-15-09-26.pem": 0o600,
}

func modes(tb testing.TB, root string) map[string]fs.FileMode {
	tb.Helper()
	found := make(map[string]fs.FileMode)
	for _, path := range tree(tb, root) {
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil {
			tb.Fatal(err)
		}
		found[path] = info.Mode()
	}
	return found
}

// TestContract holds what is written against the contract, whatever the umask. It does not run in parallel: the umask
// is the process's.
func TestContract(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			store, root := newStore(t)
			defer unix.Umask(unix.Umask(umask))
			pair := pairNo(t, 0)
			if err := rotation(store, pair, testTime); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(contract, modes(t, root)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			target, err := os.Readlink(filepath.Join(root, "var/lib/kubelet/pki", currentName))
			if err != nil || target != "kubelet-client-2026-03-14-15-09-26.pem" {
				t.Errorf("the link leads to %q, %v", target, err)
			}
			if got := read(t, filepath.Join(root, "var/lib/kubelet/pki", target)); got != string(pair.pem) {
				t.Errorf("the pair is %s", got)
			}
			if got := read(t, filepath.Join(root, "etc/kubernetes/pki/ca.crt")); got != string(testCA) {
				t.Errorf("the CA bundle is %s", got)
			}
			wantWhole(t, store, pair)
		})
	}
}

func TestPendingKeyMode(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		store, root := newStore(t)
		old := unix.Umask(umask)
		err := store.Client.SavePendingKey(pendingKey)
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if mode := modes(t, root)["var/lib/nodejoin/"+pendingName]; mode != 0o600 {
			t.Errorf("with umask %03o its mode is %s", umask, mode)
		}
	}
}

// TestCommitAgain commits again and again, whatever the clock does: no file name is used a second time, the pair before
// is kept, and those before it are not.
func TestCommitAgain(t *testing.T) {
	for name, clock := range map[string]func(i int) time.Time{
		"a clock that stands still": func(int) time.Time { return testTime },
		"a clock that goes back":    func(i int) time.Time { return testTime.Add(-time.Duration(i) * time.Hour) },
		"a clock that jumps":        func(i int) time.Time { return testTime.AddDate(2*(i%2), 0, 0) },
		"a clock that runs":         func(i int) time.Time { return testTime.Add(time.Duration(i) * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, root := newStore(t)
			var seen []string
			for i := range 12 {
				commit(t, store, pairNo(t, i%3), clock(i))
				target, err := os.Readlink(filepath.Join(root, "var/lib/kubelet/pki", currentName))
				if err != nil || slices.Contains(seen, target) {
					t.Fatalf("commit %d: the link leads to %q, %v", i, target, err)
				}
				seen = append(seen, target)
				var kept []string
				for _, path := range tree(t, store.paths.CertDir) {
					if path != currentName {
						kept = append(kept, path)
					}
				}
				if want := seen[max(0, i-1):]; !slices.Equal(kept, want) {
					t.Fatalf("commit %d: the pairs are %q, want %q", i, kept, want)
				}
				wantWhole(t, store, pairNo(t, i%3))
			}
		})
	}
}

// TestReaders load what is there while it is replaced two hundred times within a second of the clock.
func TestReaders(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	commit(t, store, pairNo(t, 0), testTime)
	r := readersOf(t, func() error { return readAsKubelet(store.paths.CertDir, currentName) }, func() error {
		disk, err := store.Load()
		return errors.Join(err, diskError(disk))
	})
	defer r.end()
	for i := range 200 {
		commit(t, store, pairNo(t, i%3), testTime)
		r.catchUp()
	}
	wantWhole(t, store, pairNo(t, 199%3))
}

// readAsKubelet reads the link as a kubelet's process does, with one opening of the file.
func readAsKubelet(dir, link string) error {
	data, err := os.ReadFile(filepath.Join(dir, link))
	if err == nil {
		_, err = tls.X509KeyPair(data, data)
	}
	return err
}

func diskError(disk *Disk) error {
	switch {
	case disk == nil:
		return nil
	case disk.Pair == nil || disk.Kubeconfig == nil:
		return errors.Join(errors.New("something is missing"), disk.PairErr, disk.KubeconfigErr)
	}
	return errors.Join(disk.PairErr, disk.KubeconfigErr)
}

// TestAdopt loads what a kubelet has written: an absolute link, a kubeconfig with the CA inline.
func TestAdopt(t *testing.T) {
	pair := pairNo(t, 0)
	const file = "kubelet-client-2026-01-01-00-00-00.pem"
	kubelets := config(", certificate-authority-data: "+base64.StdEncoding.EncodeToString(testCA), "client-certificate: /var/lib/kubelet/pki/"+currentName+", client-key: /var/lib/kubelet/pki/"+currentName)
	for name, target := range map[string]string{
		"an absolute link": "/var/lib/kubelet/pki/" + file,
		"a relative link":  file,
		"through the root": "ROOT/var/lib/kubelet/pki/" + file,
	} {
		t.Run(name, func(t *testing.T) {
			store, root := newStore(t)
			dir := filepath.Join(root, "var/lib/kubelet/pki")
			write(t, filepath.Join(dir, file), string(pair.pem), 0o600)
			link(t, strings.Replace(target, "ROOT", root, 1), filepath.Join(dir, currentName))
			write(t, filepath.Join(root, "etc/kubernetes/kubelet.conf"), kubelets, 0o600)
			before := modes(t, root)
			disk := mustLoad(t, store)
			if disk.PairErr != nil || disk.Pair == nil || disk.Pair.Fingerprint() != pair.Fingerprint() {
				t.Fatalf("the pair: %+v, %v", disk.Pair, disk.PairErr)
			}
			if !disk.Whole() || disk.PairPath != store.Client.CurrentPath() {
				t.Errorf("the kubeconfig: %+v, %v; the pair's path: %s", disk.Kubeconfig, disk.KubeconfigErr, disk.PairPath)
			}
			if diff := cmp.Diff(before, modes(t, root)); diff != "" {
				t.Errorf("loading has changed something:\n%s", diff)
			}
			if reason, message := WhyReplace(&disk.Found, wantedNode, testTime); reason != "" {
				t.Errorf("to be replaced: %s: %s", reason, message)
			}
			// A rotation begins where the kubelet's ended.
			if err := rotation(store, pairNo(t, 1), testTime); err != nil {
				t.Fatal(err)
			}
			wantWhole(t, store, pairNo(t, 1))
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				t.Errorf("the pair before is gone: %v", err)
			}
		})
	}
	t.Run("inline alone", func(t *testing.T) {
		store, root := newStore(t)
		chain, key := parts(t, pair)
		text := strings.NewReplacer("PAIR", "client-certificate-data: "+base64.StdEncoding.EncodeToString(chain)+", client-key-data: "+base64.StdEncoding.EncodeToString(key)).Replace(config("", "PAIR"))
		write(t, filepath.Join(root, "etc/kubernetes/kubelet.conf"), text, 0o600)
		if disk := mustLoad(t, store); !disk.Whole() || disk.Pair.Fingerprint() != pair.Fingerprint() || disk.PairPath != "/etc/kubernetes/kubelet.conf" {
			t.Errorf("got %+v", disk)
		}
	})
}

// TestAbsoluteLinkStaysBelowRoot: an image's link must not lead to the identity of the machine that builds it.
func TestAbsoluteLinkStaysBelowRoot(t *testing.T) {
	image, machine := t.TempDir(), t.TempDir()
	paths := testPaths(image)
	paths.CertDir = filepath.Join(machine, "pki") // below image, it is image/machine/pki
	store := NewStore(paths)
	write(t, filepath.Join(paths.CertDir, "kubelet-client-2026-01-01-00-00-00.pem"), string(pairNo(t, 0).pem), 0o600)
	write(t, filepath.Join(image, paths.CertDir, "kubelet-client-2026-01-01-00-00-00.pem"), string(pairNo(t, 1).pem), 0o600)
	link(t, filepath.Join(paths.CertDir, "kubelet-client-2026-01-01-00-00-00.pem"), filepath.Join(image, paths.CertDir, currentName))
	disk := mustLoad(t, store)
	if disk.Pair == nil || disk.Pair.Fingerprint() != pairNo(t, 1).Fingerprint() {
		t.Errorf("loaded the machine's: %v, %v", disk.Pair, disk.PairErr)
	}
}

// TestWrittenPathsHaveNoRoot searches everything that is written for the root.
func TestWrittenPathsHaveNoRoot(t *testing.T) {
	store, root := newStore(t)
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	for _, path := range tree(t, root) {
		full := filepath.Join(root, path)
		info, err := os.Lstat(full)
		if err != nil {
			t.Fatal(err)
		}
		var content string
		switch {
		case info.Mode().IsRegular():
			content = read(t, full)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(full); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(content, root) {
			t.Errorf("the root is in %s", path)
		}
	}
	if got := store.Client.CurrentPath(); got != "/var/lib/kubelet/pki/"+currentName {
		t.Errorf("CurrentPath() = %q", got)
	}
}

func TestRetreat(t *testing.T) {
	t.Run("nothing was written", func(t *testing.T) {
		store, root := newStore(t)
		write(t, filepath.Join(root, "etc/hosts"), "", 0o644)
		before := tree(t, root)
		lock, err := store.Lock()
		if err != nil {
			t.Fatal(err)
		}
		staged, err := store.Stage(kubeconfigOf(nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := staged.Discard(); err != nil {
			t.Fatal(err)
		}
		store.Retreat()
		if err := lock.Unlock(); err != nil {
			t.Fatal(err)
		}
		if after := tree(t, root); !slices.Equal(before, after) {
			t.Errorf("before %q, after %q", before, after)
		}
	})
	t.Run("a request is under way", func(t *testing.T) {
		store, _ := newStore(t)
		if err := store.Client.SavePendingKey(pendingKey); err != nil {
			t.Fatal(err)
		}
		store.Retreat()
		if got := mustLoad(t, store).PendingKey; string(got) != string(pendingKey) {
			t.Errorf("the pending key is %q", got)
		}
	})
}

// TestStageLeavesNoTrace: until the commit, nothing that was there changes.
func TestStageLeavesNoTrace(t *testing.T) {
	store, root := newStore(t)
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	staged, err := store.Stage(&Kubeconfig{Server: "https://other:6443", CA: []byte("other")})
	if err != nil {
		t.Fatal(err)
	}
	wantIdentity(t, store, pairNo(t, 0))
	if got := read(t, filepath.Join(root, "etc/kubernetes/kubelet.conf")); got != golden {
		t.Errorf("the kubeconfig is\n%s", got)
	}
	for range 2 {
		if err := staged.Discard(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(contract, modes(t, root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantWhole(t, store, pairNo(t, 0))
}

// TestSweep: whatever temporary files crashes have left, a rotation is the end of them, and nothing else is touched.
func TestSweep(t *testing.T) {
	store, root := newStore(t)
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"var/lib/kubelet/pki/.kubelet-client-2026-03-14-15-09-26.pem123", // of a crash a minute ago
		"var/lib/kubelet/pki/.kubelet-client-2026-03-14-15-10-26.pem456",
		"var/lib/kubelet/pki/." + currentName + "0",
		"etc/kubernetes/pki/.ca.crt789", "etc/kubernetes/.kubelet.conf012",
		"var/lib/nodejoin/." + pendingName + "345", "var/lib/nodejoin/." + stateName + "678",
	} {
		write(t, filepath.Join(root, path), "torn", 0o600)
	}
	foreign := []string{
		"var/lib/kubelet/pki/.kubelet-server-2026-03-14-15-09-26.pem1", "var/lib/kubelet/pki/kubelet.crt", "var/lib/kubelet/pki/kubelet-client.key.tmp",
		"var/lib/kubelet/pki/kubelet-client-old.pem", "etc/kubernetes/pki/.ca.crt", "etc/kubernetes/.kubelet.conf.swp", "etc/kubernetes/pki/etcd/ca.crt",
	}
	for _, path := range foreign {
		write(t, filepath.Join(root, path), "not ours", 0o600)
	}
	if err := rotation(store, pairNo(t, 1), testTime.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, path := range foreign {
		if err := os.Remove(filepath.Join(root, path)); err != nil {
			t.Errorf("it was another's: %v", err)
		}
	}
	wantWhole(t, store, pairNo(t, 1))
}

// TestSetAside keeps a damaged key for a person to look at.
func TestSetAside(t *testing.T) {
	store, root := newStore(t)
	if err := store.Client.SavePendingKey([]byte("torn")); err != nil {
		t.Fatal(err)
	}
	aside, err := store.Client.SetAsidePendingKey()
	if err != nil {
		t.Fatal(err)
	}
	if aside != filepath.Join(root, "var/lib/nodejoin", pendingName+".damaged") || read(t, aside) != "torn" {
		t.Errorf("it is in %s", aside)
	}
	if got := mustLoad(t, store).PendingKey; len(got) != 0 {
		t.Errorf("the pending key is %q", got)
	}
	if _, err := store.Client.SetAsidePendingKey(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
	if err := store.Client.DropPendingKey(); err != nil {
		t.Errorf("there is none to drop, which is fine: %v", err)
	}
}
