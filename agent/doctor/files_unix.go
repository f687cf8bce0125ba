//go:build unix

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nodejoin/nodejoin/agent/machine"
)

// file is a file or directory, and who may do what with it.
type file struct {
	path     string // on this machine
	secret   fs.FileMode
	writable fs.FileMode
}

// The bits of others' rights that must not be set.
const (
	forGroupAndOthers fs.FileMode = 0o077
	forOthers         fs.FileMode = 0o007
	writeByAnyone     fs.FileMode = 0o022
)

// guarded returns the files and directories whose rights matter. That one is missing is no matter of rights.
func (e *examination) guarded() []file {
	private := func(path string) file { return file{path, forGroupAndOthers, writeByAnyone} }
	public := func(path string) file { return file{path, 0, writeByAnyone} }
	files := []file{
		private(e.on(e.Paths.StateDir)), public(e.on(e.Paths.CertDir)), public(filepath.Dir(e.on(e.Paths.Kubeconfig))), public(filepath.Dir(e.on(e.Paths.CAFile))),
		private(e.on(e.Paths.Kubeconfig)), public(e.on(e.Paths.CAFile)),
	}
	if e.ConfigFile != "" {
		files = append(files, public(e.ConfigFile))
	}
	if e.Disk != nil && e.Disk.Pair != nil {
		files = append(files, private(e.on(e.Disk.PairPath)))
	}
	for _, secret := range e.Secrets {
		files = append(files, file{secret, forOthers, writeByAnyone})
	}
	pending, _ := filepath.Glob(filepath.Join(e.on(e.Paths.StateDir), "*.pending")) // the pattern is not malformed
	for _, path := range pending {
		files = append(files, private(path))
	}
	return files
}

func (e *examination) checkFiles(f *findings) {
	if e.Paths.StateDir == "" {
		f.skip("the paths of this machine's identity are not known")
		return
	}
	seen := map[string]bool{}
	looked := 0
	for _, file := range e.guarded() {
		if seen[file.path] {
			continue
		}
		seen[file.path] = true
		info, err := os.Stat(file.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			f.add(Failure, "run as root, or mend the rights of the directories above it", "cannot look at %s: %s", file.path, err)
			continue
		}
		looked++
		file.check(f, info)
	}
	switch {
	case f.has(Failure) || f.has(Warning):
	case looked == 0:
		f.skip("none of the files is there yet")
	default:
		f.ok("owners and modes are in order (%d files and directories)", looked)
	}
}

func (file *file) check(f *findings, info fs.FileInfo) {
	kind, mode := "file", info.Mode().Perm()
	right := fs.FileMode(0o644)
	if info.IsDir() {
		kind, right = "directory", 0o755
	}
	if file.secret != 0 {
		right &= 0o700
	}
	switch {
	case !info.IsDir() && !info.Mode().IsRegular():
		return // a device or a pipe has rights of its own kind
	case mode&file.writable != 0:
		f.add(Failure, fmt.Sprintf("look at what is in it, then: chmod %#o %s", right, file.path), "the %s %s is writable by others (mode %#o)", kind, file.path, mode)
	case mode&file.secret != 0:
		level := Failure
		if info.IsDir() { // what is in it has rights of its own
			level = Warning
		}
		f.add(level, fmt.Sprintf("chmod %#o %s; take what is in it for known to others", right, file.path), "the %s %s is readable by others (mode %#o)", kind, file.path, mode)
	}
	if uid := int(ownerOf(info)); uid != 0 && uid != os.Geteuid() {
		f.add(Failure, "look at what is in it, then: chown root "+file.path, "the %s %s belongs to another user (uid %d)", kind, file.path, uid)
	}
}

// ownerOf returns the user ID that owns a file.
func ownerOf(info fs.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return 0
}

// deviceOf returns the device of the file system that holds a path, or its nearest parent that is there.
func deviceOf(path string) uint64 {
	for {
		info, err := os.Stat(path)
		if device, _, ok := numberOf(info); ok && err == nil {
			return device
		}
		if path == filepath.Dir(path) {
			return 0
		}
		path = filepath.Dir(path)
	}
}

// numberOf returns the device and the number of a file.
func numberOf(info fs.FileInfo) (device, inode uint64, ok bool) {
	if info == nil {
		return 0, 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return uint64(stat.Dev), stat.Ino, true //nolint:unconvert // it is an int32 elsewhere
}

// What is left on a file system: a new identity takes a few files of a few kilobytes.
const (
	noBytes, fewBytes   = 256 << 10, 16 << 20
	noInodes, fewInodes = 16, 256
)

func (e *examination) checkDisk(f *findings) {
	seen := map[uint64]bool{}
	for _, path := range []string{e.Paths.StateDir, e.Paths.CertDir, filepath.Dir(e.Paths.Kubeconfig), filepath.Dir(e.Paths.CAFile), e.RuntimeDir} {
		if path == "" || path == "." {
			continue
		}
		path = e.on(path)
		device := deviceOf(path)
		if seen[device] {
			continue
		}
		seen[device] = true
		freeBytes, freeInodes, readOnly, err := machine.Disk(path)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			f.skip("what is left on a disk cannot be found out here")
			return
		case err != nil:
			f.add(Failure, "run as root, or mend the path", "%s", err)
		case readOnly:
			f.add(Failure, "find out why (dmesg), and: mount -o remount,rw "+path, "the file system of %s is read-only", path)
		case freeBytes < fewBytes || freeInodes < fewInodes:
			level := Warning
			if freeBytes < noBytes || freeInodes < noInodes {
				level = Failure
			}
			f.add(level, "make room: df -h "+path+"; df -i "+path, "the file system of %s is nearly full: %d KiB and %d inodes are left", path, freeBytes>>10, freeInodes)
		}
	}
	switch {
	case len(seen) == 0:
		f.skip("the paths of this machine's identity are not known")
	case len(*f) == 0:
		f.ok("there is room on %s, and it can be written", plural(len(seen), "file system"))
	}
}
