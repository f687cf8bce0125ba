package rotate

import (
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"
)

// glance is what was seen of one file.
type glance struct {
	path    string
	targets string // of the links at the path, each before a NUL
	errno   windows.Errno
	seen    seen
}

// seen is what can be seen of a file or directory without reading it.
type seen struct {
	inode      inode
	attributes uint32
	size       uint64
	changed    int64 // which moves with each change of content, name or attributes
}

// inode is a file's or directory's own number, whatever its names.
type inode struct{ device, number uint64 }

// glanceAt follows the links at the path itself.
func glanceAt(path string) glance {
	g := glance{path: path}
	for range 40 {
		if g.seen, g.errno = see(path); g.errno != 0 || g.seen.attributes&windows.FILE_ATTRIBUTE_REPARSE_POINT == 0 {
			return g
		}
		target, err := os.Readlink(path)
		if err != nil {
			return g // something else that has such a mark
		}
		g.targets += target + "\x00"
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	g.errno = windows.ERROR_CANT_RESOLVE_FILENAME
	return g
}

// see looks at a name, without following it.
func see(path string) (seen, windows.Errno) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return seen{}, windows.ERROR_INVALID_NAME
	}
	file, err := windows.CreateFile(name, windows.FILE_READ_ATTRIBUTES, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if err != nil {
		return seen{}, errnoOf(err)
	}
	defer func() { _ = windows.CloseHandle(file) }() // opened for looking
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(file, &info); err != nil {
		return seen{}, errnoOf(err)
	}
	var basic struct { // FILE_BASIC_INFO
		creation, access, write, change int64
		attributes                      uint32
	}
	err = windows.GetFileInformationByHandleEx(file, windows.FileBasicInfo, (*byte)(unsafe.Pointer(&basic)), uint32(unsafe.Sizeof(basic))) //nolint:gosec // of its own size
	if err != nil {
		return seen{}, errnoOf(err)
	}
	return seen{
		inode:      inode{uint64(info.VolumeSerialNumber), uint64(info.FileIndexHigh)<<32 | uint64(info.FileIndexLow)},
		attributes: info.FileAttributes, size: uint64(info.FileSizeHigh)<<32 | uint64(info.FileSizeLow), changed: basic.change,
	}, 0
}

func errnoOf(err error) windows.Errno {
	if errno, ok := errors.AsType[windows.Errno](err); ok {
		return errno
	}
	return windows.ERROR_GEN_FAILURE
}

// lstat looks at a name, without following it. target is a link's.
func lstat(path string) (kind found, number inode, target string) {
	is, errno := see(path)
	if errno != 0 {
		return nothing, inode{}, ""
	}
	if is.attributes&windows.FILE_ATTRIBUTE_REPARSE_POINT != 0 {
		if target, err := os.Readlink(path); err == nil {
			return aLink, is.inode, target
		}
	}
	if is.attributes&windows.FILE_ATTRIBUTE_DIRECTORY != 0 {
		return aDirectory, is.inode, ""
	}
	return aFile, is.inode, ""
}
