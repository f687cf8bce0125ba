package rotate

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// FS_IOC_SHUTDOWN and its flag FSOP_GOING_FLAGS_NOLOGFLUSH (include/uapi/linux/fs.h): what is not on the disk is lost.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// volume is a file system of its own, mounted at dir.
type volume struct {
	t     *testing.T
	dir   string
	image string // the file that holds it
	kind  []string
	cuts  int
}

// newVolume makes an ext4 in a file, and mounts it.
func newVolume(t *testing.T, options string) *volume {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	write(t, image, "", 0o600)
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	expect.Able(t, "an ext4", run(t, "mkfs.ext4", "-q", "-F", image))
	return mounted(t, image, "-t", "ext4", "-o", strings.TrimSuffix("loop,"+options, ","))
}

func mounted(t *testing.T, image string, kind ...string) *volume {
	t.Helper()
	expect.Root(t)
	v := &volume{t: t, dir: t.TempDir(), image: image, kind: kind}
	expect.Able(t, "a mount", v.mount())
	t.Cleanup(func() {
		if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return v
}

// run runs a program that may be in a directory of the administrator's.
func run(t *testing.T, name string, args ...string) error {
	t.Helper()
	if path, err := exec.LookPath("/sbin/" + name); err == nil {
		name = path
	}
	if output, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(output))
	}
	return nil
}

func (v *volume) mount() error { return run(v.t, "mount", append(v.kind, v.image, v.dir)...) }

// sync makes everything durable.
func (v *volume) sync() {
	v.t.Helper()
	top, err := os.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	if err := errors.Join(unix.Syncfs(int(top.Fd())), top.Close()); err != nil {
		v.t.Fatal(err)
	}
}

// cut is a power cut: what is not on the disk is lost.
func (v *volume) cut() {
	v.t.Helper()
	top, err := os.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(int(top.Fd()), shutdown, noLogFlush)
	if closed := top.Close(); closed != nil {
		v.t.Fatal(closed)
	}
	expect.Able(v.t, "FS_IOC_SHUTDOWN", err)
	// Another process may hold on to the mount for a while (a mount namespace, a fork). So the machine starts again
	// with a copy of its disk.
	if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
		v.t.Fatal(err)
	}
	v.cuts++
	before := v.image
	v.image = fmt.Sprintf("%s.%d", strings.TrimSuffix(before, filepath.Ext(before)), v.cuts)
	if err := run(v.t, "cp", "--sparse=always", before, v.image); err != nil {
		v.t.Fatal(err)
	}
	if err := errors.Join(os.Remove(before), v.mount()); err != nil {
		v.t.Fatal(err)
	}
}

// store returns a store in an empty directory, which is durable.
func (v *volume) store(name string) *Store {
	v.t.Helper()
	root := filepath.Join(v.dir, name)
	if err := errors.Join(os.Mkdir(root, 0o755), syncDir(v.dir)); err != nil {
		v.t.Fatal(err)
	}
	return NewStore(testPaths(root))
}

