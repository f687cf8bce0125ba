//go:build unix

package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// pairName is the name of a file of aSlot, of an hour after testTime.
func pairName(hour int) string {
	return "metrics" + testTime.Add(time.Duration(hour)*time.Hour).Format(pairLayout)
}

// TestSpare: where there is nothing behind the link, the newest of the pairs that can be loaded is found.
func TestSpare(t *testing.T) {
	const none = -1
	for _, test := range []struct {
		name  string
		files map[string]int // number of the pair, none for what is no pair
		link  string
		pair  int // behind the link
		spare int
	}{
		{"nothing at all", nil, "", none, none},
		{"no link", map[string]int{pairName(0): 0, pairName(1): 1}, "", none, 1},
		{"a link to nothing", map[string]int{pairName(0): 0, pairName(1): 1}, pairName(2), none, 1},
		{"a link to what is torn", map[string]int{pairName(0): 0, pairName(1): none}, pairName(1), none, 0},
		{"a link to what is torn, and a newer one", map[string]int{pairName(0): 0, pairName(1): none, pairName(2): 2}, pairName(1), none, 2},
		{"nothing but what is torn", map[string]int{pairName(0): none, pairName(1): none}, "", none, none},
		{"of others alone", map[string]int{"kubelet-client-2026-03-14-15-09-26.pem": 0, "metrics-b-2026-03-14-15-09-26.pem": 1, "metrics.pem": 2}, "", none, none},
		{"with a time that is none", map[string]int{"metrics-2026-02-30-15-09-26.pem": 0, "metrics-2026-3-14-15-09-26.pem": 1, "metrics-2026-03-14-15-09-26.5.pem": 2, "metrics-2026-03-14-15-09-26.pem.bak": 2}, "", none, none},
		{"not needed", map[string]int{pairName(0): 0, pairName(1): 1}, pairName(0), 0, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, _ := newStore(t)
			slot := aSlot(store)
			must(t, os.MkdirAll(slot.dir, 0o755))
			for file, n := range test.files {
				content := "torn"
				if n != none {
					content = string(pairNo(t, n).pem)
				}
				write(t, filepath.Join(slot.dir, file), content, 0o600)
			}
			if test.link != "" {
				link(t, test.link, filepath.Join(slot.dir, slot.currentName()))
			}
			found := mustFind(t, slot)
			for what, is := range map[string]struct {
				got  *KeyPair
				want int
			}{"pair": {found.Pair, test.pair}, "spare": {found.Spare, test.spare}} {
				if (is.got == nil) != (is.want == none) || is.got != nil && is.got.Fingerprint() != pairNo(t, is.want).Fingerprint() {
					t.Errorf("the %s is %v, want number %d", what, is.got, is.want)
				}
			}
			if missing := test.link == ""; missing != (found.Pair == nil && found.PairErr == nil) {
				t.Errorf("the error is %v", found.PairErr)
			}
		})
	}
}

