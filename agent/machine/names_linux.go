package machine

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// passingFlags are those of addresses that do not stay (rtnetlink(7)), as /proc/net/if_inet6 has them.
const passingFlags = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED

// listLinks lists the network interfaces.
func listLinks() ([]link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	flags, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // not there without IPv6
		return nil, err
	}
	passing := passingAddresses(flags)
	links := make([]link, 0, len(interfaces))
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		l := link{name: i.Name, up: i.Flags&net.FlagUp != 0, loopback: i.Flags&net.FlagLoopback != 0}
		_, err = os.Stat(filepath.Join("/sys/class/net", i.Name, "brport"))
		l.port = err == nil
		for _, addr := range addrs {
			prefix, err := netip.ParsePrefix(addr.String())
			if err != nil {
				continue
			}
			l.addresses = append(l.addresses, address{Prefix: prefix, passing: passing[prefix.Addr()]})
		}
		links = append(links, l)
	}
	return links, nil
}

// passingAddresses reads the table of IPv6 addresses (proc_net(5)): address, index, prefix length, scope and flags in
// hexadecimal digits, and the interface's name.
func passingAddresses(table []byte) map[netip.Addr]bool {
	passing := map[netip.Addr]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || len(fields[0]) != 32 {
			continue
		}
		var text []string
		for i := 0; i < 32; i += 4 {
			text = append(text, fields[0][i:i+4])
		}
		ip, err := netip.ParseAddr(strings.Join(text, ":"))
		if err != nil {
			continue
		}
		flags, err := strconv.ParseUint(fields[4], 16, 32)
		passing[ip] = err == nil && flags&passingFlags != 0
	}
	return passing
}
