package machine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation"
)

// link is a network interface.
type link struct {
	name      string
	up        bool // by the operator's will (IFF_UP), whether or not a cable is plugged in
	loopback  bool
	port      bool // of a bridge
	addresses []address
}

// address is one of an interface's addresses, in the order in which the kernel lists them.
type address struct {
	netip.Prefix
	passing bool // temporary, deprecated, not confirmed to be unique or found not to be (IPv6)
}

// Names returns what a serving certificate of this machine stands for: the name of the node and the host's own name, and
// the machine's addresses, each list sorted and without duplicates. A node's name that is an address is among the
// addresses.
//
// Which addresses those are decides when a new certificate is asked for, so what comes and goes by itself is left out.
// An address counts if it is global unicast (which private ones are too) and its interface
//   - is up by the operator's will: a cable that is pulled changes nothing;
//   - is no loopback and no port of a bridge (the bridge has the machine's address);
//   - is none of those that container runtimes, network plugins, virtual machines and tunnels to pods make, told by their
//     names (see virtualName).
//
// Of these, IPv6 addresses that are temporary (RFC 8981: another one each day), deprecated or not yet found to be unique
// are left out. So are IPv4 addresses that follow another of the same network on the same interface, and those of a
// network of their own (/32) beside a wider one: they are virtual ones that move between machines (keepalived,
// kube-vip). A DHCP lease that changes, or an interface that the operator adds, does change the names.
//
// While a machine starts, addresses appear one after the other. Without any the error says so and passes. Beyond that the
// caller is to let new names stand for a moment before it asks for a certificate, and to keep one that stands for more
// than is needed: the kubelet does not mind either (certSatisfiesTemplate in client-go/util/certificate).
func Names(node string) (dns []string, ips []netip.Addr, err error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot find out this host's name: %w", err)
	}
	links, err := listLinks()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list this machine's network interfaces: %w", err)
	}
	return namesOf(node, host, links)
}

func namesOf(node, host string, links []link) (dns []string, ips []netip.Addr, err error) {
	for _, name := range []string{node, hostName(host)} {
		switch ip, err := netip.ParseAddr(name); {
		case err == nil:
			ips = append(ips, ip.Unmap())
		case name != "":
			dns = append(dns, name)
		}
	}
	found := false
	for _, l := range links {
		if !l.up || l.loopback || l.port || virtual(l.name) {
			continue
		}
		own := lasting(l.addresses)
		ips = append(ips, own...)
		found = found || len(own) != 0
	}
	if !found {
		return nil, nil, errors.New("this machine has no lasting network address")
	}
	slices.Sort(dns)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(dns), slices.Compact(ips), nil
}

// hostName returns the host's name in the form that a certificate has it, or "" for one that names no machine.
func hostName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "localhost" || strings.HasPrefix(name, "localhost.") || len(validation.IsDNS1123Subdomain(name)) != 0 {
		return ""
	}
	return name
}

// lasting returns the addresses of one interface that stay.
func lasting(addresses []address) []netip.Addr {
	var ips []netip.Addr
	wide := slices.ContainsFunc(addresses, func(a address) bool { return a.Addr().Is4() && !a.IsSingleIP() && a.Addr().IsGlobalUnicast() })
	networks := map[netip.Prefix]bool{}
	for _, a := range addresses {
		if !a.Addr().IsGlobalUnicast() || a.passing {
			continue
		}
		if a.Addr().Is4() {
			if a.IsSingleIP() && wide || networks[a.Masked()] {
				continue
			}
			networks[a.Masked()] = true
		}
		ips = append(ips, a.Addr().WithZone(""))
	}
	return ips
}

// virtualName is the names of the interfaces that container runtimes, network plugins and virtual machines make, and of
// tunnels. "br-" is followed by twelve hexadecimal digits where Docker made it, and by what the operator liked where it is
// a bridge of the machine's own; "eni" is followed by eleven where the plugin of AWS made it for a pod. It is compiled at its
// first use: that takes half a millisecond, and few runs of the program need it.
var virtualName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(` + strings.Join([]string{
		`docker\d+|docker_gwbridge|br-[0-9a-f]{12}|veth.*|podman\d+|nerdctl\d+|lxdbr\d+|incusbr\d+|lxc.+`, // runtimes
		`virbr\d+(-nic)?|vnet\d+|macvtap\d+|tap.+|ifb\d+|dummy\d+`,                                        // virtual machines, devices for tests and shaping
		`(gre|gretap|erspan|sit|ip6tnl|ip6gre|ip_vti|ip6_vti|tunl)\d+`,                                    // tunnels
		`cni.*|kube-.+|nodelocaldns|cali.+|(vxlan|vxlan-v6|egress)\.calico|(wireguard|wg-v6)\.cali|flannel.*|cilium_.+`,
		`weave.*|datapath|vxlan-\d+|vxlan_sys_\d+|genev_sys_\d+|antrea-.+|ovs-system|ovn-k8s-.+|eni[0-9a-f]{11}|azv.+|gke[0-9a-f]+`,
	}, "|") + `)$`)
})

// virtual reports whether an interface of that name holds addresses of something else than the machine.
func virtual(name string) bool { return virtualName().MatchString(name) }
