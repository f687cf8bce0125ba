package rotate

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/util/cert"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// ClientName is the name of the kubelet's client certificate, the node's identity, among the certificates: its files are
// the kubelet's.
const ClientName = "kubelet-client"

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

// Store is the identity on disk: the slot of the kubelet's client certificate with what surrounds it, and what is
// remembered. Its methods that write want the [Lock] held.
type Store struct {
	// Client is the slot of the kubelet's client certificate.
	Client *Slot

	paths   Paths // with Root before them
	written Paths // as they stand in files

	mu     sync.Mutex // guards the state file
	madeMu sync.Mutex // guards made
	made   []string   // directories that this store made, outermost first
}

// NewStore returns the store at the given paths. Nothing is read or written yet.
func NewStore(p Paths) *Store {
	s := &Store{written: p, paths: Paths{Root: p.Root}}
	s.paths.Kubeconfig, s.paths.CertDir, s.paths.CAFile, s.paths.StateDir = s.on(p.Kubeconfig), s.on(p.CertDir), s.on(p.CAFile), s.on(p.StateDir)
	s.Client = s.Slot(Place{Name: ClientName, Dir: p.CertDir})
	return s
}

// on returns the place on this machine of a path as it stands in files.
func (s *Store) on(path string) string { return filepath.Join(s.paths.Root, path) }

// off is the inverse of on.
func (s *Store) off(path string) string {
	if s.paths.Root == "" {
		return path
	}
	if rel, err := filepath.Rel(s.paths.Root, path); err == nil {
		return filepath.Join(string(filepath.Separator), rel)
	}
	return path
}

// isBelowRoot reports whether a path on this machine is one of those that stand in files.
func (s *Store) isBelowRoot(path string) bool {
	if s.paths.Root == "" {
		return true
	}
	rel, err := filepath.Rel(s.paths.Root, path)
	return err == nil && rel != "." && filepath.IsLocal(rel)
}

// Disk is everything that makes up the node's identity, as it was found.
type Disk struct {
	Found // the client's slot; where its link is missing, Pair is the kubeconfig's

	Kubeconfig    *Kubeconfig
	KubeconfigErr error  // [ErrUnmanaged] for one that is in order and is not ours to replace
	CA            []byte // the bundle's file; nil if it is missing
	Cluster       *Remembered
}

// Load reads what is there. The error is for a store that must not be used at all.
func (s *Store) Load() (*Disk, error) {
	for _, dir := range []string{filepath.Dir(s.paths.Kubeconfig), filepath.Dir(s.paths.CAFile)} {
		if err := checkDir(dir); err != nil {
			return nil, err
		}
	}
	found, err := s.Client.Load()
	if err != nil {
		return nil, err
	}
	disk := &Disk{Found: *found}
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
	if disk.CA, err = readOptional(s.paths.CAFile); err != nil {
		return nil, unreadable(err)
	}
	if disk.Pair != nil && isAltered(disk.Pair.Leaf, disk.CA) {
		disk.Pair, disk.PairErr = nil, fmt.Errorf("%s: %w", disk.PairPath, ErrAltered)
	}
	state, err := s.State()
	if err != nil {
		return nil, err
	}
	disk.Cluster = state.Cluster
	return disk, nil
}

// isAltered reports whether a certificate is not what its issuer has signed, as one is in which a bit has changed on disk. A bundle
// that does not hold the key of the issuer cannot tell: clients may have a CA of their own.
func isAltered(leaf *x509.Certificate, bundle []byte) bool {
	cas, err := cert.ParseCertsPEM(bundle)
	if err != nil || len(leaf.AuthorityKeyId) == 0 {
		return false
	}
	return slices.ContainsFunc(cas, func(ca *x509.Certificate) bool {
		// Only a CA certificate that is intact itself can tell.
		return bytes.Equal(ca.SubjectKeyId, leaf.AuthorityKeyId) && bytes.Equal(ca.RawSubject, leaf.RawIssuer) &&
			ca.CheckSignatureFrom(ca) == nil && leaf.CheckSignatureFrom(ca) != nil
	})
}

// Watched returns the paths on this machine whose change concerns the identity.
func (s *Store) Watched() []string {
	return append([]string{s.paths.Kubeconfig, s.paths.CAFile}, s.Client.Watched()...)
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

// Whole reports whether the kubeconfig is there and leads to the pair.
func (d *Disk) Whole() bool {
	return d.Pair != nil && d.Kubeconfig != nil && d.Kubeconfig.Pair.Fingerprint() == d.Pair.Fingerprint()
}

// CommitCA replaces the CA bundle, in PEM, around an identity that is there.
func (s *Store) CommitCA(ca []byte) error {
	if err := s.prepare(claim{files: map[string][]byte{s.paths.CAFile: ca}, dirs: []string{filepath.Dir(s.paths.CAFile)}}); err != nil {
		return explain(err)
	}
	return explain(writeFile(s.paths.CAFile, ca, access{mode: 0o644}))
}

// makeDir makes a directory where it is missing and remembers that, see Retreat.
func (s *Store) makeDir(dir string, mode fs.FileMode) error {
	s.madeMu.Lock()
	defer s.madeMu.Unlock()
	made, err := makeDir(dir, mode)
	s.made = append(s.made, made...)
	return err
}

func (s *Store) madeDirs() []string {
	s.madeMu.Lock()
	defer s.madeMu.Unlock()
	return slices.Clone(s.made)
}

func appendNew(list []string, item string) []string {
	if slices.Contains(list, item) {
		return list
	}
	return append(list, item)
}

// Retreat removes the directories that this store made, as far as nothing is in them, and forgets what was to be made
// and is not there: a join that came to nothing leaves nothing. Nothing else may be under way.
func (s *Store) Retreat() {
	s.removeMade()
	if s.forgetMissing() == nil {
		s.removeMade()
	}
	s.madeMu.Lock()
	defer s.madeMu.Unlock()
	s.made = nil
}

func (s *Store) removeMade() {
	s.madeMu.Lock()
	defer s.madeMu.Unlock()
	var stay []string
	for _, dir := range slices.Backward(s.made) {
		if !removeDir(dir) {
			stay = append(stay, dir)
		}
	}
	slices.Reverse(stay)
	s.made = stay
}

// forgetMissing forgets the claims on what is not there. Where nothing else is remembered and nothing else is in the
// state directory, the state goes, too.
func (s *Store) forgetMissing() error {
	var left State
	err := s.Remember(func(state *State) {
		for path := range state.Made {
			if isMissing(s.on(path)) {
				delete(state.Made, path)
			}
		}
		state.MadeDirs = slices.DeleteFunc(state.MadeDirs, func(dir string) bool { return isMissing(s.on(dir)) })
		left = *state
	})
	if err != nil {
		return err
	}
	left.Version, left.MadeDirs = 0, nil // they hold other things, or the state directory: an empty one is gone by now
	nothing, err := json.Marshal(State{})
	if err != nil {
		return err
	}
	if data, err := json.Marshal(left); err != nil || !bytes.Equal(data, nothing) {
		return err
	}
	if entries, err := os.ReadDir(s.paths.StateDir); err != nil || len(entries) > 1 {
		return err
	}
	return removeFile(filepath.Join(s.paths.StateDir, stateName))
}
