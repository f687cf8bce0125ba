//go:build unix

package rotate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Look is what could be seen of some files at one time without reading them. Two looks that are equal are of files that
// nobody changed: each change of a file moves its ctime, which nobody can set.
type Look struct{ files []glance }

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

// LookAt looks at files. It costs two system calls for each, and two for each link.
func LookAt(paths []string) Look {
	files := make([]glance, len(paths))
	for i, path := range paths {
		files[i] = glanceAt(path)
	}
	return Look{files}
}

// Changed returns those of the files of a later look that are not what they were, among them all that were not looked
// at before.
func (l Look) Changed(now Look) []string {
	before := make(map[string]glance, len(l.files))
	for _, file := range l.files {
		before[file.path] = file
	}
	var changed []string
	for _, file := range now.files {
		if was, known := before[file.path]; !known || was != file {
			changed = append(changed, file.path)
		}
	}
	return changed
}

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

// found is a kind of what is found under a name.
type found int

const (
	nothing found = iota // or what cannot be looked at
	aFile                // or anything else
	aDirectory
	aLink
)

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
