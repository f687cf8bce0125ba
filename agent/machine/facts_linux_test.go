package machine

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/test/expect"
)

func TestDisk(t *testing.T) {
	expect.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=10"); err != nil {
		expect.Able(t, "a tmpfs", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	look := func(path string) (freeBytes, freeInodes uint64, readOnly bool) {
		t.Helper()
		freeBytes, freeInodes, readOnly, err := Disk(path)
		if err != nil {
			t.Fatal(err)
		}
		return freeBytes, freeInodes, readOnly
	}
	emptyBytes, emptyInodes, readOnly := look(dir)
	if emptyBytes == 0 || emptyBytes > 1<<20 || emptyInodes == 0 || emptyInodes >= 10 || readOnly {
		t.Errorf("%d bytes, %d inodes, read-only: %t", emptyBytes, emptyInodes, readOnly)
	}
	file := filepath.Join(dir, "file")
	write(t, file, string(make([]byte, 512<<10)))
	freeBytes, freeInodes, _ := look(file)
	if freeBytes != emptyBytes-512<<10 || freeInodes != emptyInodes-1 {
		t.Errorf("%d bytes, %d inodes after one file of 512 KiB; before %d, %d", freeBytes, freeInodes, emptyBytes, emptyInodes)
	}
	if b, i, _ := look(filepath.Join(dir, "not", "yet", "there")); b != freeBytes || i != freeInodes {
		t.Errorf("below: %d bytes, %d inodes instead of %d, %d", b, i, freeBytes, freeInodes)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, readOnly := look(dir); !readOnly {
		t.Error("not read-only")
	}
	if _, _, _, err := Disk(filepath.Join(file, "below a file")); err == nil {
		t.Error("no error for what cannot be")
	}
}

func TestDiskWithoutInodes(t *testing.T) {
	expect.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=0"); err != nil {
		expect.Able(t, "a tmpfs", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if _, inodes, _, err := Disk(dir); err != nil || inodes < 1<<40 {
		t.Errorf("%d inodes, %v", inodes, err)
	}
}

func TestClockSynchronised(t *testing.T) {
	var want unix.Timex
	if _, err := unix.Adjtimex(&want); err != nil {
		expect.Able(t, "adjtimex(2)", err)
	}
	if synchronised, known := ClockSynchronised(); !known || synchronised != (want.Status&unix.STA_UNSYNC == 0) {
		t.Errorf("%t, known: %t; the kernel's status is %#x", synchronised, known, want.Status)
	}
}
