package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
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
func requirements(ctx context.Context) []string {
	if runtime.GOOS != "linux" {
		return []string{"Linux"}
	}
	if os.Geteuid() != 0 {
		return []string{"root: machines are booted by systemd-nspawn, with mounts and networks of their own"}
	}
	if absent := absentPackages(); len(absent) > 0 && os.Getenv("NODEJOIN_NO_INSTALL") != "1" {
		if _, err := exec.LookPath("apt-get"); err == nil {
			install := exec.CommandContext(ctx, filepath.Join(".ci", "install"), absent...)
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
	return missing
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
