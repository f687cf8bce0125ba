//go:build unix

package rotate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// stateOf returns the state file's path.
func stateOf(store *Store) string { return filepath.Join(store.paths.StateDir, stateName) }

// mustState returns what is remembered.
func mustState(tb testing.TB, store *Store) State {
	tb.Helper()
	state, err := store.State()
	if err != nil {
		tb.Fatal(err)
	}
	return state
}

func TestState(t *testing.T) {
	for _, test := range []struct {
		name, text string
		verified   string
	}{
		{"of version 1", `{"version":1,"verified":"abc"}` + "\n", "abc"},
		{"of version 1, with nothing in it", `{"version":1}`, ""},
		{"of version 2", `{"version":2,"verified":"abc","certificates":{"kubelet-client":{"verified":"abc"}}}`, "abc"},
		{"of another certificate", `{"version":2,"certificates":{"kubelet-serving":{"verified":"abc"}}}`, ""},
		{"of a record that is empty", `{"version":2,"certificates":{"kubelet-client":null}}`, ""},
		{"of a later version, with more in it", `{"version":3,"verified":"abc","certificates":{"kubelet-client":{"verified":"abc","x":1}},"more":{"x":[1]}}`, "abc"},
		{"empty object", `{}`, ""},
		{"empty", "", ""},
		{"zeros", string(make([]byte, 40)), ""},
		{"torn", `{"version":1,"verified":"ab`, ""},
		{"garbage behind it", `{"version":1,"verified":"abc"}x`, ""},
		{"a list", `[]`, ""},
		{"another type", `{"version":1,"verified":7}`, ""},
		{"another type, late", `{"verified":"abc","version":"x"}`, ""},
		{"another type, deep", `{"verified":"abc","certificates":{"kubelet-client":{"rotateAt":"yesterday"}}}`, ""},
		{"null", `null`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, _ := newStore(t)
			commit(t, store, pairNo(t, 0), testTime)
			write(t, stateOf(store), test.text, 0o600)
			disk := mustLoad(t, store)
			if disk.Record != (Record{Verified: test.verified}) {
				t.Errorf("got %+v", disk.Record)
			}
			if !disk.Whole() {
				t.Error("the identity is lost with it")
			}
			if err := verified(store, "new"); err != nil {
				t.Fatal(err)
			}
			if got := mustLoad(t, store).Record; got != (Record{Verified: "new"}) {
				t.Errorf("saved anew: %+v", got)
			}
			if err := verified(store, ""); err != nil {
				t.Fatal(err)
			}
			if got := mustLoad(t, store).Record; got != (Record{}) {
				t.Errorf("forgotten: %+v", got)
			}
		})
	}
}

