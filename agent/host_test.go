package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/test/expect"
)

const (
	testNode   = "node-1"
	testUser   = "system:node:" + testNode
	testServer = "127.0.0.1:1" // nobody listens there
)

// host is a machine whose agent is under test, with its files in a directory of the test.
type host struct {
	t       *testing.T
	cluster *fakeCluster
	root    string
	change  func(*Options) // of the configuration; nil for none
	log     *logBook

	ahead   atomic.Int64 // of the wall clock over the cluster's
	looks   atomic.Int64 // at the clock
	longest atomic.Int64 // between two of them
	looked  atomic.Pointer[time.Time]

	unreachable atomic.Pointer[error]
	proofs      atomic.Int64 // of the identity, over the network that a bubble has not
}

func newHost(t *testing.T, cluster *fakeCluster) *host {
	t.Helper()
	return &host{t: t, cluster: cluster, root: memoryDir(t), log: new(logBook)}
}

// memoryDir returns a directory of the test, in memory where that can be: what a long test writes would take a disk longer
// than all else, and what survives a power cut is not shown here.
func memoryDir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	dir, err := os.MkdirTemp(memory, "agent") //nolint:usetesting // t.TempDir is where TMPDIR says
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// options are the configuration: the usual places, and the CA that is in place.
func (h *host) options() Options {
	o := Options{NodeName: testNode, Root: h.root, Servers: []string{testServer}, KubeletConfig: "/etc/no-kubelet.yaml"}
	if h.change != nil {
		h.change(&o)
	}
	return o
}

func (h *host) config() *Config {
	h.t.Helper()
	config, err := h.options().Config()
	if err != nil {
		h.t.Fatal(err)
	}
	return config
}

// agent returns a daemon's agent on the machine.
func (h *host) agent() *Agent {
	h.t.Helper()
	a := New(h.config(), slog.New(h.log.handler()))
	a.daemon = true
	a.clock = h.now
	return a
}

// now is the machine's wall clock.
func (h *host) now() time.Time {
	now := time.Now()
	h.looks.Add(1)
	if before := h.looked.Swap(&now); before != nil {
		h.longest.Store(max(h.longest.Load(), int64(now.Sub(*before))))
	}
	return now.Add(time.Duration(h.ahead.Load()))
}

// path returns the place on this machine of a path as it stands in files.
func (h *host) path(path string) string { return filepath.Join(h.root, path) }

func (h *host) store() *rotate.Store { return h.config().Store() }

// pair makes a pair of this node, signed by the cluster.
func (h *host) pair(from, until time.Duration) *rotate.KeyPair {
	h.t.Helper()
	now := time.Now()
	return h.cluster.signer.pair(h.t, nodeTemplate(testNode, now.Add(from), now.Add(until)))
}

// join makes the machine one that has joined with a pair, which was seen to work.
func (h *host) join(pair *rotate.KeyPair) {
	h.t.Helper()
	store := h.store()
	k := h.kubeconfig(testServer, pair)
	if err := store.Commit(k, time.Now()); err != nil {
		h.t.Fatal(err)
	}
	h.remember(func(state *rotate.State) {
		state.Certificates[rotate.ClientName] = rotate.Record{Verified: pair.Fingerprint()}
		state.Cluster = &rotate.Remembered{Server: k.Server, CA: string(k.CA)}
	})
}

// kubeconfig is what the machine's is, for a server of the cluster.
func (h *host) kubeconfig(server string, pair *rotate.KeyPair) *rotate.Kubeconfig {
	return &rotate.Kubeconfig{Server: "https://" + server, CA: h.cluster.signer.pem(), Pair: pair}
}

func (h *host) remember(change func(*rotate.State)) {
	h.t.Helper()
	if err := h.store().Remember(change); err != nil {
		h.t.Fatal(err)
	}
}

// load reads the machine's disk.
func (h *host) load() *rotate.Disk {
	h.t.Helper()
	disk, err := h.store().Load()
	if err != nil {
		h.t.Fatal(err)
	}
	return disk
}

// current returns the certificate in use, read as a kubelet reads it.
func (h *host) current() (*x509.Certificate, error) {
	path := h.path(DefaultCertDir + "/kubelet-client-current.pem")
	pair, err := tls.LoadX509KeyPair(path, path)
	return pair.Leaf, err
}

// wantCurrent checks invariant I1: the pair in use can be loaded, and is this one.
func (h *host) wantCurrent(want *rotate.KeyPair) {
	h.t.Helper()
	leaf, err := h.current()
	if err != nil {
		h.t.Fatalf("I1: %v", err)
	}
	if !leaf.Equal(want.Leaf) {
		h.t.Errorf("the certificate %s is in use instead of %s", leaf.SerialNumber, want.Leaf.SerialNumber)
	}
}

