//go:build unix

package pending

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// File is a file that has not taken its place yet.
type File = renameio.PendingFile

// New makes an empty file for path, with its final mode.
func New(path string, mode fs.FileMode) (*File, error) {
	// renameio creates with O_EXCL under a random name; by default it would stage in $TMPDIR and keep an existing
	// file's mode.
	return renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
}

// Create makes a file that is not there yet, not even as a link, and that only this user may read.
func Create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// Mkdir makes a directory.
func Mkdir(dir string, mode fs.FileMode) error { return os.Mkdir(dir, mode) }

// Rename gives a file or a link another name, and replaces what has it.
func Rename(from, to string) error { return os.Rename(from, to) }

// SyncDir makes the names in a directory durable. Without it a file that was renamed into place can be missing after a
// power cut, although its content was synced.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open the directory: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("cannot make %s durable: %w", dir, err), d.Close())
	}
	return d.Close()
}
