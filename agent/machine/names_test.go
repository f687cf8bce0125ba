package machine

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// up is an interface that is up, with addresses of which those that end in "!" do not stay.
func up(name string, addresses ...string) link {
	l := link{name: name, up: true}
	for _, text := range addresses {
		prefix, passing := strings.CutSuffix(text, "!")
		l.addresses = append(l.addresses, address{Prefix: netip.MustParsePrefix(prefix), passing: passing})
	}
	return l
}

func change(l link, how func(*link)) link {
	how(&l)
	return l
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		name  string
		links []link
		want  string
	}{
		{"one", []link{up("eth0", "10.0.0.5/24")}, "10.0.0.5"},
		{"public, private, shared and unique local", []link{up("eth0", "203.0.113.9/24", "100.64.0.9/10", "fd00::9/64", "2001:db8::9/64")}, "100.64.0.9 203.0.113.9 2001:db8::9 fd00::9"},
		{"sorted by address, not by interface or text", []link{up("eth1", "10.0.0.10/24"), up("eth0", "10.0.0.9/24")}, "10.0.0.9 10.0.0.10"},
		{"the same on two interfaces", []link{up("eth0", "10.0.0.5/24"), up("eth1", "10.0.0.5/24")}, "10.0.0.5"},
		{"link-local, loopback and multicast", []link{up("eth0", "169.254.1.1/16", "fe80::1/64", "127.0.0.9/8", "ff02::1/128", "10.0.0.5/24")}, "10.0.0.5"},
		{"loopback interface", []link{change(up("lo", "192.0.2.1/32"), func(l *link) { l.loopback = true }), up("eth0", "10.0.0.5/24")}, "10.0.0.5"},
		{"interface down", []link{change(up("eth1", "192.0.2.1/24"), func(l *link) { l.up = false }), up("eth0", "10.0.0.5/24")}, "10.0.0.5"},
		{"port of a bridge", []link{change(up("eth0", "192.0.2.1/24"), func(l *link) { l.port = true }), up("br0", "10.0.0.5/24")}, "10.0.0.5"},
		{"temporary, deprecated, tentative IPv6 address", []link{up("eth0", "2001:db8::5/64", "2001:db8::a1b2/64!")}, "2001:db8::5"},
		{"only a temporary IPv6 address", []link{up("eth0", "2001:db8::a1b2/64!")}, ""},
		{"virtual address, /32 beside a wider network", []link{up("eth0", "10.0.0.5/24", "10.0.0.100/32")}, "10.0.0.5"},
		{"virtual address, listed first", []link{up("eth0", "10.0.0.100/32", "10.0.0.5/24")}, "10.0.0.5"},
		{"virtual address of the same network", []link{up("eth0", "10.0.0.5/24", "10.0.0.100/24")}, "10.0.0.5"},
		{"second network on the interface", []link{up("eth0", "10.0.0.5/24", "10.1.0.5/24")}, "10.0.0.5 10.1.0.5"},
		{"two interfaces in one network", []link{up("eth0", "10.0.0.5/24"), up("eth1", "10.0.0.6/24")}, "10.0.0.5 10.0.0.6"},
		{"/32 alone, as some clouds give it", []link{up("ens4", "10.128.0.7/32")}, "10.128.0.7"},
		{"/32 beside nothing but a link-local address", []link{up("ens4", "169.254.5.5/16", "10.128.0.7/32")}, "10.128.0.7"},
		{"/128 of DHCPv6 beside the network's", []link{up("eth0", "2001:db8::5/64", "2001:db8::100/128")}, "2001:db8::5 2001:db8::100"},
		{"two IPv6 addresses of one network", []link{up("eth0", "2001:db8::5/64", "2001:db8::6/64")}, "2001:db8::5 2001:db8::6"},
		{"of a container network", []link{up("cni0", "10.244.0.1/24"), up("eth0", "10.0.0.5/24")}, "10.0.0.5"},
		{"none at all", []link{up("cni0", "10.244.0.1/24")}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, ips, err := namesOf("node-1", "node-1", test.links)
			if (err == nil) != (test.want != "") {
				t.Fatalf("error: %v", err)
			}
			if got := join(ips); got != test.want {
				t.Errorf("%s instead of %s", got, test.want)
			}
		})
	}
}

