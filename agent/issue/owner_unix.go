//go:build unix

package issue

import (
	"io/fs"
	"os"
	"syscall"
)

// ownerOf returns the user and the group that own a file.
func ownerOf(info fs.FileInfo) (uid, gid int) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid), int(stat.Gid)
	}
	return os.Geteuid(), os.Getegid()
}
