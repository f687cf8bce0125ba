//go:build unix

package rotate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// Paths of a machine that joined, below its root.
const (
	configPath  = "/etc/kubernetes/kubelet.conf"
	caPath      = "/etc/kubernetes/pki/ca.crt"
	pkiPath     = "/var/lib/kubelet/pki/"
	currentPath = pkiPath + currentName
	firstPath   = pkiPath + "kubelet-client-2026-03-14-15-09-26.pem"
	secondPath  = pkiPath + "kubelet-client-2026-03-14-16-09-26.pem"
	statePath   = "/var/lib/nodejoin/" + stateName
)

// installed returns a store of a machine that has more on it than this program's files: what is there is not removed.
func installed(t *testing.T) (*Store, string) {
	t.Helper()
	store, root := newStore(t)
	write(t, root+"/var/lib/dpkg/status", "", 0o644)
	write(t, root+"/etc/hosts", "", 0o644)
	return store, root
}

// twice joins a machine, and rotates once.
func twice(t *testing.T, store *Store) {
	t.Helper()
	unlocked(t, func() error { return rotation(store, pairNo(t, 0), testTime) })
	unlocked(t, func() error { return rotation(store, pairNo(t, 1), testTime.Add(time.Hour)) })
}

// unlocked does something that takes the lock. A process that another test is about to start can hold on to the lock that
// was taken before: it has all open files until its program begins.
func unlocked(t *testing.T, do func() error) {
	t.Helper()
	expect.Eventually(t, "the lock is free", func() bool {
		err := do()
		if err != nil && fault.ClassOf(err) == fault.Held {
			return false
		}
		must(t, err)
		return true
	})
}

// reset is a reset of a program that has just started. It checks that the plan said what was done, and changed nothing.
func reset(t *testing.T, store *Store) *Removal {
	t.Helper()
	before := fingerprint(t, store.paths.Root)
	plan, err := NewStore(store.written).PlanReset()
	must(t, err)
	if diff := cmp.Diff(before, fingerprint(t, store.paths.Root)); diff != "" {
		t.Errorf("planning has changed something:\n%s", diff)
	}
	var planned []string // under names without links
	for _, path := range plan.Removed {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		must(t, err)
		planned = append(planned, filepath.Join(dir, filepath.Base(path)))
	}
	done, err := NewStore(store.written).Reset()
	must(t, err)
	if diff := cmp.Diff(plan, done); diff != "" {
		t.Errorf("(-planned +done):\n%s", diff)
	}
	after := tree(t, store.paths.Root)
	for path := range before {
		if is, said := slices.Contains(after, path), slices.Contains(planned, filepath.Join(store.paths.Root, path)); is == said {
			t.Errorf("%s is there: %t, was said to be removed: %t", path, is, said)
		}
	}
	for _, left := range done.Left {
		if isMissing(left.Path) {
			t.Errorf("%s is gone", left.Path)
		}
	}
	return done
}

// relative takes the root off the paths of a removal.
func relative(root string, r *Removal) *Removal {
	short := &Removal{}
	for _, path := range r.Removed {
		short.Removed = append(short.Removed, strings.TrimPrefix(path, root))
	}
	for _, left := range r.Left {
		short.Left = append(short.Left, Left{strings.TrimPrefix(left.Path, root), left.Why})
	}
	return short
}

