package rotate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// TestResetOrder: each removal is durable before the next.
func TestResetOrder(t *testing.T) {
	needsStrace(t)
	store, root := installed(t)
	disturbed["as it was left"](t, store)
	plan, err := store.PlanReset()
	must(t, err)
	calls, err := traced(t, "reset", root, "")
	must(t, err)
	var removed []string
	for i, c := range calls {
		if c.name != "unlinkat" || c.failed {
			continue
		}
		removed = appendNew(removed, c.path)
		next := after(t, calls, i, "fsync of "+filepath.Dir(c.path), isSync(filepath.Dir(c.path)))
		if slices.ContainsFunc(calls[i+1:next], func(c call) bool { return c.name != "openat" }) {
			t.Errorf("something is done before it is durable that %s is gone", c.path)
		}
	}
	if diff := cmp.Diff(plan.Removed, removed); diff != "" {
		t.Errorf("(-planned +removed):\n%s", diff)
	}
}

// TestResetKilled kills a reset before every removal, and before every time that one is made durable.
func TestResetKilled(t *testing.T) {
	needsStrace(t)
	for name, disturb := range disturbed {
		for _, by := range []string{"unlinkat", "fsync"} {
			t.Run(name+"/"+by, func(t *testing.T) {
				t.Parallel()
				store, root := installed(t)
				disturb(t, store)
				reset(t, store)
				want := tree(t, root)
				n := 1
				for ; ; n++ {
					store, root := installed(t)
					disturb(t, store)
					if !resetKilled(t, root, by, n) {
						break
					}
					waitForLock(t, store)
					reset(t, store)
					if got := tree(t, root); !slices.Equal(got, want) {
						t.Errorf("killed before the %d. %s: there is (-want +got):\n%s", n, by, cmp.Diff(want, got))
					}
				}
				if t.Logf("killed %d times", n-1); n < 5 {
					t.Error("it was hardly killed")
				}
			})
		}
	}
}

// resetKilled runs a reset and kills it before the n. system call of a name. It reports whether it was.
func resetKilled(t *testing.T, root, name string, n int) (killed bool) {
	t.Helper()
	unlocked(t, func() error {
		_, err := traced(t, "reset", root, fmt.Sprintf("%s:signal=KILL:when=%d", name, n))
		exit, ok := errors.AsType[*exec.ExitError](err)
		switch {
		case !ok:
			return err
		case exit.ExitCode() == int(fault.Held):
			return fault.New(fault.Held, "wait", "the lock is held")
		case exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL:
			return err
		}
		killed = true
		return nil
	})
	return killed
}

// TestResetFails: what cannot be removed is an error with a remedy, what was removed until then is told, and the next one
// does the rest.
func TestResetFails(t *testing.T) {
	store, root := installed(t)
	twice(t, store)
	for _, path := range tree(t, root) {
		info, err := os.Lstat(filepath.Join(root, path))
		must(t, err)
		if mode := info.Mode(); mode&os.ModeSymlink == 0 {
			must(t, os.Chmod(filepath.Join(root, path), mode.Perm()|0o055))
		}
	}
	must(t, os.Chmod(root, 0o755))
	must(t, os.Chown(root+"/etc/kubernetes", 65534, 0))
	asNobody(t, func() {
		done, err := store.Reset()
		expect.Fault(t, err, fault.Files, "cannot remove: remove "+root+currentPath+": permission denied")
		if fmt.Sprint(done.Removed) != "["+root+configPath+"]" {
			t.Errorf("removed %q", done.Removed)
		}
	})
	must(t, os.Chmod(root+statePath, 0o600))
	asNobody(t, func() {
		_, err := store.Reset()
		expect.Fault(t, err, fault.Files, "cannot read this node's files: open "+root+statePath)
	})
	reset(t, store)
	if got := tree(t, root); !slices.Equal(got, []string{"etc", "etc/hosts", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status"}) {
		t.Errorf("left: %q", got)
	}
}