// TestPowerCut cuts the power as soon as a method has returned.
func TestPowerCut(t *testing.T) {
	for _, options := range []string{"", "noauto_da_alloc"} {
		t.Run("ext4 "+options, func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, options)
			store := v.store("machine")
			other := kubeconfigOf(pairNo(t, 1))
			other.Server = "https://other:6443"
			for _, step := range []struct {
				name  string
				do    func() error
				holds func(*Disk) bool
			}{
				{"pending key", func() error { return store.Client.SavePendingKey(pendingKey) }, func(d *Disk) bool { return string(d.PendingKey) == string(pendingKey) }},
				{"join", func() error { return store.Commit(kubeconfigOf(pairNo(t, 0)), testTime) }, func(d *Disk) bool { return d.Whole() && d.Pair.Fingerprint() == pairNo(t, 0).Fingerprint() }},
				{"state", func() error { return verified(store, "x") }, func(d *Disk) bool { return d.Record.Verified == "x" }},
				{"no pending key", store.Client.DropPendingKey, func(d *Disk) bool { return d.PendingKey == nil }},
				{"damaged key", func() error { return store.Client.SavePendingKey([]byte("damaged")) }, func(d *Disk) bool { return string(d.PendingKey) == "damaged" }},
				{"set aside", func() error { _, err := store.Client.SetAsidePendingKey(); return err }, func(d *Disk) bool { return d.PendingKey == nil }},
				{"rotation", func() error { return store.Commit(kubeconfigOf(pairNo(t, 1)), testTime) }, func(d *Disk) bool { return d.Whole() && d.Pair.Fingerprint() == pairNo(t, 1).Fingerprint() }},
				{"state again", func() error { return verified(store, "y") }, func(d *Disk) bool { return d.Record.Verified == "y" }},
				{"kubeconfig", func() error { return store.CommitKubeconfig(other) }, func(d *Disk) bool { return d.Whole() && d.Kubeconfig.Server == other.Server }},
			} {
				if err := step.do(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				v.cut()
				if disk := mustLoad(t, store); !step.holds(disk) {
					t.Errorf("%s: lost: %+v", step.name, disk)
				}
			}
			wantIdentity(t, store, pairNo(t, 1))
		})
	}
}

// TestPowerCutAnywhere cuts the power before each system call that makes something durable or visible.
func TestPowerCutAnywhere(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		for _, name := range []string{"fsync", "renameat", "symlinkat", "unlinkat"} {
			t.Run(scenario.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				v := newVolume(t, "noauto_da_alloc")
				for n := 1; ; n++ {
					store := v.store(strconv.Itoa(n))
					scenario.prepare(t, store)
					before := fingerprint(t, store.paths.Root)
					v.sync() // what it finds has been there for long
					killed := scenario.killed(t, store, name, n)
					v.cut()
					if !killed {
						scenario.whole(t, store)
						return
					}
					scenario.checkRecovery(t, store, before, fmt.Sprintf("cut before the %d. %s", n, name))
				}
			})
		}
	}
}

func TestReadOnly(t *testing.T) {
	v := mounted(t, "none", "-t", "tmpfs", "-o", "size=1m")
	store := v.store("machine")
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	if err := run(t, "mount", "-o", "remount,ro", v.dir); err != nil {
		t.Fatal(err)
	}
	expect.Fault(t, store.Commit(kubeconfigOf(pairNo(t, 1)), testTime), fault.Files, "read-only file system")
	expect.Fault(t, store.Client.SavePendingKey(pendingKey), fault.Files, "read-only file system")
	wantWhole(t, store, pairNo(t, 0))
	if err := run(t, "mount", "-o", "remount,rw", v.dir); err != nil {
		t.Fatal(err)
	}
	if err := rotation(store, pairNo(t, 1), testTime); err != nil {
		t.Fatal(err)
	}
	wantWhole(t, store, pairNo(t, 1))
}

// TestDiskFull leaves less and less room for a rotation. It fails in a way that passes, and the old identity stays.
func TestDiskFull(t *testing.T) {
	v := mounted(t, "none", "-t", "tmpfs", "-o", "size=256k")
	store := v.store("machine")
	if err := rotation(store, pairNo(t, 0), testTime); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(v.dir, "filler")
	for pages := 64; ; pages-- {
		err := os.WriteFile(filler, make([]byte, pages*os.Getpagesize()), 0o600)
		if errors.Is(err, unix.ENOSPC) && pages == 64 {
			err = nil // it is full to the last page
		}
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err = rotation(store, pairNo(t, 1), testTime); err == nil {
			if pages == 64 {
				t.Error("the disk was not full")
			}
			break
		}
		expect.Fault(t, err, 0, "no space left on device")
		wantIdentity(t, store, pairNo(t, 0), pairNo(t, 1))
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	wantWhole(t, store, pairNo(t, 1))
}
