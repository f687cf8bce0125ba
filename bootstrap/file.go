package bootstrap

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ReadSecret reads a file that holds a credential, of at most limit bytes. It may be a chain of symbolic links, as in a
// projected volume. One that others than its owner and group can read or write is refused, since what is in it is no
// secret any more, and so is a pipe. The error does not repeat what is in the file.
func ReadSecret(path string, limit int64) ([]byte, error) {
	data, mode, err := readFile(path, limit)
	if err != nil {
		return nil, err
	}
	return data, checkSecrecy(path, mode)
}

// readFile reads a file of this machine, of at most limit bytes, and tells its mode. A pipe is refused: what is read here
// is read again at each attempt, and a pipe gives it once. To open one that nobody writes to does not wait for ever.
func readFile(path string, limit int64) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	switch {
	case info.IsDir():
		return nil, 0, fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, info.Mode(), err
}
