package agent

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// serving has a machine keep the kubelet's serving certificate, with its names.
func serving(o *Options) {
	o.Certificates = append(o.Certificates, Certificate{Name: ServingName, Place: rotate.Place{Name: "kubelet-server", Dir: DefaultCertDir}, MachineNames: true})
}

// network is what the machine's names and addresses are.
type network struct {
	mu  sync.Mutex
	ips []netip.Addr
}

func (n *network) become(ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ips = nil
	for _, ip := range ips {
		n.ips = append(n.ips, netip.MustParseAddr(ip))
	}
}

func (n *network) names(node string) ([]string, []netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []string{node}, slices.Clone(n.ips), nil
}

// startAll runs the loops of all certificates, in a bubble.
func (h *host) startAll(names func(string) ([]string, []netip.Addr, error)) *running {
	h.t.Helper()
	a := h.offline(h.agent())
	a.names = names
	return h.run(a)
}

func (a *Agent) servingView() status.Certificate { return a.Snapshot().Certificates[1] }

// TestMachineNames asks for a serving certificate once the machine's addresses stand, again when there is one more, and not
// when there is one less.
func TestMachineNames(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = serving
		h.join(h.fresh())
		net := &network{}
		net.become("192.0.2.1")
		agent := h.startAll(net.names)
		defer agent.stop()
		time.Sleep(standFor / 2)
		net.become("192.0.2.1", "2001:db8::1") // the machine is just starting
		agent.wake()
		time.Sleep(standFor / 2)
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("asked for before the addresses stand: %v", made)
		}
		time.Sleep(time.Minute)
		if v := agent.servingView(); v.State != status.Valid || len(v.IPAddresses) != 2 || v.Failures != 0 {
			t.Errorf("the status is %+v with the problem %+v", v, v.Problem)
		}

		net.become("192.0.2.1", "2001:db8::1", "192.0.2.9") // without an event: only the minute tells
		time.Sleep(2 * time.Minute)
		if v := agent.servingView(); v.State != status.Valid || len(v.IPAddresses) != 3 {
			t.Errorf("with one more address the status is %+v with the problem %+v", v, v.Problem)
		}
		net.become("192.0.2.1")
		time.Sleep(10 * time.Minute)
		if made := h.cluster.creations(); len(made) != 2 || made[0].by != testUser {
			t.Errorf("requests: %v", made)
		}
	})
}

// TestOtherIsRefused has the API server know the node's certificate no more while another certificate is asked for with it: that is
// the identity's trouble, which gets a new one, and with that the other one.
func TestOtherIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = serving
		pair := h.fresh()
		h.join(pair)
		h.cluster.with(func() { h.cluster.revoked[pair.Leaf.SerialNumber.Text(16)] = true })
		net := &network{}
		net.become("192.0.2.1")
		agent := h.startAll(net.names)
		defer agent.stop()
		time.Sleep(2 * time.Minute)
		s := agent.Snapshot()
		if c := s.Certificates[0]; c.State != status.Refused || s.Ready(time.Now()) || c.Problem == nil {
			t.Errorf("the identity is %s, ready: %t, with the problem %+v", c.State, s.Ready(time.Now()), c.Problem)
		}
		if c := s.Certificates[1]; c.State != status.Missing || c.Problem == nil || !strings.Contains(c.Problem.Text, "the node's own certificate") {
			t.Errorf("the other one is %s with the problem %+v", c.State, c.Problem)
		}
		h.wantCurrent(pair)
		h.token("abcdef")
		time.Sleep(2 * time.Minute)
		for _, c := range agent.Snapshot().Certificates {
			if c.State != status.Valid || c.Problem != nil {
				t.Errorf("with a token, %s is %s with the problem %+v", c.Name, c.State, c.Problem)
			}
		}
	})
}

// TestServingIsTheKubelets leaves the serving certificate to a kubelet that keeps it by itself, and says so.
func TestServingIsTheKubelets(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) {
			serving(o)
			o.KubeletConfig = kubeletFile
		}
		h.kubelet("serverTLSBootstrap: true")
		h.join(h.fresh())
		net := &network{}
		net.become("192.0.2.1")
		agent := h.startAll(net.names)
		defer agent.stop()
		time.Sleep(10 * time.Minute)
		if p := agent.servingView().Problem; p == nil || p.Class != fault.Usage || !strings.Contains(p.Text, "serverTLSBootstrap: true") || !strings.Contains(p.Remedy, ServingName) {
			t.Errorf("the problem is %+v", p)
		}
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("requests: %v", made)
		}
		h.kubelet("serverTLSBootstrap: false")
		time.Sleep(2 * time.Minute)
		if v := agent.servingView(); v.State != status.Valid {
			t.Errorf("when the kubelet leaves it to the agent, the status is %+v with the problem %+v", v, v.Problem)
		}
	})
}

// TestClientCopies writes the copies of the node's own certificate when they are configured, and when they go.
func TestClientCopies(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) {
			o.Client = rotate.Place{CertificateFile: "/etc/copies/tls.crt", PrivateKeyFile: "/etc/copies/tls.key"}
		}
		pair := h.fresh()
		h.join(pair)
		h.remove("/etc/copies")
		agent := h.start()
		defer agent.stop()
		for range 2 {
			time.Sleep(2 * time.Minute)
			h.wantFile("/etc/copies/tls.crt", certPEM(pair.Leaf))
			h.remove("/etc/copies/tls.crt")
		}
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("requests: %v", made)
		}
	})
}
