//go:build unix

package rotate

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// mustFind loads a slot that can be used.
func mustFind(tb testing.TB, slot *Slot) *Found {
	tb.Helper()
	found, err := slot.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// owners returns the owner and the mode of the regular files below a directory.
func owners(tb testing.TB, root string) map[string]string {
	tb.Helper()
	found := map[string]string{}
	for _, path := range tree(tb, root) {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, path), &stat); err != nil {
			tb.Fatal(err)
		}
		if stat.Mode&unix.S_IFMT == unix.S_IFREG {
			found[path] = fmt.Sprintf("%d:%d %04o", stat.Uid, stat.Gid, stat.Mode&0o7777)
		}
	}
	return found
}

// TestPlace: each file is where the place says, and whose. It does not run in parallel: the umask is the process's.
func TestPlace(t *testing.T) {
	self := Owner{os.Geteuid(), os.Getegid()}
	by := func(owner Owner, mode fs.FileMode) string {
		return fmt.Sprintf("%d:%d %04o", owner.UID, owner.GID, mode)
	}
	const pair, state = "etc/metrics/metrics-2026-03-14-15-09-26.pem", "var/lib/nodejoin/" + stateName
	for _, test := range []struct {
		name  string
		place Place
		want  map[string]string // beside the state
	}{
		{"the pair alone", Place{Name: "metrics", Dir: "/etc/metrics"}, map[string]string{pair: by(self, 0o600)}},
		{"for a group", Place{Name: "metrics", Dir: "/etc/metrics", Mode: 0o640}, map[string]string{pair: by(self, 0o640)}},
		{
			"with copies beside it",
			Place{Name: "metrics", Dir: "/etc/metrics", CertificateFile: "/etc/metrics/tls.crt", PrivateKeyFile: "/etc/metrics/tls.key"},
			map[string]string{pair: by(self, 0o600), "etc/metrics/tls.crt": by(self, 0o644), "etc/metrics/tls.key": by(self, 0o600)},
		},
		{
			"with copies elsewhere",
			Place{Name: "metrics", Dir: "/etc/metrics", CertificateFile: "/etc/ssl/a/metrics.crt", PrivateKeyFile: "/etc/ssl/b/metrics.key", Mode: 0o440},
			map[string]string{pair: by(self, 0o440), "etc/ssl/a/metrics.crt": by(self, 0o644), "etc/ssl/b/metrics.key": by(self, 0o440)},
		},
		{"with one copy", Place{Name: "metrics", Dir: "/etc/metrics", CertificateFile: "/etc/metrics/tls.crt"}, map[string]string{pair: by(self, 0o600), "etc/metrics/tls.crt": by(self, 0o644)}},
		{"with the other copy", Place{Name: "metrics", Dir: "/etc/metrics", PrivateKeyFile: "/etc/metrics/tls.key"}, map[string]string{pair: by(self, 0o600), "etc/metrics/tls.key": by(self, 0o600)}},
		{
			"of another user",
			Place{Name: "metrics", Dir: "/etc/metrics", CertificateFile: "/etc/metrics/tls.crt", PrivateKeyFile: "/etc/metrics/tls.key", Mode: 0o640, Owner: &Owner{4711, 4712}},
			map[string]string{pair: by(Owner{4711, 4712}, 0o640), "etc/metrics/tls.crt": by(Owner{4711, 4712}, 0o644), "etc/metrics/tls.key": by(Owner{4711, 4712}, 0o640)},
		},
		{"of another group", Place{Name: "metrics", Dir: "/etc/metrics", Mode: 0o640, Owner: &Owner{-1, 4712}}, map[string]string{pair: by(Owner{self.UID, 4712}, 0o640)}},
	} {
		for _, umask := range []int{0, 0o077} {
			t.Run(fmt.Sprintf("%s, umask %03o", test.name, umask), func(t *testing.T) {
				if test.place.Owner != nil {
					expect.Root(t)
				}
				store, root := newStore(t)
				defer unix.Umask(unix.Umask(umask))
				slot := store.Slot(test.place)
				for i := range 2 { // made, then replaced
					must(t, slot.Commit(pairNo(t, i), testTime.Add(time.Duration(i)*time.Hour)))
					want := map[string]string{state: by(self, 0o600)}
					maps.Copy(want, test.want)
					if i == 1 {
						want["etc/metrics/metrics-2026-03-14-16-09-26.pem"] = want[pair]
					}
					if diff := cmp.Diff(want, owners(t, root)); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					found := mustFind(t, slot)
					if found.StaleCopy || found.Pair == nil || found.Pair.Fingerprint() != pairNo(t, i).Fingerprint() || found.PairPath != "/etc/metrics/metrics-current.pem" {
						t.Errorf("got %+v", found)
					}
					chain, key := parts(t, pairNo(t, i))
					for path, want := range map[string][]byte{test.place.CertificateFile: chain, test.place.PrivateKeyFile: key} {
						if path != "" && read(t, filepath.Join(root, path)) != string(want) {
							t.Errorf("%s holds %q", path, read(t, filepath.Join(root, path)))
						}
					}
				}
			})
		}
	}
}

