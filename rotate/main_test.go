package rotate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// The test binary runs itself, for what needs a process of its own: to be killed, to hold a lock, to be traced.
const (
	childVariable = "NODEJOIN_ROTATE_CHILD" // what the child does
	rootVariable  = "NODEJOIN_ROTATE_ROOT"  // where its files are
	pairVariable  = "NODEJOIN_ROTATE_PAIR"  // file with the key pair that it commits
)

func init() {
	if os.Getenv(childVariable) != "" {
		runtime.LockOSThread() // all its system calls are the main thread's, whose number is the process's
	}
}

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		if err := children[what](); err != nil {
			fmt.Println(err)
			os.Exit(int(fault.ClassOf(err)))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// children are what a child can do.
var children = map[string]func() error{
	"lock": func() error {
		lock, err := NewStore(testPaths(os.Getenv(rootVariable))).Lock()
		if err != nil {
			return err
		}
		fmt.Println("held")
		_, err = io.Copy(io.Discard, os.Stdin) // until it is killed, or its parent lets go
		return errors.Join(err, lock.Unlock())
	},
	"replace": func() error {
		return ReplaceSecret(filepath.Join(os.Getenv(rootVariable), "secret"), []byte("new"))
	},
	"commit": func() error {
		pair, err := childsPair()
		if err != nil {
			return err
		}
		return rotation(NewStore(testPaths(os.Getenv(rootVariable))), pair, testTime.Add(time.Minute))
	},
	"slot": func() error {
		pair, err := childsPair()
		if err != nil {
			return err
		}
		return slotRotation(NewStore(testPaths(os.Getenv(rootVariable))), pair, testTime.Add(time.Minute))
	},
	"reset": func() error {
		store := NewStore(testPaths(os.Getenv(rootVariable)))
		lock, err := store.Lock()
		if err != nil {
			return err
		}
		defer lock.Unlock() //nolint:errcheck // the lock ends with the process, too
		_, err = store.Reset()
		return err
	},
}

func childsPair() (*KeyPair, error) {
	data, err := os.ReadFile(os.Getenv(pairVariable))
	if err != nil {
		return nil, err
	}
	return ParseKeyPair(data)
}

// rotation is all that a rotation writes, in its order.
func rotation(store *Store, pair *KeyPair, now time.Time) error {
	lock, err := store.Lock()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock ends with the process, too
	if err := store.Client.SavePendingKey(pendingKey); err != nil {
		return err
	}
	if err := store.Commit(kubeconfigOf(pair), now); err != nil {
		return err
	}
	if err := verified(store, pair.Fingerprint()); err != nil {
		return err
	}
	return store.Client.DropPendingKey()
}

// aSlot is a slot with everything that a place can say, as far as this user may.
func aSlot(store *Store) *Slot {
	place := Place{
		Name: "metrics", Dir: "/var/lib/metrics/pki", Mode: 0o640,
		CertificateFile: "/etc/metrics/tls/tls.crt", PrivateKeyFile: "/etc/metrics/private/tls.key",
	}
	if os.Geteuid() == 0 {
		place.Owner = &Owner{UID: 4711, GID: 4712}
	}
	return store.Slot(place)
}

// slotRotation is all that a rotation of aSlot writes, in its order.
func slotRotation(store *Store, pair *KeyPair, now time.Time) error {
	lock, err := store.Lock()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock ends with the process, too
	slot := aSlot(store)
	if err := slot.SavePendingKey(pendingKey); err != nil {
		return err
	}
	if err := slot.Commit(pair, now); err != nil {
		return err
	}
	if err := slot.Remember(func(record *Record) { record.Verified = pair.Fingerprint() }); err != nil {
		return err
	}
	return slot.DropPendingKey()
}

// verified remembers which certificate was seen to work.
func verified(store *Store, fingerprint string) error {
	return store.Client.Remember(func(record *Record) { record.Verified = fingerprint })
}

// command returns a command that runs a child on the files below root.
func command(tb testing.TB, what, root string, before ...string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	args := append(before, self)
	cmd := exec.CommandContext(tb.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childVariable+"="+what, rootVariable+"="+root, "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// What the kubelet client certificate's files are called.
const (
	currentName = ClientName + "-current.pem"
	pendingName = ClientName + pendingSuffix
)

// testTime is the time of the first commit.
var testTime = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

var (
	testCA = []byte(`-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIUE27Mf4USIOtefOECCNSXN0fg5TkwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjQwMzI5MjlaGA8yMTI2MTAz
MTAzMjkyOVowFTETMBEGA1UEAwwKa3ViZXJuZXRlczBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABKPtIosJnuwfa6PxAsOb4N9O24hkxU7HBXAAp3HH8gwWihFnUW0E
YRrq11xwnNcly8EehpX5gOHo7XEoLKI0Z1qjUzBRMB0GA1UdDgQWBBRmh2HJ1pTS
aqCH1HmMVHPfC/QcWjAfBgNVHSMEGDAWgBRmh2HJ1pTSaqCH1HmMVHPfC/QcWjAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQDvnxfcHr/e3FtZzja1
9a4IEWApuUwvQAHQtCF33ty8hgIgIF2UfcAKjNLTUsp4z29h0Of5yjxMWYM4xDPY
T3h0hQ4=
-----END CERTIFICATE-----
`)
	pendingKey = []byte("-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n")
)

func testPaths(root string) Paths {
	return Paths{
		Kubeconfig: "/etc/kubernetes/kubelet.conf",
		CertDir:    "/var/lib/kubelet/pki",
		CAFile:     "/etc/kubernetes/pki/ca.crt",
		StateDir:   "/var/lib/nodejoin",
		Root:       root,
	}
}

// newStore returns a store in an empty directory.
func newStore(tb testing.TB) (*Store, string) {
	tb.Helper()
	root := tempDir(tb)
	return NewStore(testPaths(root)), root
}

// tempDir returns an empty directory in memory where there is one: what a test kills is thousands of fsyncs.
func tempDir(tb testing.TB) string {
	tb.Helper()
	if dir, err := os.MkdirTemp("/dev/shm", "rotate"); err == nil { //nolint:usetesting // it is not in memory
		tb.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				tb.Error(err)
			}
		})
		return dir
	}
	return tb.TempDir()
}

