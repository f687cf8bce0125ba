package rotate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	pairLayout = "-2006-01-02-15-04-05.pem" // after the slot's name, as the kubelet has it
	pairDigits = `-\d{4}(-\d\d){5}\.pem`
	keptPairs  = 2 // the current one and the one before

	pendingSuffix = ".key.pending" // after the slot's name
)

// Place says where one key pair is kept, and for whom.
type Place struct {
	// Name is the certificate's. Its files are NAME-<time>.pem, each chain then key, and the link NAME-current.pem.
	Name string
	// Dir is their directory, as it stands in files.
	Dir string
	// CertificateFile and PrivateKeyFile are copies for programs that want two files; "" for none. A reader that opens
	// both while they are replaced can see one of each: the link has not that weakness.
	CertificateFile, PrivateKeyFile string
	// Mode is that of the files that hold the key; 0 is 0600.
	Mode fs.FileMode
	// Owner is who the files belong to; nil for this process's user and group.
	Owner *Owner
}

// Owner is a user and a group by number; -1 leaves either as it is.
type Owner struct{ UID, GID int }

// Slot is one key pair on disk, with the pending key of the request for the next. Its methods that write want the
// store's [Lock] held.
type Slot struct {
	Place

	store *Store
	dir   string // Dir on this machine, below the store's Root
}

// Slot returns the slot at a place. Nothing is read or written yet.
func (s *Store) Slot(p Place) *Slot {
	if p.Mode == 0 {
		p.Mode = 0o600
	}
	return &Slot{Place: p, store: s, dir: s.on(p.Dir)}
}

// Found is what a slot holds, as it was found. A part that is missing is nil; one that is there and cannot be used is
// nil with its error.
type Found struct {
	Pair       *KeyPair
	PairErr    error
	PairPath   string   // of the file that holds Pair, as it stands in files
	Spare      *KeyPair // an older pair in the directory that can be loaded; looked for only where Pair is nil
	StaleCopy  bool     // a copy is missing or is of another pair
	PendingKey []byte   // PEM
	Record     Record
	// Replaced says that Pair is somebody else's, put in the place of one that this program had committed.
	Replaced bool
}

// Load reads what is there. The error is for a slot that must not be used at all.
func (sl *Slot) Load() (*Found, error) {
	for _, dir := range []string{sl.dir, sl.store.paths.StateDir} {
		if err := checkDir(dir); err != nil {
			return nil, err
		}
	}
	found := &Found{PairPath: sl.CurrentPath()}
	var err error
	if found.Pair, found.PairErr, err = sl.loadPair(); err != nil {
		return nil, err
	}
	if found.Pair == nil {
		found.Spare = sl.spare()
	} else {
		found.StaleCopy = slices.ContainsFunc(sl.copies(found.Pair), aCopy.isStale)
	}
	if found.PendingKey, err = readOptional(sl.pendingPath()); err != nil {
		return nil, unreadable(err)
	}
	// Before the state: a commit that goes on meanwhile enters its pair there before it swaps the link.
	target, _ := os.Readlink(filepath.Join(sl.dir, sl.currentName())) // "" where there is none
	state, err := sl.store.readState()
	if err != nil {
		return nil, err
	}
	found.Record = state.Certificates[sl.Name]
	found.Replaced = found.Pair != nil && target != "" && sl.isReplaced(filepath.Base(target), &state)
	return found, nil
}

// isReplaced reports whether the file that the link led to is somebody else's although this program has made one, too.
// One that is gone by now was one of ours that a commit has let go of.
func (sl *Slot) isReplaced(file string, state *State) bool {
	path := filepath.Join(sl.dir, file)
	digests, ours := state.Made[filepath.Join(sl.Dir, file)]
	switch {
	case isMissing(path):
		return false
	case ours: // unless a kubelet has rotated within the second of our commit: its file then has the name of ours
		has := fileDigest(path) // "" if it is gone by now
		return digests != "" && has != "" && !slices.Contains(strings.Fields(digests), has)
	}
	files, err := sl.pairFiles()
	return err == nil && slices.ContainsFunc(files, func(name string) bool {
		_, ours := state.Made[filepath.Join(sl.Dir, name)]
		return ours
	})
}

// CurrentPath returns the path of the key pair in use, as it stands in files.
func (sl *Slot) CurrentPath() string { return filepath.Join(sl.Dir, sl.currentName()) }

func (sl *Slot) currentName() string { return sl.Name + "-current.pem" }

func (sl *Slot) pendingPath() string {
	return filepath.Join(sl.store.paths.StateDir, sl.Name+pendingSuffix)
}

