//go:build unix

package systemd

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// mayInstall returns an error where this user cannot install a service.
func mayInstall(verb string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fault.New(fault.Usage, "sudo nodejoin service "+verb, "only root can %s the service", verb)
}

// checkExecutable returns an error for a program that another user could replace: a service runs as root.
func checkExecutable(path string) error {
	const remedy = "install -o root -m 0755 nodejoin /usr/local/bin/nodejoin, then: /usr/local/bin/nodejoin service install"
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return fault.New(fault.Files, remedy, "the program cannot be found: %w", err)
		}
		if at == path && !info.Mode().IsRegular() {
			return fault.New(fault.Files, remedy, "%s is no regular file", at)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return fault.New(fault.Usage, remedy, "a service runs as root, and %s belongs to the user %d, who could replace the program", at, stat.Uid)
		}
		if info.Mode()&fs.FileMode(0o022) != 0 {
			return fault.New(fault.Usage, remedy, "a service runs as root, and others can write to %s, and could replace the program", at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}
