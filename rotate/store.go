package rotate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	pairName    = "kubelet-client" // of the files in the certificate directory, as the kubelet's
	currentName = pairName + "-current.pem"
	pendingName = pairName + ".key.pending"
	stateName   = "state.json"
	pairLayout  = pairName + "-2006-01-02-15-04-05.pem"
	pairPattern = pairName + `-\d{4}(-\d\d){5}\.pem`
	keptPairs   = 2 // the current one and the one before
)

// Paths says where the identity is kept. All are absolute.
type Paths struct {
	Kubeconfig string
	CertDir    string // the kubelet's --cert-dir
	CAFile     string
	StateDir   string // this program's own
	// Root is put before every path above on this machine, and not in what is written: an image that is built in a
	// directory holds the paths that it will have when it runs. "" for none.
	Root string
}

// Store is the identity on disk. Its methods that write want the [Lock] held.
type Store struct {
	paths   Paths // with Root before them
	written Paths // as they stand in files

	made []string // directories that this store made, outermost first
}

// NewStore returns the store at the given paths. Nothing is read or written yet.
func NewStore(p Paths) *Store {
	on := func(path string) string { return filepath.Join(p.Root, path) }
	return &Store{
		written: p,
		paths:   Paths{Kubeconfig: on(p.Kubeconfig), CertDir: on(p.CertDir), CAFile: on(p.CAFile), StateDir: on(p.StateDir), Root: p.Root},
	}
}

// CurrentPath returns the path of the key pair in use, as it stands in the kubeconfig.
func (s *Store) CurrentPath() string { return filepath.Join(s.written.CertDir, currentName) }

// Disk is everything that a store holds, as it was found. A part that is missing is nil; a part that is there and
// cannot be used is nil with its error.
type Disk struct {
	Pair          *KeyPair // behind kubelet-client-current.pem, or, where that is missing, the kubeconfig's
	PairErr       error
	PairPath      string // of the file that holds Pair, as it stands in files
	Kubeconfig    *Kubeconfig
	KubeconfigErr error  // [ErrUnmanaged] for one that is in order and is not ours to replace
	PendingKey    []byte // PEM
	State         State
}

// State is what is remembered between runs. Losing it costs a request to the API server and nothing else.
type State struct {
	Version int `json:"version"` // 1
	// Verified is the fingerprint of the certificate that was last seen to authenticate as this node.
	Verified string `json:"verified,omitempty"`
}