func (h *host) write(path, content string, mode fs.FileMode) {
	h.t.Helper()
	path = h.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		h.t.Fatal(err)
	}
}

// token puts a bootstrap token into its usual place and makes the cluster know it.
func (h *host) token(id string) {
	h.t.Helper()
	token := id + ".0123456789abcdef"
	h.write(DefaultTokenFile, token+"\n", 0o600)
	h.cluster.with(func() { h.cluster.tokens[token] = "system:bootstrap:" + id })
}

// offline takes the network away from an agent, of which there is none in a bubble: its requests go to the cluster as
// function calls, without a connection and its TLS, and that the identity authenticates is believed if the cluster would
// answer it. All else is real: the ladder, the client of the API, the gate, the files.
func (h *host) offline(a *Agent) *Agent {
	for _, k := range a.keepers {
		ways := k.role.ways
		k.role.ways = func(s *sight) []way {
			all := ways(s)
			for i := range all {
				h.shortcut(&all[i])
			}
			return all
		}
	}
	a.identity.role.admit = func(_ context.Context, _ *application, pair *rotate.KeyPair) error { return h.prove(a, pair) }
	settle := a.identity.role.settle
	a.identity.role.settle = func(ctx context.Context, s *sight) (func(*rotate.State), error) {
		if s.disk.Whole() && (s.disk.Record.Verified != s.disk.Pair.Fingerprint() || a.identity.isSuspect()) {
			if err := h.prove(a, s.disk.Pair); err != nil {
				return nil, err
			}
			s.disk.Record.Verified = s.disk.Pair.Fingerprint()
			a.identity.clearDoubt()
		}
		return settle(ctx, s)
	}
	return a
}

func (h *host) shortcut(w *way) {
	if w.connect == nil {
		return
	}
	w.connect = func(context.Context) (*bootstrap.Cluster, *bootstrap.Connection, error) {
		if err := h.unreachable.Load(); err != nil {
			return nil, nil, *err
		}
		endpoint, err := bootstrap.ParseEndpoint(testServer)
		cluster := &bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint}, CA: h.cluster.signer.bundle(h.t)}
		return cluster, bootstrap.ConnectionTo(cluster, nil), err
	}
	authenticate, own := w.authenticate, w.own
	w.authenticate = func(http.RoundTripper) http.RoundTripper {
		to := inProcess{cluster: h.cluster}
		if own {
			to.certificate = h.load().Pair.Leaf
		}
		return authenticate(to)
	}
}

// prove authenticates with a pair, as [Agent.authenticate] does it over the network.
func (h *host) prove(a *Agent, pair *rotate.KeyPair) error {
	if err := h.unreachable.Load(); err != nil {
		return *err
	}
	h.proofs.Add(1)
	h.cluster.mu.Lock()
	defer h.cluster.mu.Unlock()
	user := h.cluster.user(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Leaf}}})
	if user == "" {
		err := fmt.Errorf("as the node: %w", csr.ErrUnauthorized)
		a.identity.markDead(pair, err)
		return err
	}
	return nil
}

// cut takes the way to the cluster away; nil brings it back.
func (h *host) cut(err error) {
	if err == nil {
		h.unreachable.Store(nil)
		return
	}
	h.unreachable.Store(&err)
}

// slow is by how much less is done in long tests where that is slow: with the race detector, which looks at the same code as often
// as it needs to in a part of them.
var slow = 1

// running is an agent's loop that runs.
type running struct {
	*Agent
	stop func() // and waits for the end
}

// start runs the loop of the identity, in a bubble.
func (h *host) start() *running {
	h.t.Helper()
	return h.run(h.offline(h.agent()))
}

// run runs the loops of an agent's certificates.
func (h *host) run(a *Agent) *running {
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for _, k := range a.keepers {
		loops.Go(func() { k.run(ctx) })
	}
	return &running{a, func() {
		cancel()
		loops.Wait()
	}}
}

// bubble runs a test in a synctest bubble, where time passes when everything waits.
func bubble(t *testing.T, test func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, newHost(t, newCluster(t)))
	})
}

// view returns what the status says of the identity.
func (a *Agent) view() status.Certificate { return a.Snapshot().Certificates[0] }

var wantFault, eventually = expect.Fault, expect.Eventually

// logBook keeps what was logged.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < 1<<20 { // what a year logs is not looked at
		l.text.Write(data)
	}
	return len(data), nil
}

func (l *logBook) handler() slog.Handler { return slog.NewTextHandler(l, nil) }

// count returns in how many lines a text stands.
func (l *logBook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