// Watched returns the paths on this machine whose change concerns the slot.
func (sl *Slot) Watched() []string {
	paths := []string{filepath.Join(sl.dir, sl.currentName())}
	for _, c := range sl.copies(nil) {
		paths = append(paths, c.path)
	}
	return paths
}

// loadPair reads the pair behind the link. broken says why a pair that is there cannot be used.
func (sl *Slot) loadPair() (pair *KeyPair, broken, err error) {
	path := filepath.Join(sl.dir, sl.currentName())
	target, err := os.Readlink(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil
	case err == nil && !sl.inDir(target):
		return nil, nil, fault.New(fault.Files, "look at who changed it, then remove the link: rm "+path, "%s points outside its directory, to %q", path, target)
	}
	data, err := readBelow(sl.store.paths.Root, path)
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

// inDir reports whether the link's target is a file directly in the slot's directory.
func (sl *Slot) inDir(target string) bool {
	if !strings.ContainsRune(target, filepath.Separator) {
		return target != ".." && target != "."
	}
	dir := filepath.Dir(filepath.Clean(target)) // the kubelet writes absolute targets
	return dir == sl.dir || dir == sl.Dir
}

// spare returns the newest pair in the directory that can be loaded, whatever the link says.
func (sl *Slot) spare() *KeyPair {
	files, err := sl.pairFiles()
	if err != nil {
		return nil
	}
	for _, file := range slices.Backward(files) {
		data, err := readBelow(sl.store.paths.Root, filepath.Join(sl.dir, file))
		if err != nil {
			continue
		}
		if pair, err := ParseKeyPair(data); err == nil {
			return pair
		}
	}
	return nil
}

// pairFiles returns the names of the pairs' files, oldest first.
func (sl *Slot) pairFiles() ([]string, error) {
	entries, err := os.ReadDir(sl.dir) // sorted
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate directory: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if _, ok := sl.timeOf(entry.Name()); ok {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// timeOf returns the time in the name of a pair's file.
func (sl *Slot) timeOf(name string) (time.Time, bool) {
	stamp, found := strings.CutPrefix(name, sl.Name)
	if !found {
		return time.Time{}, false
	}
	t, err := time.Parse(pairLayout, stamp)
	return t, err == nil && t.Format(pairLayout) == stamp
}

// freshName returns a name for a pair's file that comes after all older ones: none is ever used twice, and their order
// is that of the commits, whatever the clock does.
func (sl *Slot) freshName(older []string, now time.Time) string {
	name := sl.Name + now.UTC().Format(pairLayout)
	if len(older) == 0 || name > older[len(older)-1] {
		return name
	}
	newest, _ := sl.timeOf(older[len(older)-1]) // pairFiles has parsed it
	return sl.Name + newest.Add(time.Second).Format(pairLayout)
}

// SavePendingKey makes the key of a request durable, before the request is sent.
func (sl *Slot) SavePendingKey(key []byte) error {
	if err := sl.store.makeDir(sl.store.paths.StateDir, 0o700); err != nil {
		return explain(err)
	}
	return explain(writeFile(sl.pendingPath(), key, access{mode: 0o600}))
}

// DropPendingKey forgets the key of a request that has ended.
func (sl *Slot) DropPendingKey() error { return explain(removeFile(sl.pendingPath())) }

// SetAsidePendingKey moves a pending key that cannot be read out of the way, for a person to look at.
func (sl *Slot) SetAsidePendingKey() (string, error) {
	aside := sl.pendingPath() + ".damaged"
	if err := os.Rename(sl.pendingPath(), aside); err != nil {
		return "", fmt.Errorf("cannot set the damaged key aside: %w", err)
	}
	return aside, syncDir(sl.store.paths.StateDir)
}

// Commit makes a new pair the current one: under a name of its own, then the link to it, then the copies.
func (sl *Slot) Commit(pair *KeyPair, now time.Time) error {
	if err := sl.store.prepare(claim{dirs: append(sl.copyDirs(), sl.dir)}); err != nil {
		return explain(err)
	}
	older, err := sl.commitPair(pair, now, nil)
	if err != nil {
		return explain(err)
	}
	sl.prune(older)
	return sl.WriteCopies(pair)
}

// commitPair makes a pair the current one and returns the files of the older ones, oldest first. What will be placed around it
// is claimed together with it.
func (sl *Slot) commitPair(pair *KeyPair, now time.Time, around map[string][]byte) (older []string, err error) {
	if err := sweep(sl.dir, regexp.QuoteMeta(sl.Name)+pairDigits); err != nil {
		return nil, err
	}
	if older, err = sl.pairFiles(); err != nil {
		return nil, err
	}
	file, link := filepath.Join(sl.dir, sl.freshName(older, now)), filepath.Join(sl.dir, sl.currentName())
	files := map[string][]byte{file: pair.pem}
	maps.Copy(files, around)
	err = sl.store.Remember(func(state *State) {
		sl.forgetPruned(state)
		sl.store.enter(state, claim{files: files, links: []string{link}})
	})
	if err != nil {
		return nil, err
	}
	if err := writeFile(file, pair.pem, sl.access()); err != nil {
		return nil, err
	}
	return older, swapLink(link, filepath.Base(file))
}

// forgetPruned lets go of the claims on this slot's pairs that are gone.
func (sl *Slot) forgetPruned(state *State) {
	for path := range state.Made {
		if _, isPair := sl.timeOf(filepath.Base(path)); isPair && sl.store.on(filepath.Dir(path)) == sl.dir && isMissing(sl.store.on(path)) {
			delete(state.Made, path)
		}
	}
}

func (sl *Slot) access() access { return access{mode: sl.Mode, owner: sl.Owner} }

// prune removes all older pairs but the last. One that cannot be removed does no harm: the next commit tries again. The
// last is touched: who watches the file that the link has led to, and not the link, as a kubelet does with its serving
// certificate (handleWatchEvent of dynamiccertificates in k8s.io/apiserver), looks at the link again.
func (sl *Slot) prune(older []string) {
	kept := max(0, len(older)-(keptPairs-1))
	for _, name := range older[:kept] {
		_ = os.Remove(filepath.Join(sl.dir, name))
	}
	now := time.Now()
	for _, name := range older[kept:] {
		_ = os.Chtimes(filepath.Join(sl.dir, name), now, now) // where it fails, nobody is told
	}
}

// aCopy is a file that repeats a part of the pair.
type aCopy struct {
	path string // on this machine
	data []byte
	access
}

// copies returns the copies of a pair, the key's first: whoever is woken by the certificate finds its key. Without a
// pair they have no data.
func (sl *Slot) copies(pair *KeyPair) []aCopy {
	var copies []aCopy
	var chain, key []byte
	if pair != nil {
		chain, key = splitPEM(pair.pem)
	}
	if sl.PrivateKeyFile != "" {
		copies = append(copies, aCopy{sl.store.on(sl.PrivateKeyFile), key, sl.access()})
	}
	if sl.CertificateFile != "" {
		copies = append(copies, aCopy{sl.store.on(sl.CertificateFile), chain, access{mode: 0o644, owner: sl.Owner}})
	}
	return copies
}

func (sl *Slot) copyDirs() []string {
	var dirs []string
	for _, c := range sl.copies(nil) {
		dirs = append(dirs, filepath.Dir(c.path))
	}
	return dirs
}

// isStale reports whether a copy is missing, is of another pair, or is open to others than it should be.
func (c aCopy) isStale() bool {
	data, err := os.ReadFile(c.path)
	if err != nil || !bytes.Equal(data, c.data) {
		return true
	}
	info, err := os.Stat(c.path)
	return err != nil || !c.isOf(info)
}

// WriteCopies writes the copies that are not the pair's.
func (sl *Slot) WriteCopies(pair *KeyPair) error {
	stale := slices.DeleteFunc(sl.copies(pair), func(c aCopy) bool { return !c.isStale() })
	if len(stale) == 0 {
		return nil
	}
	c := claim{files: map[string][]byte{}}
	for _, copied := range stale {
		c.files[copied.path] = copied.data
		c.dirs = append(c.dirs, filepath.Dir(copied.path))
	}
	if err := sl.store.prepare(c); err != nil {
		return explain(err)
	}
	for _, copied := range stale {
		if err := writeFile(copied.path, copied.data, copied.access); err != nil {
			return explain(err)
		}
	}
	return nil
}

// splitPEM parts the certificates from the rest.
func splitPEM(data []byte) (chain, key []byte) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return chain, key
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, pem.EncodeToMemory(block)...)
		} else {
			key = append(key, pem.EncodeToMemory(block)...)
		}
		data = rest
	}
}

// Remember changes what is remembered of the certificate between runs.
func (sl *Slot) Remember(change func(*Record)) error {
	return sl.store.Remember(func(state *State) {
		record := state.Certificates[sl.Name]
		change(&record)
		state.Certificates[sl.Name] = record
	})
}

// Fingerprint identifies a certificate: SHA-256 of its DER encoding in hexadecimal digits.
func (p *KeyPair) Fingerprint() string {
	sum := sha256.Sum256(p.Leaf.Raw)
	return hex.EncodeToString(sum[:])
}