// Fingerprint identifies a certificate: SHA-256 of its DER encoding in hexadecimal digits.
func (p *KeyPair) Fingerprint() string {
	sum := sha256.Sum256(p.Leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// Load reads what is there. The error is for a store that must not be used at all.
func (s *Store) Load() (*Disk, error) {
	for _, dir := range []string{s.paths.CertDir, s.paths.StateDir, filepath.Dir(s.paths.Kubeconfig), filepath.Dir(s.paths.CAFile)} {
		if err := checkDir(dir); err != nil {
			return nil, err
		}
	}
	disk := &Disk{PairPath: s.CurrentPath()}
	var err error
	if disk.Pair, disk.PairErr, err = s.loadPair(); err != nil {
		return nil, err
	}
	disk.Kubeconfig, err = readKubeconfig(s.paths.Kubeconfig, s.paths.Root)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, unreadable(err)
	case err != nil && !isMissing(s.paths.Kubeconfig):
		disk.KubeconfigErr = err
	}
	if disk.Pair == nil && disk.PairErr == nil && disk.Kubeconfig != nil {
		disk.Pair, disk.PairPath = disk.Kubeconfig.Pair, s.written.Kubeconfig // kept elsewhere, or inline, by whoever joined this machine
	}
	if disk.PendingKey, err = readOptional(filepath.Join(s.paths.StateDir, pendingName)); err != nil {
		return nil, unreadable(err)
	}
	data, err := readOptional(filepath.Join(s.paths.StateDir, stateName))
	if err != nil {
		return nil, unreadable(err)
	}
	if json.Unmarshal(data, &disk.State) != nil {
		disk.State = State{} // torn by a crash: as if there were none
	}
	return disk, nil
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func unreadable(err error) error {
	return fault.New(fault.Files, "run as root, or mend the file's owner and mode", "cannot read this node's files: %w", err)
}

// readBelow reads a file. An absolute link is followed below root, as it would be on the machine that root becomes.
func readBelow(root, path string) ([]byte, error) {
	target, err := os.Readlink(path)
	if err == nil && root != "" && filepath.IsAbs(target) && !strings.HasPrefix(target, filepath.Clean(root)+string(filepath.Separator)) {
		path = filepath.Join(root, target)
	}
	return os.ReadFile(path)
}

// readOptional reads a file; a missing one is empty.
func readOptional(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// loadPair reads the pair behind the link. broken says why a pair that is there cannot be used.
func (s *Store) loadPair() (pair *KeyPair, broken, err error) {
	path := filepath.Join(s.paths.CertDir, currentName)
	target, err := os.Readlink(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil
	case err == nil && !s.inCertDir(target):
		return nil, nil, fault.New(fault.Files, "look at who changed it, then remove the link: rm "+path, "%s points outside its directory, to %s", path, target)
	}
	data, err := readBelow(s.paths.Root, path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, unreadable(err)
	case err != nil:
		return nil, err, nil
	}
	pair, broken = ParseKeyPair(data)
	if broken != nil {
		broken = fmt.Errorf("%s: %w", path, broken)
	}
	return pair, broken, nil
}

// inCertDir reports whether the link's target is a file directly in the certificate directory.
func (s *Store) inCertDir(target string) bool {
	if !strings.ContainsRune(target, filepath.Separator) {
		return target != ".." && target != "."
	}
	dir := filepath.Dir(filepath.Clean(target)) // the kubelet writes absolute targets
	return dir == s.paths.CertDir || dir == s.written.CertDir
}

// Whole reports whether the kubeconfig is there and leads to the pair.
func (d *Disk) Whole() bool {
	return d.Pair != nil && d.Kubeconfig != nil && d.Kubeconfig.Pair.Fingerprint() == d.Pair.Fingerprint()
}

// SavePendingKey makes the key of a request durable, before the request is sent.
func (s *Store) SavePendingKey(key []byte) error {
	if err := s.makeDir(s.paths.StateDir, 0o700); err != nil {
		return explain(err)
	}
	return explain(writeFile(filepath.Join(s.paths.StateDir, pendingName), key, 0o600))
}

// DropPendingKey forgets the key of a request that has ended.
func (s *Store) DropPendingKey() error {
	return explain(removeFile(filepath.Join(s.paths.StateDir, pendingName)))
}

// SetAsidePendingKey moves a pending key that cannot be read out of the way, for a person to look at.
func (s *Store) SetAsidePendingKey() (string, error) {
	path := filepath.Join(s.paths.StateDir, pendingName)
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("cannot set the damaged key aside: %w", err)
	}
	return aside, syncDir(s.paths.StateDir)
}

// commitPair makes a pair the current one and returns the files of the older ones, oldest first.
func (s *Store) commitPair(pair *KeyPair, now time.Time) (older []string, err error) {
	if err := sweep(s.paths.CertDir, pairPattern); err != nil {
		return nil, err
	}
	if older, err = s.pairFiles(); err != nil {
		return nil, err
	}
	file := freshName(older, now)
	if err := writeFile(filepath.Join(s.paths.CertDir, file), pair.pem, 0o600); err != nil {
		return nil, err
	}
	return older, swapLink(filepath.Join(s.paths.CertDir, currentName), file)
}

// prune removes all older pairs but the last. One that cannot be removed does no harm: the next commit tries again.
func (s *Store) prune(older []string) {
	for _, name := range older[:max(0, len(older)-(keptPairs-1))] {
		_ = os.Remove(filepath.Join(s.paths.CertDir, name))
	}
}

// pairFiles returns the names of the pairs' files, oldest first.
func (s *Store) pairFiles() ([]string, error) {
	entries, err := os.ReadDir(s.paths.CertDir) // sorted
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate directory: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if t, err := time.Parse(pairLayout, entry.Name()); err == nil && t.Format(pairLayout) == entry.Name() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// freshName returns a name for a pair's file that comes after all older ones: none is ever used twice, and their order
// is that of the commits, whatever the clock does.
func freshName(older []string, now time.Time) string {
	name := now.UTC().Format(pairLayout)
	if len(older) == 0 || name > older[len(older)-1] {
		return name
	}
	newest, _ := time.Parse(pairLayout, older[len(older)-1]) // pairFiles has parsed it
	return newest.Add(time.Second).Format(pairLayout)
}

// makeDir makes a directory where it is missing and remembers that, see Retreat.
func (s *Store) makeDir(dir string, mode fs.FileMode) error {
	made, err := makeDir(dir, mode)
	s.made = append(s.made, made...)
	return err
}

// Retreat removes the directories that this store made, as far as nothing is in them: a join that came to nothing
// leaves nothing.
func (s *Store) Retreat() {
	for _, dir := range slices.Backward(s.made) {
		_ = os.Remove(dir) // it fails where something is in it
	}
	s.made = nil
}

// SaveState remembers state.
func (s *Store) SaveState(state State) error {
	state.Version = 1
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	return explain(writeFile(filepath.Join(s.paths.StateDir, stateName), append(data, '\n'), 0o600))
}
