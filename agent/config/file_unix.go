//go:build unix

package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// open opens a file for reading, without waiting where it is a pipe that nobody writes to.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// checkRights refuses a file that another user can change.
func checkRights(path string, info fs.FileInfo) (remedy string, err error) {
	owner := ownerOf(info)
	switch {
	case info.Mode().Perm()&0o022 != 0:
		return "chmod go-w " + path + ", after a look at what is in it", fmt.Errorf("%s is writable by others (mode %#o)", path, info.Mode().Perm())
	case owner != 0 && owner != os.Geteuid():
		return "chown root " + path + ", after a look at what is in it", fmt.Errorf("%s belongs to another user (uid %d)", path, owner)
	}
	return "", nil
}

// ownerOf returns the user ID that owns a file.
func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return 0
}

func isAbsolute(path string) bool { return filepath.IsAbs(path) }

func clean(path string) string { return filepath.Clean(path) }
