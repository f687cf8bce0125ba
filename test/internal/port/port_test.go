package port

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// While nothing listens, a held port refuses connections and is given to nobody else; its server comes and goes.
func TestHeld(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			held, err := Hold(address)
			if address == "::1" && errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Skip("no IPv6")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			for range 2 {
				if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", held.Address()); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a connection: %v", err)
				}
				if _, err := new(net.ListenConfig).Listen(t.Context(), "tcp", held.Address()); !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("a stranger listens: %v", err)
				}
				server, err := held.Listen(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				client, err := new(net.Dialer).DialContext(t.Context(), "tcp", held.Address())
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
				server.Close()
			}
		})
	}
}

func TestHoldNoAddress(t *testing.T) {
	for _, address := range []string{"", "localhost", "192.0.2.1"} { // 192.0.2.0/24 is for documentation (RFC 5737)
		if held, err := Hold(address); err == nil {
			held.Close()
			t.Errorf("a port of %q is held", address)
		}
	}
}

func TestFree(t *testing.T) {
	number, err := Free(t.Context(), "127.0.0.1")
	if err != nil || number == 0 {
		t.Errorf("port %d (%v)", number, err)
	}
}
