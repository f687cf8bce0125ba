//go:build unix

package rotate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// glance is what was seen of one file.
type glance struct {
	path         string
	targets      string // of the links at the path, each before a NUL
	errno        unix.Errno
	inode        inode
	mode         uint32
	size         int64
	mtime, ctime unix.Timespec
}

// inode is a file's or directory's own number, whatever its names.
type inode struct{ device, number uint64 }

// glanceAt follows the links at the path itself. Those of its directories are the kernel's to follow: where they lead
// elsewhere, the file that is found is another.
func glanceAt(path string) glance {
	g := glance{path: path}
	var st unix.Stat_t
	for range 40 {
		if g.errno = uninterrupted(func() error { return unix.Lstat(path, &st) }); g.errno != 0 {
			return g
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			g.inode = inodeOf(&st)
			g.mode, g.size = uint32(st.Mode), st.Size //nolint:unconvert // of another type elsewhere
			g.mtime, g.ctime = st.Mtim, st.Ctim
			return g
		}
		target, err := os.Readlink(path)
		if err != nil {
			errors.As(err, &g.errno)
			return g
		}
		g.targets += target + "\x00"
		if !filepath.IsAbs(target) {
			// Not cleaned: ".." is not what it seems where there are links.
			target = path[:strings.LastIndexByte(path, '/')+1] + target
		}
		path = target
	}
	g.errno = unix.ELOOP
	return g
}

// uninterrupted makes a system call until it was not interrupted.
func uninterrupted(do func() error) unix.Errno {
	for {
		errno, _ := errors.AsType[unix.Errno](do())
		if errno != unix.EINTR {
			return errno
		}
	}
}

func inodeOf(st *unix.Stat_t) inode {
	return inode{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert // of other types elsewhere
}

// lstat looks at a name, without following it. target is a link's.
func lstat(path string) (kind found, number inode, target string) {
	var st unix.Stat_t
	if uninterrupted(func() error { return unix.Lstat(path, &st) }) != 0 {
		return nothing, inode{}, ""
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return aDirectory, inodeOf(&st), ""
	case unix.S_IFLNK:
		if target, err := os.Readlink(path); err == nil {
			return aLink, inodeOf(&st), target
		}
		return nothing, inode{}, ""
	default:
		return aFile, inodeOf(&st), ""
	}
}
