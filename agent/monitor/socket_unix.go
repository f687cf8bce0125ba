//go:build unix

package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// What a call says where an address is taken, and where nobody listens.
const (
	errInUse  = unix.EADDRINUSE
	errNobody = unix.ECONNREFUSED
)

// makeDir makes the directory of a socket.
func makeDir(dir string) error {
	return os.MkdirAll(dir, 0o755) //nolint:gosec // others may see that there is a socket
}

func listenUnix(ctx context.Context, path string) (*net.UnixListener, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		// On Linux the socket's mode before bind(2) is what its file is made with: at no instant can others connect.
		var failed error
		err := conn.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	opened, err := config.Listen(ctx, "unix", short)
	if err != nil {
		return nil, err
	}
	listener := opened.(*net.UnixListener)
	listener.SetUnlinkOnClose(false) // it would not look whose file it removes
	return listener, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	return (&net.Dialer{}).DialContext(ctx, "unix", short)
}

// shorten returns a path to a socket that the kernel takes: one that is too long goes by way of its open directory.
// It holds until release is called.
func shorten(path string) (short string, release func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path), func() { _ = dir.Close() }, nil // only read from
}

// checkDir refuses a directory where another user could put a socket of his own.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("cannot look at the directory: %w", err)
	case info.Mode().Perm()&0o022 != 0:
		return fault.New(fault.Files, "chmod go-w "+dir+", after a look at what is in it", "the directory %s is writable by others (mode %#o)", dir, info.Mode().Perm())
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fault.New(fault.Files, "chown root "+dir+", after a look at what is in it", "the directory %s belongs to another user (uid %d)", dir, stat.Uid)
	}
	return nil
}
