//go:build unix

package rotate

import (
	"bufio"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestLock(t *testing.T) {
	store, root := newStore(t)
	lock, err := store.Lock()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = NewStore(testPaths(root)).Lock()
	expect.Fault(t, err, fault.Held, "another nodejoin is at work on this machine (it holds "+root+"/var/lib/nodejoin)")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := NewStore(testPaths(t.TempDir())).Lock(); err != nil {
		t.Errorf("another machine's: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if lock, err = store.Lock(); err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

// TestLockProcesses: the lock is held against other processes, and given back when its holder is killed.
func TestLockProcesses(t *testing.T) {
	store, root := newStore(t)
	holder, _ := startHolder(t, root)
	_, err := store.Lock()
	expect.Fault(t, err, fault.Held, "another nodejoin")
	output, err := command(t, "lock", root).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != int(fault.Held) {
		t.Errorf("a third process: %v: %s", err, output)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Wait(); err == nil {
		t.Error("it was not killed")
	}
	lock, err := store.Lock()
	if err != nil {
		t.Fatalf("after its holder was killed: %v", err)
	}
	output, err = command(t, "lock", root).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != int(fault.Held) {
		t.Errorf("against ours: %v: %s", err, output)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	next, release := startHolder(t, root)
	if err := release.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.Wait(); err != nil {
		t.Error(err)
	}
}

// startHolder starts a process that holds the lock until it is killed or its input ends.
func startHolder(t *testing.T, root string) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := command(t, "lock", root)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	return cmd, input
}

// TestLockCrowd: many come and go, and take the directory with them when they go. Whoever holds the lock holds that of
// the directory that is there, else it would keep nobody off.
func TestLockCrowd(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "var/lib/dpkg/status"), "", 0o644)
	var held atomic.Int32
	var crowd sync.WaitGroup
	for range 8 {
		crowd.Go(func() {
			for range 300 {
				store := NewStore(testPaths(root))
				lock, err := store.Lock()
				if err != nil {
					if fault.ClassOf(err) != fault.Held {
						t.Error(err)
					}
					continue
				}
				held.Add(1)
				if !sameDir(lock.dir, store.paths.StateDir) {
					t.Error("the lock is that of a directory that is gone")
				}
				store.made = []string{store.paths.StateDir} // whoever made it
				store.Retreat()
				if err := lock.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	crowd.Wait()
	if held.Load() == 0 {
		t.Error("nobody had it")
	}
}
