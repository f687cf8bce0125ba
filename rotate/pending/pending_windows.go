package pending

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// File is a file that has not taken its place yet.
type File struct {
	*os.File

	path         string
	closed, done bool
}

// New makes an empty file for path, with the access that its mode stands for.
func New(path string, mode fs.FileMode) (*File, error) {
	for {
		name := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+strconv.FormatUint(rand.Uint64(), 10)) //nolint:gosec // only has to be free
		f, err := create(name, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &File{File: f, path: path}, nil
	}
}

// CloseAtomicallyReplace makes the content durable and puts the file in its place.
func (f *File) CloseAtomicallyReplace() error {
	if err := f.Sync(); err != nil {
		return err
	}
	f.closed = true
	if err := f.Close(); err != nil {
		return err
	}
	if err := Rename(f.Name(), f.path); err != nil {
		return err
	}
	f.done = true
	return nil
}

// Cleanup removes the file, unless it is in its place.
func (f *File) Cleanup() error {
	if f.done {
		return nil
	}
	var err error
	if !f.closed {
		f.closed = true
		err = f.Close()
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	f.done = true
	return err
}

// Create makes a file that is not there yet, and that only this user, administrators and the system may read.
func Create(path string) (*os.File, error) { return create(path, 0o600) }

func create(path string, mode fs.FileMode) (*os.File, error) {
	access, err := attributes(mode, "")
	if err != nil {
		return nil, err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	handle, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_DELETE,
		access, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return os.NewFile(uintptr(handle), path), nil
}

// Mkdir makes a directory. What is made in it without an access control list of its own has the directory's.
func Mkdir(dir string, mode fs.FileMode) error {
	access, err := attributes(mode, "OICI")
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err == nil {
		err = windows.CreateDirectory(name, access)
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// attributes returns what a mode stands for as an access control list, which inherits nothing (P) from the directory above:
// below the root of a drive that would let every user write. inherit are the flags of its entries.
// https://learn.microsoft.com/en-us/windows/win32/secauthz/ace-strings
func attributes(mode fs.FileMode, inherit string) (*windows.SecurityAttributes, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("cannot find out who this user is: %w", err)
	}
	all := "(A;" + inherit + ";FA;;;"
	list := "D:P" + all + "SY)" + all + "BA)" + all + user.User.Sid.String() + ")" // the system, the administrators
	if mode&0o004 != 0 {
		list += "(A;" + inherit + ";FRFX;;;BU)" // users
	}
	descriptor, err := windows.SecurityDescriptorFromString(list)
	if err != nil {
		return nil, fmt.Errorf("cannot make the access control list %s: %w", list, err)
	}
	return &windows.SecurityAttributes{Length: uint32(unsafe.Sizeof(windows.SecurityAttributes{})), SecurityDescriptor: descriptor}, nil
}

// How long a file may be held open by another program, such as a scanner for viruses, before it is an error that it cannot
// be replaced.
const (
	renameWithin = 2 * time.Second
	renameAgain  = 20 * time.Millisecond
)

// Rename gives a file or a link another name, and replaces what has it, durably. A file that somebody has open cannot be
// replaced here: whoever reads it has it for a moment, which is waited for.
func Rename(from, to string) error {
	old, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	name, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	tick := time.NewTicker(renameAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(renameWithin); ; <-tick.C {
		err := windows.MoveFileEx(old, name, windows.MOVEFILE_REPLACE_EXISTING|windows.MOVEFILE_WRITE_THROUGH)
		held := errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
		switch {
		case err == nil:
			return nil
		case !held || time.Now().After(deadline):
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}

// SyncDir does nothing: names are in the file system's journal, and [Rename] returns when its entry is on the disk.
func SyncDir(string) error { return nil }
