package issue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/rotate/pending"
)

// Absent refuses a path at which there is something already. It is for before anything is asked for: [Create] looks again.
func Absent(path, remedy string) error {
	if _, err := os.Lstat(path); err == nil {
		return fault.New(fault.Files, remedy, "%s is there already, and nothing is written over it", path)
	}
	info, err := os.Stat(filepath.Dir(path))
	switch {
	case err != nil:
		return fault.New(fault.Files, "make the directory, or give another path with --out", "cannot write %s: %w", path, err)
	case !info.IsDir():
		return fault.New(fault.Files, "give another path with --out", "cannot write %s: %s is not a directory", path, filepath.Dir(path))
	}
	return nil
}

// Create writes a file that only this user may read, durably, and never over another.
func Create(path string, data []byte) error {
	f, err := pending.Create(path)
	if err != nil {
		return filesFault(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(filesFault(err), os.Remove(path)) // half of a kubeconfig is none
	}
	if err := pending.SyncDir(filepath.Dir(path)); err != nil {
		return filesFault(err)
	}
	return nil
}

// Replace puts data in the place of a file, as [rotate.ReplaceSecret] does. Its mode becomes 0600, even if nothing else comes of it.
func Replace(path string, data []byte) error {
	err := os.Chmod(path, 0o600)
	if err == nil {
		err = rotate.ReplaceSecret(path, data)
	}
	if err != nil {
		return filesFault(err)
	}
	return nil
}

func filesFault(err error) error {
	return fault.New(fault.Files, "check the path, its owner and mode, and that its file system is writable and has room", "%w", err)
}

// ReadSmall reads a file of a person's, which is no device and not large.
func ReadSmall(path string) ([]byte, error) {
	const most = 1 << 20
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() > most:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return os.ReadFile(path)
}

// isMissing reports whether there is nothing at a path.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
