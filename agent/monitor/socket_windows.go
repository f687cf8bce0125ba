package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"

	"github.com/nodejoin/nodejoin/rotate/pending"
)

// What a call says where an address is taken, and where nobody listens.
const (
	errInUse  = windows.WSAEADDRINUSE
	errNobody = windows.WSAECONNREFUSED
)

// makeDir makes the directory of a socket, which has the directory's access control list: the system and the administrators.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // modes mean nothing here
		return err
	}
	if err := pending.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func listenUnix(ctx context.Context, path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path %s of the socket has more than %d bytes", path, maxPath)
	}
	opened, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	listener := opened.(*net.UnixListener)
	listener.SetUnlinkOnClose(false) // it would not look whose file it removes
	return listener, nil
}

// dialUnix looks for the socket first: what a connection to one that is not there fails with is not the same in all versions.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	if _, err := os.Lstat(path); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// checkDir looks at nothing: a directory that somebody else made has the access control list that he gave it.
func checkDir(string) error { return nil }
