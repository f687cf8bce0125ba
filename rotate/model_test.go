package rotate

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// model is what a store must hold after a sequence of operations.
type model struct {
	store   *Store
	now     time.Time
	pair    *KeyPair // nil: none yet
	pending []byte
	state   string   // what is remembered: the certificate that was seen to work
	names   []string // that the link has led to
}

// operations are what a run of the agent does, what its crashes leave, and what happens to the clock. by is the
// operation's argument.
var operations = []func(t *testing.T, m *model, by byte){
	func(t *testing.T, m *model, by byte) { // commit
		pair := pairNo(t, int(by)%3)
		commit(t, m.store, pair, m.now)
		m.pair = pair
		target, err := os.Readlink(filepath.Join(m.store.paths.CertDir, currentName))
		if err != nil || slices.Contains(m.names, target) || filepath.Base(target) != target {
			t.Fatalf("the link leads to %q, %v, after %q", target, err, m.names)
		}
		m.names = append(m.names, target)
	},
	func(t *testing.T, m *model, by byte) { // a pending key
		m.pending = bytes.Repeat([]byte{'k'}, 1+int(by))
		must(t, m.store.Client.SavePendingKey(m.pending))
	},
	func(t *testing.T, m *model, _ byte) { // none
		m.pending = nil
		must(t, m.store.Client.DropPendingKey())
	},
	func(t *testing.T, m *model, by byte) { // the state
		m.state = string('a' + rune(by)%26)
		must(t, verified(m.store, m.state))
	},
	func(_ *testing.T, m *model, by byte) { // the clock: half of the steps go back
		m.now = m.now.Add(time.Duration(int8(by)) * 13 * time.Hour)
	},
	func(t *testing.T, m *model, by byte) { // staged, and given up
		staged, err := m.store.Stage(&Kubeconfig{Server: "https://other:6443", CA: []byte{by}})
		must(t, err)
		must(t, staged.Discard())
		m.store.Retreat()
		m.run(t)
	},
	func(t *testing.T, m *model, _ byte) { // staged, and killed
		staged, err := m.store.Stage(&Kubeconfig{Server: "https://other:6443"})
		must(t, err)
		must(t, staged.ca.Close())
		must(t, staged.kubeconfig.Close())
		died(m.store)
	},
	func(t *testing.T, m *model, _ byte) { // killed in the middle of a file
		for _, path := range []string{m.store.paths.CertDir + "/.kubelet-client-2026-03-14-15-09-26.pem", m.store.paths.StateDir + "/." + stateName, m.store.paths.StateDir + "/." + pendingName} {
			write(t, path+"12345", "torn", 0o600)
		}
	},
	func(t *testing.T, m *model, _ byte) { // killed before the link
		_ = os.Remove(filepath.Join(m.store.paths.CertDir, "."+currentName+"0"))
		link(t, "kubelet-client-2020-01-01-00-00-00.pem", filepath.Join(m.store.paths.CertDir, "."+currentName+"0"))
	},
	func(t *testing.T, m *model, by byte) { // killed between the pair and the link
		names := m.names
		must(t, os.MkdirAll(m.store.paths.CertDir, 0o755))
		older, err := m.store.Client.pairFiles()
		must(t, err)
		name := m.store.Client.freshName(older, m.now)
		if slices.Contains(names, name) {
			t.Fatalf("%s a second time", name)
		}
		write(t, filepath.Join(m.store.paths.CertDir, name), string(pairNo(t, int(by)%3).pem), 0o600)
	},
	func(t *testing.T, m *model, by byte) { // another server
		if m.pair == nil {
			return
		}
		must(t, m.store.CommitKubeconfig(&Kubeconfig{Server: "https://other:6443", CA: append(bytes.Clone(testCA), by, 'x')}))
	},
	func(t *testing.T, m *model, _ byte) { // a torn state
		write(t, filepath.Join(m.store.paths.StateDir, stateName), `{"ver`, 0o600)
		m.state = ""
	},
	func(t *testing.T, m *model, _ byte) { m.run(t) },
}

// run begins another run of the agent.
func (m *model) run(t *testing.T) {
	t.Helper()
	m.store = NewStore(m.store.written)
	lock, err := m.store.Lock()
	must(t, err)
	must(t, lock.Unlock())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// check holds the store against the model, invariant I1 above all.
func (m *model) check(t *testing.T) {
	t.Helper()
	disk := mustLoad(t, m.store)
	if !bytes.Equal(disk.PendingKey, m.pending) || disk.Record != (Record{Verified: m.state}) {
		t.Fatalf("the pending key is %q, the record %+v; want %q, %+v", disk.PendingKey, disk.Record, m.pending, m.state)
	}
	if m.pair == nil {
		if disk.Pair != nil || disk.PairErr != nil || disk.Kubeconfig != nil {
			t.Fatalf("out of nothing: %+v", disk)
		}
		return
	}
	wantIdentity(t, m.store, m.pair)
	if !disk.Whole() {
		t.Fatal("the kubeconfig does not lead to the pair")
	}
}

// FuzzStore runs a sequence of operations, each with its argument, and ends with a whole rotation.
func FuzzStore(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 2, 0, 0})
	f.Add([]byte{1, 9, 0, 0, 3, 5, 2, 0, 4, 200, 0, 1, 4, 3, 0, 2})
	f.Add([]byte{6, 0, 7, 0, 8, 0, 9, 1, 0, 0, 11, 0, 5, 3, 10, 4})
	f.Add([]byte{9, 0, 9, 1, 4, 129, 9, 2, 0, 0, 12, 0, 4, 127, 0, 1, 1, 0, 6, 0, 0, 2})
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 0)) // the same at every run
		script := make([]byte, 40)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		store, _ := newStore(t)
		m := &model{store: store, now: testTime}
		m.run(t)
		for ; len(script) >= 2; script = script[2:] {
			if len(m.names) > 8 {
				break
			}
			operations[int(script[0])%len(operations)](t, m, script[1])
			m.check(t)
		}
		must(t, rotation(m.store, pairNo(t, 0), m.now))
		wantWhole(t, m.store, pairNo(t, 0))
	})
}
