//go:build !linux

package machine

import (
	"errors"
	"net"
	"net/netip"
)

// listLinks lists the network interfaces. Which addresses are temporary is not known here.
func listLinks() ([]link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	links := make([]link, 0, len(interfaces))
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		l := link{name: i.Name, up: i.Flags&net.FlagUp != 0, loopback: i.Flags&net.FlagLoopback != 0}
		for _, addr := range addrs {
			if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
				l.addresses = append(l.addresses, address{Prefix: prefix})
			}
		}
		links = append(links, l)
	}
	return links, nil
}

// Disk is not known here.
func Disk(string) (freeBytes, freeInodes uint64, readOnly bool, err error) {
	return 0, 0, false, errors.ErrUnsupported
}

// ClockSynchronised is not known here.
func ClockSynchronised() (synchronised, known bool) { return false, false }
