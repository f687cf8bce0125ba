package rotate

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// windowsStore returns a store whose paths have a drive, and removes what is left of it one by one: os.RemoveAll needs more of
// a file system.
func windowsStore(t *testing.T) (*Store, Paths) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rotate") //nolint:usetesting // see above
	must(t, err)
	t.Cleanup(func() {
		var all []string
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			all = append(all, path)
			return err
		})
		for _, path := range slices.Backward(all) {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	})
	paths := Paths{
		Kubeconfig: filepath.Join(dir, "etc", "kubelet.conf"), CAFile: filepath.Join(dir, "etc", "pki", "ca.crt"),
		CertDir: filepath.Join(dir, "var", "pki"), StateDir: filepath.Join(dir, "var", "nodejoin"),
	}
	return NewStore(paths), paths
}

// TestWindowsStore: an identity is written, found again, replaced, locked and removed.
func TestWindowsStore(t *testing.T) {
	store, paths := windowsStore(t)
	lock, err := store.Lock()
	must(t, err)
	if _, err := NewStore(paths).Lock(); fault.ClassOf(err) != fault.Held {
		t.Errorf("locked twice: %v", err)
	}
	now := time.Now()
	var last *KeyPair
	for i := range 4 {
		last = makePair(t)
		must(t, store.Commit(kubeconfigOf(last), now.Add(time.Duration(i)*time.Minute)))
		disk, err := NewStore(paths).Load()
		must(t, err)
		if !disk.Whole() || disk.Pair.Fingerprint() != last.Fingerprint() || disk.Replaced {
			t.Fatalf("after the commit %d: %+v", i, disk.Found)
		}
	}
	if files, err := store.Client.pairFiles(); err != nil || len(files) != keptPairs {
		t.Errorf("there are %v: %v", files, err)
	}
	must(t, store.Client.SavePendingKey([]byte("key")))
	must(t, store.Client.DropPendingKey())
	removal, err := store.Reset()
	must(t, err)
	if len(removal.Left) != 0 {
		t.Errorf("left: %v", removal.Left)
	}
	must(t, lock.Unlock())
	for _, path := range []string{paths.Kubeconfig, paths.CAFile, paths.CertDir, filepath.Join(paths.StateDir, lockName), filepath.Join(paths.StateDir, stateName)} {
		if !isMissing(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if lock, err = store.Lock(); err != nil {
		t.Fatal(err)
	}
	must(t, lock.Unlock())
}

// TestWindowsWatch: a file that is replaced, removed and made again in a directory that came later is told of.
func TestWindowsWatch(t *testing.T) {
	store, paths := windowsStore(t)
	watcher, err := NewWatcher([]string{paths.Kubeconfig, paths.CAFile}, slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watcher.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ended)
	}()
	told := func(what string, wanted ...string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for got := []string{}; !slices.Equal(got, wanted); {
			select {
			case more := <-watcher.Events():
				got = slices.Compact(slices.Sorted(slices.Values(append(got, more...))))
			case <-deadline:
				t.Fatalf("%s: told of %q alone", what, got)
			}
		}
	}
	must(t, store.Commit(kubeconfigOf(makePair(t)), time.Now()))
	told("made", paths.Kubeconfig, paths.CAFile)
	must(t, store.CommitCA([]byte("another")))
	told("replaced", paths.CAFile)
	must(t, os.Remove(paths.Kubeconfig))
	told("removed", paths.Kubeconfig)
}

// TestWindowsHook: a hook runs, and is ended at its time limit.
func TestWindowsHook(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		name  string
		hook  Hook
		fails bool
	}{
		{name: "by its name", hook: Hook{Command: []string{"cmd.exe", "/c", "exit 0"}}},
		{name: "by its path", hook: Hook{Command: []string{`C:\Windows\System32\cmd.exe`, "/c", "if not %NODEJOIN_NODE%==worker-1 exit 1"}}},
		{name: "fails", hook: Hook{Command: []string{"cmd.exe", "/c", "exit 3"}}, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.hook.Run(t.Context(), Change{Node: "worker-1"}, log)
			if (err != nil) != test.fails {
				t.Errorf("%v", err)
			}
		})
	}
	started := time.Now()
	slow := Hook{Command: []string{"ping.exe", "-n", "60", "127.0.0.1"}, Timeout: 500 * time.Millisecond}
	if err := slow.Run(t.Context(), Change{}, log); err == nil || errors.Is(err, context.Canceled) || time.Since(started) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(started), err)
	}
}
