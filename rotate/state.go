package rotate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const stateName = "state.json"

// stateVersion is that of the file that is written. A program of version 1 reads it as far as it knows it.
const stateVersion = 2

// State is what is remembered between runs. Losing it costs a request to the API server, a rotation at another time
// and a hook that runs again, and [Store.Reset] then leaves files for a person to remove; nothing else.
type State struct {
	Version int `json:"version"`
	// Verified is the kubelet client certificate's, for a program that knows version 1 alone.
	Verified     string            `json:"verified,omitempty"`
	Certificates map[string]Record `json:"certificates,omitempty"` // by name
	// Cluster is the cluster that the identity was last seen to work with: what deleted files are made anew from.
	Cluster *Remembered `json:"cluster,omitempty"`
	// Made are the files and links that this program made or is about to make, by path as it stands in files. The value
	// is "" for a link, and for a file the digest of its content, after those of contents that it may have until then.
	Made map[string]string `json:"made,omitempty"`
	// MadeDirs are the directories that it made or is about to make.
	MadeDirs []string `json:"madeDirs,omitempty"`
	// Hooks are the digests of what each hook last succeeded for, by hook and by what changed.
	Hooks map[string]string `json:"hooks,omitempty"`
}

// Record is what is remembered of one certificate.
type Record struct {
	// Verified is the fingerprint of the certificate that was last seen to authenticate.
	Verified string `json:"verified,omitempty"`
	// RotateAt is the deadline that was drawn for the certificate with the fingerprint RotateOf.
	RotateAt time.Time `json:"rotateAt,omitzero"`
	RotateOf string    `json:"rotateOf,omitempty"`
	// ObtainedWith is what the request for the certificate was authenticated with, as a person knows it.
	ObtainedWith string `json:"obtainedWith,omitempty"`
	// Denied is the last request, if an approver denied it.
	Denied *Denial `json:"denied,omitempty"`
}

// Denial is what an approver said to a request.
type Denial struct {
	Request string    `json:"request"` // name of the API object
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"` // when it was seen
}

// Remembered is how a cluster was reached.
type Remembered struct {
	Server        string `json:"server"` // https URL
	TLSServerName string `json:"tlsServerName,omitempty"`
	ProxyURL      string `json:"proxyURL,omitempty"`
	CA            string `json:"ca"` // PEM
}

// readState reads the state file. One that is missing or torn is as if there were none.
func (s *Store) readState() (State, error) {
	data, err := readOptional(filepath.Join(s.paths.StateDir, stateName))
	if err != nil {
		return State{}, unreadable(err)
	}
	var state State
	if json.Unmarshal(data, &state) != nil {
		state = State{}
	}
	if state.Certificates == nil {
		state.Certificates = map[string]Record{}
	}
	if record := state.Certificates[ClientName]; state.Verified != "" && record.Verified == "" {
		record.Verified = state.Verified
		state.Certificates[ClientName] = record
	}
	return state, nil
}

// State returns what is remembered.
func (s *Store) State() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readState()
}

// Remember changes what is remembered. It writes nothing where nothing changes. It is safe for concurrent use.
func (s *Store) Remember(change func(*State)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, err := s.readState()
	if err != nil {
		return err
	}
	state.Version = stateVersion
	before, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	change(&state)
	state.Version, state.Verified = stateVersion, state.Certificates[ClientName].Verified
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	if bytes.Equal(before, data) {
		return nil
	}
	if err := s.makeDir(s.paths.StateDir, 0o700); err != nil {
		return explain(err)
	}
	s.enterDirs(&state, s.madeDirs())
	if data, err = json.Marshal(state); err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	return explain(writeFile(filepath.Join(s.paths.StateDir, stateName), append(data, '\n'), access{mode: 0o600}))
}

// claim is what is about to be made, by path on this machine.
type claim struct {
	files map[string][]byte
	links []string
	dirs  []string
}

// claim remembers, before it is made, what will be this program's. A file that somebody else made stays his, whatever is
// written into it; a link is made anew each time.
func (s *Store) claim(c claim) error {
	return s.Remember(func(state *State) { s.enter(state, c) })
}

// prepare makes directories for files, and claims both before. Those that are there must be safe.
func (s *Store) prepare(c claim) error {
	for _, dir := range c.dirs {
		if err := checkDir(dir); err != nil {
			return err
		}
	}
	if err := s.claim(c); err != nil {
		return err
	}
	for _, dir := range c.dirs {
		if err := s.makeDir(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) enter(state *State, c claim) {
	if state.Made == nil {
		state.Made = map[string]string{}
	}
	for _, path := range c.links {
		state.Made[s.off(path)] = ""
	}
	for path, data := range c.files {
		known, ours := state.Made[s.off(path)]
		if ours || isMissing(path) {
			state.Made[s.off(path)] = withDigest(known, fileDigest(path), digest(data))
		}
	}
	for _, dir := range c.dirs {
		s.enterDirs(state, missingDirs(dir))
	}
}

func (s *Store) enterDirs(state *State, dirs []string) {
	for _, dir := range dirs {
		if s.isBelowRoot(dir) {
			state.MadeDirs = appendNew(state.MadeDirs, s.off(dir))
		}
	}
}

// keptDigests is how many contents of a file are remembered: what is staged may be written later than what is staged
// after it, or never.
const keptDigests = 4

// withDigest adds the digest of what a file is about to hold to those that are known, of which it has one now.
func withDigest(known, has, next string) string {
	digests := slices.DeleteFunc(strings.Fields(known), func(d string) bool { return d == next })
	for len(digests) >= keptDigests {
		oldest := 0
		if digests[oldest] == has {
			oldest++
		}
		digests = slices.Delete(digests, oldest, oldest+1)
	}
	return strings.Join(append(digests, next), " ")
}

// digest returns the SHA-256 of a file's content in hexadecimal digits.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fileDigest returns the digest of a file, "" where there is no file that can be read.
func fileDigest(path string) string {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return digest(data)
}
