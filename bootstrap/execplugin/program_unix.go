//go:build unix

package execplugin

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	// path is where the programs are that the plugin runs, whatever the agent was started with.
	path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// top is what every path begins with.
	top = "/"
)

func isProgram(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// checkRights refuses a file or directory that others could have changed.
func checkRights(name string, info fs.FileInfo) error {
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to the user %d", name, owner.Uid)
	case info.Mode().Perm()&0o022 != 0 && (!info.IsDir() || info.Mode()&fs.ModeSticky == 0):
		return fmt.Errorf("others can write to %s (mode %#o)", name, info.Mode().Perm())
	}
	return nil
}
