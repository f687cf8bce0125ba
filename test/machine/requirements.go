package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// programs are what the test calls, and the Debian packages that have them.
var programs = []struct{ name, pkg string }{
	{"systemd-nspawn", "systemd-container"},
	{"debootstrap", "debootstrap"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"fsfreeze", "util-linux"},
	{"mkfs.ext4", "e2fsprogs"},
	{"mount", "mount"},
	{"dpkg-deb", "dpkg"},
	{"make", "make"},
	{"git", "git"},
	{"rpm", "rpm"},
}

// requirements returns what this machine has not got, after installing what can be installed.
func (s *setup) requirements(ctx context.Context) []string {
	if runtime.GOOS != "linux" {
		return []string{"Linux"}
	}
	if os.Geteuid() != 0 {
		return []string{"root: machines are booted by systemd-nspawn, with mounts and networks of their own"}
	}
	if absent := absentPackages(); len(absent) > 0 && os.Getenv("NODEJOIN_NO_INSTALL") != "1" {
		if _, err := exec.LookPath("apt-get"); err == nil {
			install := grouped(exec.CommandContext(ctx, filepath.Join(".ci", "install"), absent...))
			install.Stderr = os.Stderr
			_ = install.Run() // what is missing still is told below
		}
	}
	var missing []string
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			missing = append(missing, p.name+" (Debian's package "+p.pkg+")")
		}
	}
	// Containers often may make no namespaces, even as root.
	attempt := exec.CommandContext(ctx, "true")
	attempt.SysProcAttr = &syscall.SysProcAttr{Cloneflags: testNamespaces}
	if err := attempt.Run(); err != nil {
		missing = append(missing, "the right to make namespaces of mounts, processes and networks: "+err.Error())
	}
	if err := tryCgroups(); err != nil {
		missing = append(missing, "cgroups in which machines can be made: "+err.Error())
	}
	if s.wants("6") {
		if err := tryLoop(); err != nil {
			missing = append(missing, "a loop device, for a file system that can be frozen (point 6): "+err.Error())
		}
	}
	return missing
}

// tryCgroups makes the cgroups that the test would make, and removes them.
func tryCgroups() error {
	groups, err := ownCgroups()
	for _, group := range groups {
		err = errors.Join(err, removeCgroup(group))
	}
	return err
}

// tryLoop asks for a free loop device, see loop(4). In a container its number may be known, and its file not be there.
func tryLoop() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fmt.Errorf("ask /dev/loop-control for a free one: %w", err)
	}
	device, err := os.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return device.Close()
}

func absentPackages() []string {
	var absent []string
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil && !slices.Contains(absent, p.pkg) {
			absent = append(absent, p.pkg)
		}
	}
	return absent
}
