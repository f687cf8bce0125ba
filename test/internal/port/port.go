// Package port holds TCP ports for servers that tests stop and start again.
//
// A port that is found free and let go may be somebody else's a moment later, as a listener or as the source of a
// connection. A held port is bound the whole time by a socket that never listens: while the server is down,
// connections are refused and nobody else is given the port.
package port

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Held is a TCP port of one address that is held until Close. The server shares it: it sets SO_REUSEPORT, for which
// every Kubernetes server and etcd have a flag, and belongs to the same user.
type Held struct {
	Number int

	address string
	socket  *os.File
}

// Hold takes a free port of an IP address.
func Hold(address string) (*Held, error) {
	ip := net.ParseIP(address)
	if ip == nil {
		return nil, fmt.Errorf("hold a port: %q is not an IP address", address)
	}
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: [16]byte(ip.To16())})
	if v4 := ip.To4(); v4 != nil {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte(v4)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("hold a port: %w", err)
	}
	held := &Held{address: address, socket: os.NewFile(uintptr(fd), "port")}
	if held.Number, err = bind(fd, name); err != nil {
		held.Close()
		return nil, fmt.Errorf("hold a port of %s: %w", address, err)
	}
	return held, nil
}

func bind(fd int, name unix.Sockaddr) (int, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, name); err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		return bound.Port, nil
	case *unix.SockaddrInet6:
		return bound.Port, nil
	}
	return 0, fmt.Errorf("bound to %v", bound)
}

// Close gives the port back.
func (h *Held) Close() { h.socket.Close() }

// String returns the port's number.
func (h *Held) String() string { return strconv.Itoa(h.Number) }

// Address returns HOST:PORT.
func (h *Held) Address() string { return net.JoinHostPort(h.address, h.String()) }

// Listen listens on the port. It can be called again after the listener is closed.
func (h *Held) Listen(ctx context.Context) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	return config.Listen(ctx, "tcp", h.Address())
}

// Free returns a port that is free now, for a server that cannot share one (the kubelet). Somebody else may take it
// before the server does.
func Free(ctx context.Context, address string) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().(*net.TCPAddr).Port, nil
}
