//go:build unix

package config

import (
	"io/fs"
	"os"
	"syscall"
)

// open opens a file for reading, without waiting where it is a pipe that nobody writes to.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// ownerOf returns the user ID that owns a file.
func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return 0
}
