package rotate

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestState(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       State
	}{
		{"whole", `{"version":1,"verified":"abc"}` + "\n", State{Version: 1, Verified: "abc"}},
		{"of a later version, with more in it", `{"version":2,"verified":"abc","more":{"x":[1]}}`, State{Version: 2, Verified: "abc"}},
		{"empty object", `{}`, State{}},
		{"empty", "", State{}},
		{"zeros", string(make([]byte, 40)), State{}},
		{"torn", `{"version":1,"verified":"ab`, State{}},
		{"garbage behind it", `{"version":1,"verified":"abc"}x`, State{}},
		{"a list", `[]`, State{}},
		{"another type", `{"version":1,"verified":7}`, State{}},
		{"another type, late", `{"verified":"abc","version":"x"}`, State{}},
		{"null", `null`, State{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, root := newStore(t)
			commit(t, store, pairNo(t, 0), testTime)
			write(t, filepath.Join(root, "var/lib/nodejoin", stateName), test.text, 0o600)
			disk := mustLoad(t, store)
			if disk.State != test.want {
				t.Errorf("got %+v", disk.State)
			}
			if !disk.Whole() {
				t.Error("the identity is lost with it")
			}
			if err := store.SaveState(State{Verified: "new"}); err != nil {
				t.Fatal(err)
			}
			if got := mustLoad(t, store).State; got != (State{Version: 1, Verified: "new"}) {
				t.Errorf("saved anew: %+v", got)
			}
		})
	}
}

func TestPendingKey(t *testing.T) {
	store, root := newStore(t)
	if got := mustLoad(t, store).PendingKey; len(got) != 0 {
		t.Errorf("in an empty store: %q", got)
	}
	for _, key := range [][]byte{pendingKey, []byte("another")} {
		if err := store.SavePendingKey(key); err != nil {
			t.Fatal(err)
		}
		if got := mustLoad(t, store).PendingKey; !bytes.Equal(got, key) {
			t.Errorf("got %q", got)
		}
	}
	path := filepath.Join(root, "var/lib/nodejoin", pendingName)
	if err := os.Truncate(path, 0); err != nil { // what a power cut leaves of a careless writer's file
		t.Fatal(err)
	}
	if got := mustLoad(t, store).PendingKey; len(got) != 0 {
		t.Errorf("of an empty file: %q", got)
	}
	for range 2 {
		if err := store.DropPendingKey(); err != nil {
			t.Fatal(err)
		}
		if got := mustLoad(t, store).PendingKey; got != nil {
			t.Errorf("dropped: %q", got)
		}
	}
}

// FuzzState: a state file of whatever content costs the state and nothing else.
func FuzzState(f *testing.F) {
	for _, seed := range []string{`{"version":1,"verified":"abc"}`, "", "null", `{"version":1e400}`, `{"Version":1}`, "[[[[", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	root := f.TempDir()
	store := NewStore(testPaths(root))
	commit(f, store, pairNo(f, 0), testTime)
	f.Fuzz(func(t *testing.T, data []byte) {
		write(t, filepath.Join(root, "var/lib/nodejoin", stateName), string(data), 0o600)
		disk := mustLoad(t, store)
		if !disk.Whole() {
			t.Fatal("the identity is lost")
		}
		want := State{Version: 1, Verified: disk.State.Verified}
		if err := store.SaveState(disk.State); err != nil {
			t.Fatal(err)
		}
		if got := mustLoad(t, store).State; got != want {
			t.Errorf("saved %+v, read %+v", want, got)
		}
	})
}