// TestReset: what was made goes, in an order in which what names a thing goes before it, and what was there before stays.
func TestReset(t *testing.T) {
	store, root := installed(t)
	before := fingerprint(t, root)
	twice(t, store)
	unlocked(t, func() error { return slotRotation(store, pairNo(t, 2), testTime) })
	must(t, store.Client.SavePendingKey(pendingKey))
	want := &Removal{Removed: []string{
		configPath,
		"/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/metrics/pki/metrics-current.pem",
		caPath, "/etc/metrics/private/tls.key", "/etc/metrics/tls/tls.crt", firstPath, secondPath, "/var/lib/metrics/pki/metrics-2026-03-14-15-09-26.pem",
		"/var/lib/nodejoin/kubelet-client.key.pending",
		"/var/lib/metrics/pki", "/var/lib/metrics", "/var/lib/kubelet/pki", "/var/lib/kubelet",
		"/etc/metrics/tls", "/etc/metrics/private", "/etc/metrics", "/etc/kubernetes/pki", "/etc/kubernetes",
		statePath, "/var/lib/nodejoin",
	}}
	if diff := cmp.Diff(want, relative(root, reset(t, store))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, fingerprint(t, root)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if again := reset(t, store); len(again.Removed)+len(again.Left) != 0 {
		t.Errorf("again: %+v", again)
	}
	twice(t, store) // it can join again
	wantWhole(t, store, pairNo(t, 1))
}

// TestResetNothing: where there is nothing, nothing is done, and that is a list without entries.
func TestResetNothing(t *testing.T) {
	store, root := newStore(t)
	text, err := json.Marshal(reset(t, store))
	if err != nil || string(text) != `{"removed":[]}` {
		t.Errorf("got %s, %v", text, err)
	}
	lock, err := store.Lock() // makes the state directory
	must(t, err)
	done, err := store.Reset()
	must(t, err)
	if diff := cmp.Diff(&Removal{Removed: []string{"/var/lib/nodejoin", "/var/lib", "/var"}}, relative(root, done)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	must(t, lock.Unlock())
	if got := tree(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// TestResetLeaves: what somebody else made or changed stays, and that is said.
func TestResetLeaves(t *testing.T) {
	const (
		notOurs = "nodejoin did not make it"
		changed = "it was changed by somebody else"
	)
	joins := func(t *testing.T, store *Store, _ string) { twice(t, store) }
	for _, test := range []struct {
		name   string
		before func(t *testing.T, root string)               // the machine has joined
		join   func(t *testing.T, store *Store, root string) // nil: joins, and rotates once
		after  func(t *testing.T, root string)
		left   []Left
		stays  []string // beside what is left, and the directories of all of it
	}{
		{name: "nothing"},
		{name: "the CA bundle was there", before: func(t *testing.T, root string) { write(t, root+caPath, "theirs", 0o644) }, left: []Left{{caPath, notOurs}}},
		{name: "the CA bundle was there, and was the same", before: func(t *testing.T, root string) { write(t, root+caPath, string(testCA), 0o644) }, left: []Left{{caPath, notOurs}}},
		{name: "the kubeconfig was there", before: func(t *testing.T, root string) { write(t, root+configPath, "theirs", 0o600) }, left: []Left{{configPath, notOurs}}},
		{name: "the kubeconfig was changed", after: func(t *testing.T, root string) { write(t, root+configPath, golden+"# mine\n", 0o600) }, left: []Left{{configPath, changed}}},
		{name: "the kubeconfig was emptied", after: func(t *testing.T, root string) { must(t, os.Truncate(root+configPath, 0)) }, left: []Left{{configPath, changed}}},
		{name: "the CA bundle was changed", after: func(t *testing.T, root string) { write(t, root+caPath, string(testCA)+string(testCA), 0o644) }, left: []Left{{caPath, changed}}},
		{
			name: "the kubeconfig became a link to the same", after: func(t *testing.T, root string) {
				must(t, os.Rename(root+configPath, root+"/etc/mine"))
				link(t, root+"/etc/mine", root+configPath)
			},
			left: []Left{{configPath, changed}}, stays: []string{"/etc/mine"},
		},
		{
			name: "the kubeconfig became a directory", after: func(t *testing.T, root string) {
				must(t, os.Remove(root+configPath))
				must(t, os.Mkdir(root+configPath, 0o755))
			},
			left: []Left{{configPath, changed}},
		},
		{
			name: "the current pair was changed", after: func(t *testing.T, root string) { write(t, root+secondPath, string(pairNo(t, 2).pem), 0o600) },
			left: []Left{{currentPath, "it leads to a file that was changed by somebody else"}, {secondPath, changed}},
		},
		{name: "the pair before was changed", after: func(t *testing.T, root string) { write(t, root+firstPath, "x", 0o600) }, left: []Left{{firstPath, changed}}},
		{
			name: "the kubelet rotated as well", after: func(t *testing.T, root string) {
				write(t, root+pkiPath+"kubelet-client-2027-01-01-00-00-00.pem", string(pairNo(t, 2).pem), 0o600)
				must(t, swapLink(root+currentPath, pkiPath+"kubelet-client-2027-01-01-00-00-00.pem"))
			},
			left: []Left{{currentPath, "it leads to a file that nodejoin did not make"}, {pkiPath + "kubelet-client-2027-01-01-00-00-00.pem", notOurs}},
		},
		{
			name: "the link became a file", after: func(t *testing.T, root string) {
				must(t, os.Remove(root+currentPath))
				write(t, root+currentPath, string(pairNo(t, 1).pem), 0o600)
			},
			left: []Left{{currentPath, "it is no link any more"}},
		},
		{name: "the link leads to a pair of ours by its whole path", after: func(t *testing.T, root string) { must(t, swapLink(root+currentPath, firstPath)) }},
		{name: "the link leads to nothing", after: func(t *testing.T, root string) { must(t, os.Remove(root+secondPath)) }},
		{
			name: "the link leads to nothing of ours", after: func(t *testing.T, root string) { must(t, swapLink(root+currentPath, "nothing.pem")) },
			left: []Left{{currentPath, "it leads to a file that nodejoin did not make"}},
		},
		{
			name: "the kubelet had a pair before", before: func(t *testing.T, root string) {
				write(t, root+pkiPath+"kubelet-client-2026-01-01-00-00-00.pem", string(pairNo(t, 2).pem), 0o600)
			},
			join: func(t *testing.T, store *Store, _ string) {
				unlocked(t, func() error { return rotation(store, pairNo(t, 0), testTime) })
			},
			left: []Left{{pkiPath + "kubelet-client-2026-01-01-00-00-00.pem", notOurs}},
		},
		{name: "something was removed", after: func(t *testing.T, root string) { must(t, os.Remove(root+caPath)); must(t, os.Remove(root+firstPath)) }},
		{name: "a file of somebody's", after: func(t *testing.T, root string) { write(t, root+"/etc/kubernetes/pki/etcd/ca.crt", "x", 0o644) }, stays: []string{"/etc/kubernetes/pki/etcd/ca.crt"}},
		{name: "a file of somebody's beside the state", after: func(t *testing.T, root string) { write(t, root+"/var/lib/nodejoin/notes", "x", 0o644) }, stays: []string{"/var/lib/nodejoin/notes"}},
		{
			name: "a directory was there", before: func(t *testing.T, root string) { must(t, os.MkdirAll(root+pkiPath, 0o755)) },
			stays: []string{"/var/lib/kubelet/pki"},
		},
		{
			name: "a directory became a link", after: func(t *testing.T, root string) {
				must(t, os.Rename(root+"/etc/kubernetes/pki", root+"/etc/elsewhere"))
				link(t, "../elsewhere", root+"/etc/kubernetes/pki")
			},
			stays: []string{"/etc/kubernetes/pki", "/etc/elsewhere"},
		},
		{
			name: "leftovers of crashes, and others' files that look like them", after: func(t *testing.T, root string) {
				for _, ours := range []string{
					"/etc/kubernetes/.kubelet.conf12", "/etc/kubernetes/pki/.ca.crt3", pkiPath + "." + currentName + "0", pkiPath + ".kubelet-client-2026-03-14-15-09-26.pem4",
					pkiPath + ".kubelet-client-2030-03-14-15-09-26.pem5", "/var/lib/nodejoin/." + stateName + "6", "/var/lib/nodejoin/." + pendingName + "7", "/var/lib/nodejoin/" + pendingName + ".damaged",
				} {
					write(t, root+ours, "torn", 0o600)
				}
				for _, theirs := range []string{"/etc/kubernetes/.kubelet.conf.swp", "/etc/kubernetes/pki/ca.crt1", pkiPath + ".kubelet-server-2026-03-14-15-09-26.pem4"} {
					write(t, root+theirs, "theirs", 0o600)
				}
				must(t, os.Mkdir(root+"/etc/kubernetes/.kubelet.conf34", 0o755))
			},
			stays: []string{"/etc/kubernetes/.kubelet.conf.swp", "/etc/kubernetes/.kubelet.conf34", "/etc/kubernetes/pki/ca.crt1", pkiPath + ".kubelet-server-2026-03-14-15-09-26.pem4"},
		},
		{
			name: "the state is lost", after: func(t *testing.T, root string) { must(t, os.Remove(root+statePath)) },
			left: []Left{{configPath, notOurs}, {currentPath, notOurs}, {firstPath, notOurs}, {secondPath, notOurs}, {caPath, notOurs}},
		},
		{
			name: "the state is torn", after: func(t *testing.T, root string) { must(t, os.Truncate(root+statePath, 200)) },
			left: []Left{{configPath, notOurs}, {currentPath, notOurs}, {firstPath, notOurs}, {secondPath, notOurs}, {caPath, notOurs}},
		},
		{name: "a copy was changed", join: func(t *testing.T, store *Store, _ string) {
			unlocked(t, func() error { return slotRotation(store, pairNo(t, 0), testTime) })
		}, after: func(t *testing.T, root string) {
			write(t, root+"/etc/metrics/tls/tls.crt", "x", 0o644)
		}, left: []Left{{"/etc/metrics/tls/tls.crt", changed}}},
		{name: "many contents", join: func(t *testing.T, store *Store, _ string) {
			for i := range 7 {
				must(t, store.Commit(&Kubeconfig{Server: "https://" + strings.Repeat("x", i+1), CA: append(slices.Clone(testCA), byte('0'+i)), Pair: pairNo(t, i%3)}, testTime.Add(time.Duration(i)*time.Minute)))
				must(t, store.CommitKubeconfig(&Kubeconfig{Server: "https://" + strings.Repeat("y", i+1), CA: testCA}))
				must(t, store.CommitCA(append(slices.Clone(testCA), byte('a'+i))))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, root := installed(t)
			if test.before != nil {
				test.before(t, root)
			}
			want := tree(t, root)
			if test.join == nil {
				test.join = joins
			}
			test.join(t, store, root)
			if test.after != nil {
				test.after(t, root)
			}
			for _, left := range test.left {
				test.stays = append(test.stays, left.Path)
			}
			for _, path := range test.stays {
				for ; path != "/"; path = filepath.Dir(path) {
					want = appendNew(want, path[1:])
				}
			}
			before := fingerprint(t, root)
			if diff := cmp.Diff(test.left, relative(root, reset(t, store)).Left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			after := fingerprint(t, root)
			got := tree(t, root)
			if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
				t.Errorf("what is there (-want +got):\n%s", cmp.Diff(slices.Sorted(slices.Values(want)), got))
			}
			for path := range after {
				if after[path] != before[path] {
					t.Errorf("%s was %s and is %s", path, before[path], after[path])
				}
			}
		})
	}
}

// disturbed are machines for a reset that dies.
var disturbed = map[string]func(t *testing.T, store *Store){
	"as it was left": func(t *testing.T, store *Store) {
		twice(t, store)
		unlocked(t, func() error { return slotRotation(store, pairNo(t, 2), testTime) })
		must(t, store.Client.SavePendingKey(pendingKey))
	},
	"with changes and leftovers": func(t *testing.T, store *Store) {
		root := store.paths.Root
		write(t, root+caPath, "theirs", 0o644)
		twice(t, store)
		unlocked(t, func() error { return slotRotation(store, pairNo(t, 2), testTime) })
		write(t, root+configPath, "changed", 0o600)
		write(t, root+firstPath, "changed", 0o600)
		write(t, root+pkiPath+".kubelet-client-2030-03-14-15-09-26.pem5", "torn", 0o600)
		write(t, root+"/var/lib/metrics/theirs", "", 0o600)
		must(t, store.Client.SavePendingKey(pendingKey))
	},
	"with the kubelet's pair": func(t *testing.T, store *Store) {
		twice(t, store)
		write(t, store.paths.Root+pkiPath+"kubelet-client-2027-01-01-00-00-00.pem", string(pairNo(t, 2).pem), 0o600)
		must(t, swapLink(store.paths.Root+currentPath, pkiPath+"kubelet-client-2027-01-01-00-00-00.pem"))
	},
}

// TestResetDies: a reset that died after any number of its steps is run again, and ends where it would have ended, having
// said so of everything that it leaves.
func TestResetDies(t *testing.T) {
	for name, disturb := range disturbed {
		t.Run(name, func(t *testing.T) {
			store, root := installed(t)
			disturb(t, store)
			done := relative(root, reset(t, store))
			want := tree(t, root)
			for n := range len(done.Removed) + 1 {
				store, root := installed(t)
				disturb(t, store)
				for _, path := range done.Removed[:n] {
					must(t, os.Remove(root+path))
				}
				again := relative(root, reset(t, store))
				if !slices.Equal(again.Removed, done.Removed[n:]) {
					t.Errorf("after %d steps: removed %q, want %q", n, again.Removed, done.Removed[n:])
				}
				if got := tree(t, root); !slices.Equal(got, want) {
					t.Errorf("after %d steps: there is (-want +got):\n%s", n, cmp.Diff(want, got))
				}
				if len(done.Removed) > n && slices.Contains(done.Removed[n:], statePath) && !cmp.Equal(again.Left, done.Left) {
					t.Errorf("after %d steps: left %+v, want %+v", n, again.Left, done.Left)
				}
			}
		})
	}
}

// TestResetDiesOnAnEmptyMachine: the one thing that can stay are empty directories above the state directory, if the reset
// died when the state had just gone.
func TestResetDiesOnAnEmptyMachine(t *testing.T) {
	store, root := newStore(t)
	twice(t, store)
	done := relative(root, reset(t, store))
	state := slices.Index(done.Removed, statePath)
	for n := range len(done.Removed) + 1 {
		store, root := newStore(t)
		twice(t, store)
		for _, path := range done.Removed[:n] {
			must(t, os.Remove(root+path))
		}
		reset(t, store)
		got := tree(t, root)
		if allowed := []string{"var", "var/lib"}; len(got) != 0 && (n <= state || !slices.Equal(got, allowed) && !slices.Equal(got, allowed[:1])) {
			t.Errorf("after %d steps: left %q", n, got)
		}
	}
}

// TestResetStaysBelowRoot: whatever the state says, nothing outside the root is touched, nor the root.
func TestResetStaysBelowRoot(t *testing.T) {
	around := tempDir(t)
	root := around + "/root"
	write(t, around+"/etc/hosts", "", 0o644)
	write(t, around+caPath, string(testCA), 0o644)
	must(t, os.Mkdir(around+"/empty", 0o755))
	store := NewStore(testPaths(root))
	twice(t, store)
	must(t, store.Remember(func(state *State) {
		sum := digest(testCA)
		state.Made["/../etc/hosts"], state.Made["/.."+caPath], state.Made[around+caPath], state.Made[".."+caPath] = digest(nil), sum, sum, sum
		state.MadeDirs = append(state.MadeDirs, "/", "", ".", "..", "/..", "/../empty", "../empty", around+"/empty")
	}))
	before := fingerprint(t, around)
	for _, path := range reset(t, store).Removed {
		if !strings.HasPrefix(path, root+"/") {
			t.Errorf("removed %s", path)
		}
	}
	after := fingerprint(t, around)
	for path := range before {
		if before[path] != after[path] && !strings.HasPrefix(path, "root/") {
			t.Errorf("%s was %q and is %q", path, before[path], after[path])
		}
	}
	if got := tree(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// TestResetWithoutRoot: the paths are this machine's.
func TestResetWithoutRoot(t *testing.T) {
	machine := tempDir(t)
	write(t, machine+"/etc/hosts", "", 0o644)
	paths := testPaths("")
	for _, path := range []*string{&paths.Kubeconfig, &paths.CertDir, &paths.CAFile, &paths.StateDir} {
		*path = machine + *path
	}
	store := NewStore(paths)
	twice(t, store)
	write(t, machine+caPath, "changed", 0o644)
	done, err := NewStore(paths).Reset()
	if err != nil || !cmp.Equal(done.Left, []Left{{machine + caPath, "it was changed by somebody else"}}) {
		t.Errorf("got %+v, %v", done, err)
	}
	if got, want := tree(t, machine), []string{"etc", "etc/hosts", "etc/kubernetes", "etc/kubernetes/pki", "etc/kubernetes/pki/ca.crt"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
}
