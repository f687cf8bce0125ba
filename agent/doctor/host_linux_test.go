package doctor

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/test/expect"
)

// mount puts a file system of its own at dir.
func mount(tb testing.TB, dir, options string) {
	tb.Helper()
	flags := uintptr(0)
	if options == "ro" {
		flags, options = unix.MS_RDONLY, ""
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		expect.Able(tb, "a tmpfs", err)
	}
	tb.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fullEndpoint has no room for a connection, so that the kernel drops the packets that ask for one.
func fullEndpoint(tb testing.TB) bootstrap.Endpoint {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		tb.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 16 {
		conn, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).DialContext(tb.Context(), "tcp", address)
		if err != nil {
			return endpoint(tb, address)
		}
		tb.Cleanup(func() { _ = conn.Close() })
	}
	tb.Fatal("there is always room for another connection")
	return bootstrap.Endpoint{}
}
