package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// errNoIdentity is why another certificate cannot be asked for.
var errNoIdentity = errors.New("the node's own certificate must work first: it is what this one is requested with")

// withIdentity returns the cluster and the pair that other certificates are requested with.
func (a *Agent) withIdentity() (*bootstrap.Cluster, *rotate.KeyPair, error) {
	disk, err := a.store.Load()
	if err != nil {
		return nil, nil, err
	}
	cluster := a.clusterJoined(disk)
	if cluster == nil || disk.Pair == nil || a.identity.isDead(disk.Pair) || disk.Record.Verified != disk.Pair.Fingerprint() {
		return nil, nil, errNoIdentity
	}
	if reason, _ := rotate.WhyReplace(&disk.Found, wantedOf(new(csr.KubeletClient(a.node(), 0)), time.Time{}), a.now()); !reason.Usable() {
		return nil, nil, errNoIdentity
	}
	return cluster, disk.Pair, nil
}

// standFor is how long the machine's names must have been the same before a certificate is asked for with them: while a
// machine starts, its addresses appear one after the other.
const standFor = 5 * time.Second

// errMoving is why a certificate with the machine's names is not asked for yet.
var errMoving = errors.New("this machine's names and addresses were only just seen, and may still change")

// other is a certificate beside the identity.
type other struct {
	Certificate
	agent *Agent
	slot  *rotate.Slot

	dns   []string // the machine's names, if it is to have them
	ips   []netip.Addr
	since time.Time // when they were first seen, by the monotonic clock
}

// newOther returns the keeper of a certificate beside the identity, which is requested as the node.
func newOther(a *Agent, c Certificate) *keeper {
	k := newKeeper(a, c.Name, a.store.Slot(c.Place), orDefault(c.Algorithm, csr.DefaultAlgorithm))
	o := &other{Certificate: c, agent: a, slot: k.slot}
	k.role = role{
		load:   o.load,
		ways:   func(*sight) []way { return []way{o.way()} },
		stage:  func(*application) (staged, error) { return slotCommit{o.slot}, nil },
		admit:  func(context.Context, *application, *rotate.KeyPair) error { return nil },
		settle: func(context.Context, *sight) (func(*rotate.State), error) { return nil, nil },
	}
	if c.MachineNames {
		k.role.moved = o.moved
	}
	return k
}

// load reads the disk, and what is wanted now.
func (o *other) load() (*sight, error) {
	found, err := o.slot.Load()
	if err != nil {
		return nil, err
	}
	if o.Name == ServingName {
		if err := o.agent.mayKeepServing(found); err != nil {
			return nil, err
		}
	}
	template, err := o.template()
	if err != nil {
		return nil, err
	}
	return &sight{found: found, template: template, mode: RotationAgent, spareNames: o.MachineNames}, nil
}

// template returns what is asked for now: the machine's names and addresses may have changed.
func (o *other) template() (csr.Template, error) {
	t := o.Template
	if o.MachineNames {
		dns, ips, err := o.agent.names(o.agent.node())
		if err != nil {
			return t, err
		}
		if !o.isFor(dns, ips) {
			o.dns, o.ips, o.since = dns, ips, time.Now()
		}
		t.DNSNames, t.IPAddresses = slices.Concat(t.DNSNames, dns), slices.Concat(t.IPAddresses, ips)
	}
	if o.Name == ServingName {
		return csr.KubeletServing(o.agent.node(), t.DNSNames, t.IPAddresses, t.Lifetime)
	}
	return t, t.Check()
}

func (o *other) isFor(dns []string, ips []netip.Addr) bool {
	return slices.Equal(o.dns, dns) && slices.Equal(o.ips, ips)
}

// moved reports whether the machine's names are not what they were.
func (o *other) moved() bool {
	dns, ips, err := o.agent.names(o.agent.node())
	return err == nil && !o.isFor(dns, ips)
}

// way returns the only way: as the node, once that can be, and with names that stand.
func (o *other) way() way {
	cluster, pair, err := o.agent.withIdentity()
	switch {
	case err != nil:
		return way{name: ownName, missing: err}
	case o.MachineNames && time.Since(o.since) < standFor:
		return way{name: ownName, missing: errMoving}
	}
	return o.agent.ownWay(cluster, pair)
}

// mayKeepServing returns an error where the kubelet keeps its serving certificate by itself: it is never fought over it.
func (a *Agent) mayKeepServing(found *rotate.Found) error {
	const remedy = "set serverTLSBootstrap: false in the kubelet's configuration and restart it, or take " + ServingName + " out of nodejoin's"
	if kubelet := a.kubelet(); kubelet != nil {
		if requests, why := kubelet.RotatesServing(); requests {
			return fault.New(fault.Usage, remedy, "the kubelet keeps its serving certificate by itself: %s", why)
		}
	}
	if found.Replaced {
		return fault.New(fault.Usage, remedy+"; then remove "+found.PairPath, "another program has replaced the certificate in %s", found.PairPath)
	}
	return nil
}