// TestReplaced: a pair of somebody else's is told apart from one of ours, and is only of interest in the place of one.
func TestReplaced(t *testing.T) {
	// theirs writes a pair as a kubelet does that rotates as well.
	theirs := func(t *testing.T, slot *Slot, hour int) {
		t.Helper()
		write(t, filepath.Join(slot.dir, pairName(hour)), string(pairNo(t, 2).pem), 0o600)
		must(t, os.RemoveAll(filepath.Join(slot.dir, "updated")))
		link(t, filepath.Join(slot.Dir, pairName(hour)), filepath.Join(slot.dir, "updated"))
		must(t, os.Rename(filepath.Join(slot.dir, "updated"), filepath.Join(slot.dir, slot.currentName())))
	}
	ours := func(t *testing.T, slot *Slot, hour int) {
		t.Helper()
		must(t, slot.Commit(pairNo(t, hour%2), testTime.Add(time.Duration(hour)*time.Hour)))
	}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, slot *Slot)
		want bool
	}{
		{"nothing there", func(*testing.T, *Slot) {}, false},
		{"ours", func(t *testing.T, slot *Slot) { ours(t, slot, 0) }, false},
		{"ours again", func(t *testing.T, slot *Slot) { ours(t, slot, 0); ours(t, slot, 1); ours(t, slot, 2) }, false},
		{"theirs from the beginning", func(t *testing.T, slot *Slot) { theirs(t, slot, 0); theirs(t, slot, 1) }, false},
		{"ours after theirs", func(t *testing.T, slot *Slot) { theirs(t, slot, 0); ours(t, slot, 1) }, false},
		{"theirs after ours", func(t *testing.T, slot *Slot) { ours(t, slot, 0); theirs(t, slot, 1) }, true},
		{"theirs after ours, by a clock that is behind", func(t *testing.T, slot *Slot) { ours(t, slot, 5); theirs(t, slot, 1) }, true},
		{"theirs within the second of ours, under its name", func(t *testing.T, slot *Slot) { ours(t, slot, 0); theirs(t, slot, 0) }, true},
		{"theirs after ours after theirs", func(t *testing.T, slot *Slot) { theirs(t, slot, 0); ours(t, slot, 1); theirs(t, slot, 2) }, true},
		{"and then ours again", func(t *testing.T, slot *Slot) { ours(t, slot, 0); theirs(t, slot, 1); ours(t, slot, 2) }, false},
		{"the one before is current again", func(t *testing.T, slot *Slot) {
			ours(t, slot, 0)
			ours(t, slot, 1)
			must(t, swapLink(filepath.Join(slot.dir, slot.currentName()), pairName(0)))
		}, false},
		{"theirs, and it cannot be loaded", func(t *testing.T, slot *Slot) {
			ours(t, slot, 0)
			theirs(t, slot, 1)
			must(t, os.Truncate(filepath.Join(slot.dir, pairName(1)), 10))
		}, false},
		{"no link any more", func(t *testing.T, slot *Slot) {
			ours(t, slot, 0)
			must(t, os.Remove(filepath.Join(slot.dir, slot.currentName())))
		}, false},
		{"the state is lost", func(t *testing.T, slot *Slot) {
			ours(t, slot, 0)
			theirs(t, slot, 1)
			must(t, os.Remove(stateOf(slot.store)))
		}, false},
		{"another slot's", func(t *testing.T, slot *Slot) {
			theirs(t, slot, 0)
			must(t, slot.store.Slot(Place{Name: "other", Dir: slot.Dir}).Commit(pairNo(t, 1), testTime))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, _ := newStore(t)
			test.do(t, aSlot(store))
			if found := mustFind(t, aSlot(NewStore(store.written))); found.Replaced != test.want {
				t.Errorf("got %+v", found)
			}
		})
	}
}

// TestPrune: the current pair and the one before are kept, whoever made them; nothing else is taken for a pair.
func TestPrune(t *testing.T) {
	store, _ := newStore(t)
	slot := aSlot(store)
	foreign := []string{"metrics.pem", "metrics-old.pem", "metrics-2026-03-14-15-09-26.pem.bak", "metrics-2026-02-30-00-00-00.pem", "metrics-2026-03-14-15-09-26.5.pem", "metrics-b-2026-03-14-15-09-26.pem"}
	for _, file := range foreign {
		write(t, filepath.Join(slot.dir, file), "not ours", 0o600)
	}
	for hour := range 3 { // those of whoever was here before
		write(t, filepath.Join(slot.dir, pairName(hour-9)), string(pairNo(t, 0).pem), 0o600)
	}
	last := pairName(2 - 9)
	for hour := range 6 {
		must(t, slot.Commit(pairNo(t, hour%3), testTime.Add(time.Duration(hour)*time.Hour)))
		files, err := slot.pairFiles()
		if err != nil || !slices.Equal(files, []string{last, pairName(hour)}) {
			t.Errorf("after %d commits there is %q, %v", hour+1, files, err)
		}
		last = pairName(hour)
		for path := range mustState(t, store).Made {
			if isMissing(store.on(path)) && filepath.Base(path) != pairName(hour-2) { // which went after it was looked at
				t.Errorf("%s is gone, and is remembered", path)
			}
		}
	}
	for _, file := range foreign {
		if read(t, filepath.Join(slot.dir, file)) != "not ours" {
			t.Errorf("%s is another", file)
		}
	}
}