// TestPlaceNotOurs: a place that its owner cannot be given is left as it was.
func TestPlaceNotOurs(t *testing.T) {
	store, root := newStore(t)
	must(t, aSlot(store).Commit(pairNo(t, 0), testTime))
	before := fingerprint(t, filepath.Join(root, "var/lib/metrics"))
	must(t, os.Chmod(filepath.Join(root, "etc/metrics/private"), 0o777))
	expect.Fault(t, aSlot(store).Commit(pairNo(t, 1), testTime.Add(time.Hour)), fault.Files, "etc/metrics/private is writable by others (mode 0777)")
	if diff := cmp.Diff(before, fingerprint(t, filepath.Join(root, "var/lib/metrics"))); diff != "" {
		t.Errorf("something was written:\n%s", diff)
	}
}

// TestWatchedSlot: what concerns a slot is its link and its copies, on this machine.
func TestWatchedSlot(t *testing.T) {
	store, root := newStore(t)
	want := []string{root + "/var/lib/metrics/pki/metrics-current.pem", root + "/etc/metrics/private/tls.key", root + "/etc/metrics/tls/tls.crt"}
	if diff := cmp.Diff(want, aSlot(store).Watched()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []string{root + "/etc/kubernetes/kubelet.conf", root + "/etc/kubernetes/pki/ca.crt", root + "/var/lib/kubelet/pki/kubelet-client-current.pem"}
	if diff := cmp.Diff(want, store.Watched()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStaleCopy: a copy that is not the pair's is noticed and made anew, and nothing else is touched.
func TestStaleCopy(t *testing.T) {
	chain, key := parts(t, pairNo(t, 0))
	otherChain, otherKey := parts(t, pairNo(t, 1))
	const certificate, private = "etc/metrics/tls/tls.crt", "etc/metrics/private/tls.key"
	for _, test := range []struct {
		name   string
		change func(t *testing.T, root string)
		want   []string // what is made anew; nil: nothing
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"the key is gone", func(t *testing.T, root string) { must(t, os.Remove(root+private)) }, []string{private}},
		{"the certificate is gone", func(t *testing.T, root string) { must(t, os.Remove(root+certificate)) }, []string{certificate}},
		{"both are gone", func(t *testing.T, root string) {
			must(t, os.Remove(root+private))
			must(t, os.Remove(root+certificate))
		}, []string{private, certificate}},
		{"a directory is gone", func(t *testing.T, root string) { must(t, os.RemoveAll(root+"etc/metrics")) }, []string{private, certificate}},
		{"the key is another's", func(t *testing.T, root string) { write(t, root+private, string(otherKey), 0o640) }, []string{private}},
		{"the certificate is another's", func(t *testing.T, root string) { write(t, root+certificate, string(otherChain), 0o644) }, []string{certificate}},
		{"the certificate is torn", func(t *testing.T, root string) { must(t, os.Truncate(root+certificate, 100)) }, []string{certificate}},
		{"the key is empty", func(t *testing.T, root string) { must(t, os.Truncate(root+private, 0)) }, []string{private}},
		{"a byte too many", func(t *testing.T, root string) { write(t, root+certificate, string(chain)+"\n", 0o644) }, []string{certificate}},
		{"the key is open to others", func(t *testing.T, root string) { must(t, os.Chmod(root+private, 0o644)) }, []string{private}},
		{"the certificate is closed to others", func(t *testing.T, root string) { must(t, os.Chmod(root+certificate, 0o600)) }, []string{certificate}},
		{"changed places", func(t *testing.T, root string) {
			write(t, root+certificate, string(key), 0o644)
			write(t, root+private, string(chain), 0o640)
		}, []string{private, certificate}},
		{"a link to the same", func(t *testing.T, root string) {
			must(t, os.Rename(root+certificate, root+"elsewhere"))
			link(t, root+"elsewhere", root+certificate)
		}, nil},
		{"a link to nothing", func(t *testing.T, root string) {
			must(t, os.Remove(root+certificate))
			link(t, "nothing", root+certificate)
		}, []string{certificate}},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, root := newStore(t)
			slot := aSlot(store)
			must(t, slot.Commit(pairNo(t, 0), testTime))
			want := owners(t, root)
			test.change(t, root+"/")
			found := mustFind(t, slot)
			if found.StaleCopy != (test.want != nil) || found.Pair == nil {
				t.Errorf("got %+v", found)
			}
			before := fingerprint(t, root)
			must(t, slot.WriteCopies(found.Pair))
			if mustFind(t, slot).StaleCopy {
				t.Error("it is stale still")
			}
			after := fingerprint(t, root)
			var changed []string
			for path := range after {
				if info, err := os.Lstat(filepath.Join(root, path)); err != nil || before[path] != after[path] && !info.IsDir() && path != "var/lib/nodejoin/"+stateName {
					changed = append(changed, path)
				}
			}
			if slices.Sort(changed); !slices.Equal(changed, test.want) {
				t.Errorf("%q was made anew, want %q", changed, test.want)
			}
			got := owners(t, root)
			if read(t, filepath.Join(root, certificate)) != string(chain) || read(t, filepath.Join(root, private)) != string(key) {
				t.Error("the copies are not the pair's")
			}
			for _, path := range test.want {
				if got[path] != want[path] {
					t.Errorf("%s is %s, want %s", path, got[path], want[path])
				}
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		store, root := newStore(t)
		slot := aSlot(store)
		must(t, slot.Commit(pairNo(t, 0), testTime))
		must(t, os.Remove(filepath.Join(root, certificate)))
		must(t, os.Mkdir(filepath.Join(root, certificate), 0o755))
		if found := mustFind(t, slot); !found.StaleCopy {
			t.Errorf("got %+v", found)
		}
		expect.Fault(t, slot.WriteCopies(pairNo(t, 0)), fault.Files, "cannot write "+root+"/"+certificate)
	})
}

// slotNames are names of slots that one could take for each other's.
var slotNames = []string{"met.ics", "metrics", "metrics-b", "metric", "metrics-2026-03-14-15-09-26.pem", ClientName, "kubelet-server", "kubelet"}

// TestSlotsInOneDirectory: whatever is done with one slot, nothing of the others is touched, their leftovers included.
func TestSlotsInOneDirectory(t *testing.T) {
	store, root := newStore(t)
	slots := map[string]*Slot{}
	for i, name := range slotNames {
		slots[name] = store.Slot(Place{Name: name, Dir: "/pki", CertificateFile: "/pki/" + name + ".crt", PrivateKeyFile: "/pki/" + name + ".key"})
		must(t, slots[name].Commit(pairNo(t, i%3), testTime))
		must(t, slots[name].Commit(pairNo(t, (i+1)%3), testTime.Add(time.Hour)))
		must(t, slots[name].SavePendingKey([]byte(name)))
		must(t, slots[name].Remember(func(record *Record) { record.Verified = name }))
	}
	for _, name := range slotNames { // of crashes
		write(t, filepath.Join(root, "pki", "."+name+"-2026-03-14-15-09-26.pem1"), "torn", 0o600)
		write(t, filepath.Join(root, "pki", "."+name+"-current.pem0"), "torn", 0o600)
		write(t, filepath.Join(root, "pki", "."+name+".key2"), "torn", 0o600)
	}
	of := func(path string) string { // the slot that a file belongs to
		owner, base := "", strings.TrimPrefix(filepath.Base(path), ".")
		for _, name := range slotNames {
			for _, behind := range []string{"-2026-03-14-", "-current.pem", ".key", ".crt"} {
				if strings.HasPrefix(base, name+behind) && len(name) > len(owner) {
					owner = name
				}
			}
		}
		return owner
	}
	for _, name := range slotNames {
		before := fingerprint(t, root)
		slot := slots[name]
		for i := range 4 {
			must(t, slot.Commit(pairNo(t, i%3), testTime.Add(time.Duration(i)*time.Minute)))
		}
		must(t, slot.WriteCopies(pairNo(t, 0)))
		must(t, slot.SavePendingKey(pendingKey))
		must(t, slot.DropPendingKey())
		must(t, slot.Remember(func(record *Record) { record.Verified = "" }))
		after := fingerprint(t, root)
		for path := range before {
			if owner := of(path); before[path] != after[path] && owner != name && path != "var/lib/nodejoin/"+stateName {
				t.Errorf("%s changed %s of %s", name, path, owner)
			}
			if before[path] == after[path] && of(path) == name && !strings.HasPrefix(filepath.Base(path), name+"-2026-03-14-16-09-26") {
				t.Errorf("%s has left %s as it was", name, path)
			}
		}
		files, err := slot.pairFiles()
		if err != nil || len(files) != keptPairs || slices.ContainsFunc(files, func(file string) bool { return of(file) != name }) {
			t.Errorf("%s has %q, %v", name, files, err)
		}
		must(t, slot.SavePendingKey([]byte(name)))
		must(t, slot.Remember(func(record *Record) { record.Verified = name }))
	}
	for _, name := range slotNames {
		found := mustFind(t, slots[name])
		if found.Record != (Record{Verified: name}) || string(found.PendingKey) != name || found.Replaced || found.Pair == nil {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestSlotAdopts: a slot of the kubelet's serving certificate takes over what the kubelet has written, and leaves it there.
func TestSlotAdopts(t *testing.T) {
	const theirs = "kubelet-server-2026-01-01-00-00-00.pem"
	for name, target := range map[string]string{"an absolute link": "/var/lib/kubelet/pki/" + theirs, "a relative link": theirs} {
		t.Run(name, func(t *testing.T) {
			store, root := newStore(t)
			must(t, rotation(store, pairNo(t, 2), testTime)) // in the same directory
			client := mustLoad(t, store).Pair.Fingerprint()
			dir := filepath.Join(root, "var/lib/kubelet/pki")
			write(t, filepath.Join(dir, theirs), string(pairNo(t, 0).pem), 0o600)
			link(t, target, filepath.Join(dir, "kubelet-server-current.pem"))
			slot := store.Slot(Place{Name: "kubelet-server", Dir: "/var/lib/kubelet/pki"})
			found := mustFind(t, slot)
			if found.Pair == nil || found.Pair.Fingerprint() != pairNo(t, 0).Fingerprint() || found.Replaced || found.Spare != nil || found.Record != (Record{}) {
				t.Fatalf("got %+v", found)
			}
			must(t, slot.Commit(pairNo(t, 1), testTime))
			if target, err := os.Readlink(filepath.Join(dir, "kubelet-server-current.pem")); err != nil || target != "kubelet-server-2026-03-14-15-09-26.pem" {
				t.Errorf("the link leads to %q, %v", target, err)
			}
			if read(t, filepath.Join(dir, theirs)) != string(pairNo(t, 0).pem) {
				t.Error("the kubelet's pair is another")
			}
			if found := mustFind(t, slot); found.Pair == nil || found.Pair.Fingerprint() != pairNo(t, 1).Fingerprint() || found.Replaced {
				t.Errorf("got %+v", found)
			}
			if got := mustLoad(t, store).Pair.Fingerprint(); got != client {
				t.Error("the client certificate is another")
			}
		})
	}
}

// TestSlotReaders load what is there, as a TLS server and as the agent do, while it is replaced again and again.
func TestSlotReaders(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	slot := aSlot(store)
	must(t, slot.Commit(pairNo(t, 0), testTime))
	r := readersOf(t, func() error { return readAsKubelet(slot.dir, slot.currentName()) }, func() error {
		found, err := aSlot(NewStore(testPaths(store.paths.Root))).Load() // of another process, which has no lock
		switch {
		case err != nil:
			return err
		case found.Pair == nil || found.PairErr != nil:
			return fmt.Errorf("the pair cannot be loaded: %w", found.PairErr)
		case found.Replaced:
			return fmt.Errorf("it is said to be somebody else's: %+v", found)
		}
		return nil
	})
	defer r.end()
	for i := range 200 {
		must(t, slot.Commit(pairNo(t, i%3), testTime))
		r.catchUp()
	}
	r.end()
	if found := mustFind(t, slot); found.StaleCopy || found.Pair.Fingerprint() != pairNo(t, 199%3).Fingerprint() {
		t.Errorf("got %+v", found)
	}
}

// TestSlotRemember: what is remembered is of one certificate, and each change is made to what is there.
func TestSlotRemember(t *testing.T) {
	store, root := newStore(t)
	slot, other := aSlot(store), store.Slot(Place{Name: "other", Dir: "/pki"})
	must(t, other.Remember(func(record *Record) { record.Verified = "other" }))
	want := Record{}
	for _, change := range []func(*Record){
		func(record *Record) { record.Verified = "abc" },
		func(record *Record) { record.RotateAt, record.RotateOf = testTime, "abc" },
		func(record *Record) { record.Denied = &Denial{Request: "csr-1", Reason: "no", At: testTime} },
		func(record *Record) { record.Denied = nil },
	} {
		must(t, slot.Remember(change))
		change(&want)
		again := NewStore(testPaths(root))
		if diff := cmp.Diff(want, mustFind(t, aSlot(again)).Record); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := mustFind(t, again.Slot(other.Place)).Record; got != (Record{Verified: "other"}) {
			t.Errorf("the other's is %+v", got)
		}
	}
}
