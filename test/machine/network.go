package main

import (
	"context"
	"fmt"
	"sync"
)

const (
	gateway    = "10.127.0.1" // where control planes listen
	netmask    = "/24"
	firstHost  = 10
	bridgeName = "machines"
)

// network is a bridge with the control planes on it, in the test's network namespace, to which each machine is connected from
// one of its own.
type network struct {
	mu   sync.Mutex
	last int
}

func newNetwork(ctx context.Context) (*network, error) {
	return &network{last: firstHost}, commands(ctx,
		[]string{"ip", "link", "set", "lo", "up"},
		[]string{"ip", "link", "add", bridgeName, "type", "bridge"},
		[]string{"ip", "address", "add", gateway + netmask, "dev", bridgeName},
		[]string{"ip", "link", "set", bridgeName, "up"},
	)
}

// connect makes a network namespace for a machine, with an address and a default route, and returns the address.
func (n *network) connect(ctx context.Context, machine string) (string, error) {
	n.mu.Lock()
	n.last++
	number := n.last
	n.mu.Unlock()
	address, link := fmt.Sprintf("10.127.0.%d", number), fmt.Sprintf("machine%d", number)
	return address, commands(ctx,
		[]string{"ip", "netns", "add", machine},
		[]string{"ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", machine},
		[]string{"ip", "link", "set", link, "master", bridgeName, "up"},
		[]string{"ip", "-netns", machine, "link", "set", "lo", "up"},
		[]string{"ip", "-netns", machine, "address", "add", address + netmask, "dev", "eth0"},
		[]string{"ip", "-netns", machine, "link", "set", "eth0", "up"},
		[]string{"ip", "-netns", machine, "route", "add", "default", "via", gateway},
	)
}