// TestStateVersions: a program of version 1 finds what it knows in a file of version 2, and one of version 2 carries over
// what version 1 has written.
func TestStateVersions(t *testing.T) {
	type version1 struct { // as it was
		Version  int    `json:"version"`
		Verified string `json:"verified,omitempty"`
	}
	store, _ := newStore(t)
	write(t, stateOf(store), `{"version":1,"verified":"first"}`+"\n", 0o600)
	if err := os.Chmod(store.paths.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := store.Client.Remember(func(record *Record) { record.RotateOf = "x" }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second", ""} {
		if want != "first" {
			if err := verified(store, want); err != nil {
				t.Fatal(err)
			}
		}
		var old version1
		if err := json.Unmarshal([]byte(read(t, stateOf(store))), &old); err != nil || old.Verified != want {
			t.Errorf("version 1 reads %+v, %v; want %q", old, err, want)
		}
		if got := mustState(t, store); got.Version != 2 || got.Certificates[ClientName] != (Record{Verified: want, RotateOf: "x"}) {
			t.Errorf("version 2 reads %+v, want %q", got, want)
		}
	}
}

// TestRemember: everything that is remembered is there after it, and modes and names are the contract's.
func TestRemember(t *testing.T) {
	store, root := newStore(t)
	want := State{
		Version: 2, Verified: "abc",
		Certificates: map[string]Record{
			ClientName: {Verified: "abc", RotateAt: testTime, RotateOf: "abc"},
			"metrics":  {Denied: &Denial{Request: "csr-1", Reason: "no", At: testTime}},
		},
		Cluster:  &Remembered{Server: "https://api:6443", TLSServerName: "kubernetes", ProxyURL: "http://proxy", CA: string(testCA)},
		Made:     map[string]string{"/a": "", "/b": "digest"},
		MadeDirs: []string{"/var", "/var/lib", "/var/lib/nodejoin"},
		Hooks:    map[string]string{"reload metrics": "digest"},
	}
	err := store.Remember(func(state *State) {
		state.Certificates[ClientName], state.Certificates["metrics"] = want.Certificates[ClientName], want.Certificates["metrics"]
		state.Cluster, state.Made, state.Hooks = want.Cluster, want.Made, want.Hooks
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, mustState(t, NewStore(testPaths(root)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if disk := mustLoad(t, store); !cmp.Equal(disk.Cluster, want.Cluster) || disk.Record != want.Certificates[ClientName] {
		t.Errorf("loaded: %+v, %+v", disk.Cluster, disk.Record)
	}
	if found, err := store.Slot(Place{Name: "metrics", Dir: "/pki"}).Load(); err != nil || !cmp.Equal(found.Record, want.Certificates["metrics"]) {
		t.Errorf("loaded: %+v, %v", found, err)
	}
	if mode := modes(t, root)["var/lib/nodejoin/"+stateName]; mode != 0o600 {
		t.Errorf("its mode is %s", mode)
	}
}

// TestRememberNothing: where nothing changes, nothing is written. That is known by the inode.
func TestRememberNothing(t *testing.T) {
	store, root := newStore(t)
	nothing := func(what string) {
		t.Helper()
		before := fingerprint(t, root)
		must(t, store.Remember(func(*State) {}))
		must(t, store.Remember(func(state *State) { state.Verified = "this follows the record" }))
		must(t, store.Client.Remember(func(record *Record) { _ = record.Verified }))
		if diff := cmp.Diff(before, fingerprint(t, root)); diff != "" {
			t.Errorf("%s: something was written:\n%s", what, diff)
		}
	}
	must(t, store.Remember(func(*State) {}))
	if got := tree(t, root); len(got) != 0 {
		t.Errorf("out of nothing: %q", got)
	}
	must(t, verified(store, "abc"))
	before := fingerprint(t, root)
	must(t, verified(store, "abc"))
	if diff := cmp.Diff(before, fingerprint(t, root)); diff != "" {
		t.Errorf("the same again was written:\n%s", diff)
	}
	nothing("after a record")
	must(t, store.Commit(kubeconfigOf(pairNo(t, 0)), testTime))
	nothing("after a commit")
	write(t, stateOf(store), `{"version":1,"verified":"abc"}`, 0o600)
	before = fingerprint(t, root)
	must(t, verified(store, "abc"))
	if diff := cmp.Diff(before, fingerprint(t, root)); diff != "" {
		t.Errorf("what version 1 has written was written again:\n%s", diff)
	}
}

// fingerprint returns the inode, the mode, the owner and the content of everything below a directory.
func fingerprint(tb testing.TB, root string) map[string]string {
	tb.Helper()
	found := make(map[string]string)
	for _, path := range tree(tb, root) {
		full := filepath.Join(root, path)
		info, err := os.Lstat(full)
		if err != nil {
			tb.Fatal(err)
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			content = read(tb, full)
		case info.Mode()&os.ModeSymlink != 0:
			if content, err = os.Readlink(full); err != nil {
				tb.Fatal(err)
			}
		}
		var stat unix.Stat_t
		if err := unix.Lstat(full, &stat); err != nil {
			tb.Fatal(err)
		}
		found[path] = fmt.Sprintf("inode %d, %s, owner %d:%d: %s", stat.Ino, info.Mode(), stat.Uid, stat.Gid, content)
	}
	return found
}

// TestRememberConcurrently: nothing is lost that many remember at the same time, and whoever reads finds it whole.
func TestRememberConcurrently(t *testing.T) {
	store, root := newStore(t)
	const writers, rounds = 8, 8
	stop := make(chan struct{})
	var reader, crowd sync.WaitGroup
	reader.Go(func() {
		for seen := 0; ; {
			select {
			case <-stop:
				return
			default:
			}
			state, err := NewStore(testPaths(root)).State()
			if err != nil || len(state.Hooks) < seen {
				t.Errorf("read %d after %d, %v", len(state.Hooks), seen, err)
				return
			}
			seen = len(state.Hooks)
		}
	})
	for w := range writers {
		crowd.Go(func() {
			slot := store.Slot(Place{Name: fmt.Sprintf("slot-%d", w), Dir: "/pki"})
			for r := range rounds {
				err := store.Remember(func(state *State) {
					if state.Hooks == nil {
						state.Hooks = map[string]string{}
					}
					state.Hooks[fmt.Sprintf("%d %d", w, r)] = "x"
				})
				if err != nil {
					t.Error(err)
				}
				if err := slot.Remember(func(record *Record) { record.Verified += "x" }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	crowd.Wait()
	close(stop)
	reader.Wait()
	state := mustState(t, NewStore(testPaths(root)))
	if len(state.Hooks) != writers*rounds || len(state.Certificates) != writers {
		t.Errorf("%d hooks and %d certificates are remembered", len(state.Hooks), len(state.Certificates))
	}
	for name, record := range state.Certificates {
		if record.Verified != strings.Repeat("x", rounds) {
			t.Errorf("%s: %q", name, record.Verified)
		}
	}
	wantClean(t, store)
}

// TestWithDigest: the digest of what a file holds and that of what it will hold are always among those that are known.
func TestWithDigest(t *testing.T) {
	for _, test := range []struct{ known, has, next, want string }{
		{"", "", "a", "a"},
		{"", "x", "a", "a"},
		{"a", "a", "a", "a"},
		{"a", "a", "b", "a b"},
		{"a b", "a", "c", "a b c"},
		{"a b", "b", "a", "b a"},
		{"a b c d", "d", "e", "b c d e"},
		{"a b c d", "a", "e", "a c d e"},
		{"a b c d", "c", "a", "b c d a"},
		{"a b c d e f", "a", "g", "a e f g"},
	} {
		if got := withDigest(test.known, test.has, test.next); got != test.want {
			t.Errorf("withDigest(%q, %q, %q) = %q, want %q", test.known, test.has, test.next, got, test.want)
		}
	}
}

func TestPendingKey(t *testing.T) {
	store, _ := newStore(t)
	for _, slot := range []*Slot{store.Client, store.Slot(Place{Name: "metrics", Dir: "/var/lib/metrics"})} {
		load := func() []byte {
			found, err := slot.Load()
			if err != nil {
				t.Fatal(err)
			}
			return found.PendingKey
		}
		if got := load(); len(got) != 0 {
			t.Errorf("in an empty store: %q", got)
		}
		for _, key := range [][]byte{pendingKey, []byte("another")} {
			if err := slot.SavePendingKey(key); err != nil {
				t.Fatal(err)
			}
			if got := load(); !bytes.Equal(got, key) {
				t.Errorf("got %q", got)
			}
		}
		path := filepath.Join(store.paths.StateDir, slot.Name+".key.pending")
		if err := os.Truncate(path, 0); err != nil { // what a power cut leaves of a careless writer's file
			t.Fatal(err)
		}
		if got := load(); len(got) != 0 {
			t.Errorf("of an empty file: %q", got)
		}
		for range 2 {
			if err := slot.DropPendingKey(); err != nil {
				t.Fatal(err)
			}
			if got := load(); got != nil {
				t.Errorf("dropped: %q", got)
			}
		}
	}
}

// FuzzState: a state file of whatever content costs what it held and nothing else, and a reset that believes it touches
// nothing outside.
func FuzzState(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"verified":"abc"}`, "", "null", `{"version":1e400}`, `{"Version":1}`, "[[[[", "\xff\xfe",
		`{"version":2,"certificates":{"kubelet-client":{"verified":"abc","rotateAt":"2026-03-14T15:09:26+01:00","denied":{"request":"x"}},"":null}}`,
		`{"version":2,"made":{"/etc/kubernetes/pki/ca.crt":"` + digest(testCA) + `","/../../etc/passwd":"","a":"","/":""},"madeDirs":["/","","..","/etc","/../outside","outside"]}`,
	} {
		f.Add([]byte(seed))
	}
	around := f.TempDir()
	write(f, filepath.Join(around, "etc/passwd"), "root", 0o644)
	if err := os.Mkdir(filepath.Join(around, "outside"), 0o755); err != nil {
		f.Fatal(err)
	}
	root := filepath.Join(around, "root")
	store := NewStore(testPaths(root))
	outside := func(tb testing.TB) []string {
		return slices.DeleteFunc(tree(tb, around), func(path string) bool { return strings.HasPrefix(path, "root") })
	}
	before := outside(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		commit(t, store, pairNo(t, 0), testTime)
		write(t, stateOf(store), string(data), 0o600)
		disk := mustLoad(t, store)
		if !disk.Whole() {
			t.Fatal("the identity is lost")
		}
		want := mustState(t, store)
		if err := store.Remember(func(state *State) { state.Hooks = map[string]string{"new": "x"} }); err != nil {
			t.Fatal(err)
		}
		got := mustState(t, store)
		want.Version, want.Verified, want.Hooks, want.MadeDirs, got.MadeDirs = 2, want.Certificates[ClientName].Verified, got.Hooks, nil, nil
		if diff := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); diff != "" || len(got.Hooks) != 1 {
			t.Errorf("(-saved +read):\n%s", diff)
		}
		if _, err := store.Reset(); err != nil {
			t.Fatal(err)
		}
		if after := outside(t); !slices.Equal(before, after) {
			t.Errorf("outside there was %q and is %q", before, after)
		}
	})
}