func kubeconfigOf(pair *KeyPair) *Kubeconfig {
	return &Kubeconfig{Server: "https://api.example.com:6443", TLSServerName: "kubernetes", ProxyURL: "http://proxy:3128", CA: testCA, Pair: pair}
}

// makePair makes a key pair of a node, whose certificate is signed by its own key.
func makePair(tb testing.TB, changes ...func(*x509.Certificate)) *KeyPair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "system:node:node-1", Organization: []string{"system:nodes"}},
		NotBefore:    testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour),
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := NewKeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), private)
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

var somePairs struct {
	sync.Mutex
	pairs []*KeyPair
}

// pairNo returns one of the pairs that tests share.
func pairNo(tb testing.TB, n int) *KeyPair {
	tb.Helper()
	somePairs.Lock()
	defer somePairs.Unlock()
	for len(somePairs.pairs) <= n {
		somePairs.pairs = append(somePairs.pairs, makePair(tb))
	}
	return somePairs.pairs[n]
}

// wantedNode is what a node's client certificate must be.
var wantedNode = Wanted{CommonName: "system:node:node-1", Organization: []string{"system:nodes"}}

// died lets go of the temporary files of a store, as the end of its process does.
func died(store *Store) {
	staging.Lock()
	defer staging.Unlock()
	for name := range staging.names {
		if holds(store.paths.Root, name) {
			delete(staging.names, name)
		}
	}
}

// mustLoad loads a store that can be used.
func mustLoad(tb testing.TB, store *Store) *Disk {
	tb.Helper()
	disk, err := store.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return disk
}

func commit(tb testing.TB, store *Store, pair *KeyPair, now time.Time) {
	tb.Helper()
	if err := store.Commit(kubeconfigOf(pair), now); err != nil {
		tb.Fatal(err)
	}
}

