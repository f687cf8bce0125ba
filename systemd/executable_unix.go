//go:build unix

package systemd

import (
	"fmt"
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
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return fault.New(fault.Files, placeAt("/usr/local/bin"), "%s is no regular file", path)
	}
	class, err := replaceable(path)
	if err == nil {
		return nil
	}
	return fault.New(class, placeAt("/usr/local/bin"), "%w", err)
}

// placeAt is the remedy: where to install the program. The usual directory is no place for it where a group can write to it,
// as Debian long had it.
func placeAt(usual string) string {
	dir := "/opt/nodejoin/bin"
	if to, err := filepath.EvalSymlinks(usual); err == nil {
		if _, err := replaceable(to); err == nil {
			dir = usual
		}
	}
	return "install -D -o root -m 0755 nodejoin " + dir + "/nodejoin, then: " + dir + "/nodejoin service install"
}

// replaceable returns an error for a path without links which a user other than root could change, or one of the directories
// that it is in.
func replaceable(path string) (fault.Class, error) {
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return fault.Files, fmt.Errorf("the program cannot be found: %w", err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return fault.Usage, fmt.Errorf("a service runs as root, and %s belongs to the user %d, who could replace the program", at, stat.Uid)
		}
		if info.Mode()&fs.FileMode(0o022) != 0 {
			return fault.Usage, fmt.Errorf("a service runs as root, and others can write to %s, and could replace the program", at)
		}
		if at == filepath.Dir(at) {
			return 0, nil
		}
	}
}