func join(ips []netip.Addr) string {
	texts := make([]string, len(ips))
	for i, ip := range ips {
		texts[i] = ip.String()
	}
	return strings.Join(texts, " ")
}

func TestVirtualInterfaces(t *testing.T) {
	for name, want := range map[string]bool{
		"docker0": true, "br-0a1b2c3d4e5f": true, "veth12ab34": true, "virbr0": true, "virbr0-nic": true, "cni0": true, "cni-podman0": true, "flannel.1": true,
		"cali1234567890a": true, "tunl0": true, "vxlan.calico": true, "wireguard.cali": true, "kube-ipvs0": true, "kube-bridge": true, "nodelocaldns": true,
		"cilium_host": true, "lxc12ab": true, "weave": true, "antrea-gw0": true, "ovn-k8s-mp0": true, "eni0123456789a": true, "vnet3": true, "dummy0": true, "sit0": true,

		"eth0": false, "ens4": false, "enp0s3": false, "eno1": false, "wlan0": false, "bond0": false, "eth0.100": false, "br0": false, "br-lan": false, "br-ex": false, "host0": false,
		"wg0": false, "tailscale0": false, "tun0": false, "team0": false, "ib0": false, "dockyard": false, "sitelan": false, "green": false, "eni1": false, "vmbr0": false, "mv-eth0": false,
	} {
		if virtual(name) != want {
			t.Errorf("%s: virtual is %t", name, !want)
		}
	}
}

func TestNames(t *testing.T) {
	links := []link{up("eth0", "10.0.0.5/24")}
	for _, test := range []struct {
		name, node, host string
		dns, ips         string
	}{
		{"the host's name is the node's", "node-1", "node-1", "node-1", "10.0.0.5"},
		{"the host's full name", "node-1", "node-1.example.com", "node-1 node-1.example.com", "10.0.0.5"},
		{"another name, sorted", "node-1", "alpha", "alpha node-1", "10.0.0.5"},
		{"in lower case, without the root", "node-1", "Node-1.Example.COM.", "node-1 node-1.example.com", "10.0.0.5"},
		{"a host without a name of its own", "node-1", "localhost", "node-1", "10.0.0.5"},
		{"a host without a name of its own, in full", "node-1", "localhost.localdomain", "node-1", "10.0.0.5"},
		{"a host's name that no certificate can have", "node-1", "node_1", "node-1", "10.0.0.5"},
		{"a node that is called by its address", "10.0.0.5", "", "", "10.0.0.5"},
		{"a node that is called by another address", "192.0.2.1", "node-1", "node-1", "10.0.0.5 192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dns, ips, err := namesOf(test.node, test.host, links)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{test.dns, test.ips}, []string{strings.Join(dns, " "), join(ips)}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// However the kernel lists the interfaces, the names are the same: another order must not ask for another certificate.
func TestOrderDoesNotMatter(t *testing.T) {
	a, b, c := up("eth0", "10.0.0.5/24"), up("eth1", "10.1.0.5/24", "fd00::5/64"), up("bond0", "10.2.0.5/24")
	_, first, err := namesOf("node-1", "node-1", []link{a, b, c})
	if err != nil {
		t.Fatal(err)
	}
	for _, links := range [][]link{{a, c, b}, {b, a, c}, {b, c, a}, {c, a, b}, {c, b, a}} {
		if _, ips, err := namesOf("node-1", "node-1", links); err != nil || join(ips) != join(first) {
			t.Errorf("%s, %v instead of %s", join(ips), err, join(first))
		}
	}
}