// wantIdentity is invariant I1: one of the pairs can be loaded, by us and in the way of the kubelet.
func wantIdentity(tb testing.TB, store *Store, pairs ...*KeyPair) {
	tb.Helper()
	current := filepath.Join(store.paths.CertDir, currentName)
	if _, err := tls.LoadX509KeyPair(current, current); err != nil {
		tb.Fatalf("I1: the kubelet finds no identity: %v", err)
	}
	disk := mustLoad(tb, store)
	if disk.PairErr != nil || disk.KubeconfigErr != nil {
		tb.Fatalf("I1: %v, %v", disk.PairErr, disk.KubeconfigErr)
	}
	for _, pair := range pairs {
		if disk.Pair.Fingerprint() == pair.Fingerprint() {
			return
		}
	}
	tb.Fatal("I1: the identity is another")
}

// wantSlot is invariant I1 of aSlot, and that a copy is of one of the pairs, and known to be stale if it is of another.
func wantSlot(tb testing.TB, store *Store, pairs ...*KeyPair) *Found {
	tb.Helper()
	slot := aSlot(store)
	current := filepath.Join(slot.dir, slot.currentName())
	if _, err := tls.LoadX509KeyPair(current, current); err != nil {
		tb.Fatalf("I1: no certificate is found: %v", err)
	}
	found, err := slot.Load()
	if err != nil || found.PairErr != nil {
		tb.Fatalf("I1: %v, %v", err, found)
	}
	is := slices.IndexFunc(pairs, func(pair *KeyPair) bool { return pair.Fingerprint() == found.Pair.Fingerprint() })
	if is < 0 {
		tb.Fatal("I1: the certificate is another")
	}
	stale := false
	for i, path := range []string{slot.PrivateKeyFile, slot.CertificateFile} {
		data, err := os.ReadFile(store.on(path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			tb.Fatal(err)
		}
		of := func(pair *KeyPair) bool {
			chain, key := parts(tb, pair)
			return bytes.Equal(data, [][]byte{key, chain}[i])
		}
		if err == nil && !slices.ContainsFunc(pairs, of) {
			tb.Errorf("torn: %s holds %q", path, data)
		}
		stale = stale || !of(pairs[is])
	}
	if found.StaleCopy != stale {
		tb.Errorf("a copy is stale: %t, and is said to be: %t", stale, found.StaleCopy)
	}
	return found
}

// wantSlotWhole checks that the pair is current in aSlot, in the copies, too, and that nothing else is left over.
func wantSlotWhole(tb testing.TB, store *Store, pair *KeyPair) {
	tb.Helper()
	if found := wantSlot(tb, store, pair); found.StaleCopy || found.Record.Verified != pair.Fingerprint() || found.PendingKey != nil {
		tb.Errorf("the slot is %+v", found)
	}
	if files, err := aSlot(store).pairFiles(); err != nil || len(files) > keptPairs {
		tb.Errorf("the pairs are %q, %v", files, err)
	}
	wantClean(tb, store)
}

// wantWhole checks that the pair is current and that nothing else is left over.
func wantWhole(tb testing.TB, store *Store, pair *KeyPair) {
	tb.Helper()
	wantIdentity(tb, store, pair)
	disk := mustLoad(tb, store)
	if !disk.Whole() || disk.Kubeconfig.Server != kubeconfigOf(nil).Server || !bytes.Equal(disk.Kubeconfig.CA, testCA) {
		tb.Errorf("the kubeconfig is %+v", disk.Kubeconfig)
	}
	wantClean(tb, store)
}

// wantClean checks that there are no temporary files, and no more pairs than are kept.
func wantClean(tb testing.TB, store *Store) {
	tb.Helper()
	pairs := 0
	for _, path := range tree(tb, store.paths.Root) {
		name := filepath.Base(path)
		if strings.HasPrefix(name, ".") {
			tb.Errorf("left over: %s", path)
		}
		if _, isPair := store.Client.timeOf(name); isPair {
			pairs++
		}
	}
	if pairs > keptPairs {
		tb.Errorf("%d pairs are kept", pairs)
	}
}

// tree returns the paths of everything below a directory, without it.
func tree(tb testing.TB, root string) []string {
	tb.Helper()
	var paths []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, path); rel != "." && rel != "lost+found" {
			paths = append(paths, rel)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return paths
}

func write(tb testing.TB, path, content string, mode fs.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
}

func link(tb testing.TB, target, path string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		tb.Fatal(err)
	}
}
