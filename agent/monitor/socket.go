package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// maxPath is how long the path of a unix socket may be.
const maxPath = 107

var (
	errDeleted  = errors.New("the socket was deleted or replaced")
	errAnswered = errors.New("another process answers there")
)

// socket is a unix socket that this process listens on.
type socket struct {
	net.Listener

	path   string
	file   fs.FileInfo
	closed sync.Once
}

// openSocket returns a function that listens on a unix socket which only this user can connect to. Its directory is made
// if it is missing. What is left of a dead process's socket is replaced; a live one, or anything that is no socket, never.
func openSocket(path string) func(context.Context) (net.Listener, error) {
	return func(ctx context.Context) (net.Listener, error) {
		dir := filepath.Dir(path)
		if err := makeDir(dir); err != nil {
			return nil, fmt.Errorf("cannot make the directory: %w", err)
		}
		if err := checkDir(dir); err != nil {
			return nil, err
		}
		opened, err := listenUnix(ctx, path)
		if errors.Is(err, errInUse) {
			if err := removeStale(ctx, path); err != nil {
				return nil, err
			}
			opened, err = listenUnix(ctx, path)
		}
		if err != nil {
			return nil, err
		}
		file, err := os.Lstat(path)
		if err != nil {
			return nil, errors.Join(err, opened.Close())
		}
		return &socket{Listener: opened, path: path, file: file}, nil
	}
}

// Addr returns the socket's path.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// inPlace reports whether the file at the socket's path is still this socket.
func (s *socket) inPlace() bool {
	file, err := os.Lstat(s.path)
	return err == nil && os.SameFile(file, s.file)
}

// Close removes the socket's file, unless there is another in its place, and stops listening. Once only: the file of
// the next listener could pass for this one's when its inode number is used again.
func (s *socket) Close() (err error) {
	s.closed.Do(func() {
		if s.inPlace() {
			_ = os.Remove(s.path) // what is left is stale, and the next agent replaces it
		}
		err = s.Listener.Close()
	})
	return err
}

// removeStale removes the socket of a process that is dead.
func removeStale(ctx context.Context, path string) error {
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case file.Mode().Type() != fs.ModeSocket:
		return fault.New(fault.Files, "move it out of the way", "%s is in the place of the socket and is none", path)
	}
	conn, err := dialUnix(ctx, path)
	if err == nil {
		return errors.Join(fmt.Errorf("%w: %s", errAnswered, path), conn.Close())
	}
	if !errors.Is(err, errNobody) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot tell whose socket is there: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove what is left of a socket: %w", err)
	}
	return nil
}
