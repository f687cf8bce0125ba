//go:build linux

package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hush is how long a change is held back in tests that do not ask for how long.
const hush = 2 * time.Millisecond

// newWatcher returns a watcher that does not run yet.
func newWatcher(tb testing.TB, log *logged, paths ...string) *Watcher {
	tb.Helper()
	w, err := NewWatcher(paths, log.logger())
	if err != nil {
		tb.Fatal(err)
	}
	w.quiet, w.atMost = hush, 10*hush
	return w
}

// runs runs a watcher until what is returned is called, or else until the test ends.
func runs(tb testing.TB, w *Watcher) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("the watcher ended: %v", err)
			}
		case <-time.After(patience):
			tb.Error("the watcher does not end")
		}
	}
	tb.Cleanup(stop)
	return stop
}

// receives reports whether all of the paths are delivered.
func receives(w *Watcher, want []string) bool {
	_, ok := receive(w, want)
	return ok
}

// receive waits until all of the paths were delivered, and returns all that were until then.
func receive(w *Watcher, want []string) (got []string, ok bool) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for slices.ContainsFunc(want, func(path string) bool { return !slices.Contains(got, path) }) {
		select {
		case batch := <-w.Events():
			got = append(got, batch...)
		case <-timeout.C:
			return got, false
		}
	}
	return got, true
}

// wantEvents is receive, which must not be in vain.
func wantEvents(tb testing.TB, w *Watcher, want ...string) []string {
	tb.Helper()
	got, ok := receive(w, want)
	if !ok {
		tb.Fatalf("waited %s in vain for %q, got %q", patience, want, got)
	}
	return got
}

// wantNoEvent checks that nothing is delivered, for as long as it would take many times over.
func wantNoEvent(tb testing.TB, w *Watcher) {
	tb.Helper()
	select {
	case batch := <-w.Events():
		tb.Errorf("%q was delivered", batch)
	case <-time.After(100 * hush):
	}
}

// replace puts a file in the place of another, as a careful program does.
func replace(tb testing.TB, path, content string) {
	tb.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		tb.Error(err)
	}
}

// TestWatcher: what is done to a file, to a directory or to a link on the way to it is seen, what is done beside it is
// not, and after it the watching goes on.
func TestWatcher(t *testing.T) {
	t.Parallel()
	const file = "/pki/file"
	seen, unseen := []string{file}, []string{}
	volume := func(t *testing.T, root, name, content string) { write(t, root+"/volume/"+name+"/file", content, 0o600) }
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, root string) // nil: the file is there
		act     func(t *testing.T, root string)
		want    []string
		watch   []string // nil: the file
		where   string   // at which the file is written in the end; "": at its own path
	}{
		{name: "written", act: func(t *testing.T, root string) { write(t, root+file, "new", 0o600) }, want: seen},
		{name: "appended to", act: func(t *testing.T, root string) {
			f, err := os.OpenFile(root+file, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString("x")
			must(t, err)
		}, want: seen},
		{name: "truncated", act: func(t *testing.T, root string) { must(t, os.Truncate(root+file, 0)) }, want: seen},
		{name: "replaced", act: func(t *testing.T, root string) { replace(t, root+file, "new") }, want: seen},
		{name: "replaced by the same", act: func(t *testing.T, root string) { replace(t, root+file, "old") }, want: seen},
		{name: "removed", act: func(t *testing.T, root string) { must(t, os.Remove(root+file)) }, want: seen},
		{name: "moved away", act: func(t *testing.T, root string) { must(t, os.Rename(root+file, root+"/elsewhere")) }, want: seen},
		{name: "moved to another name", act: func(t *testing.T, root string) { must(t, os.Rename(root+file, root+file+"2")) }, want: seen},
		{name: "made", prepare: func(t *testing.T, root string) { must(t, os.Mkdir(root+"/pki", 0o755)) }, act: func(t *testing.T, root string) { write(t, root+file, "new", 0o600) }, want: seen},
		{name: "made by another name's move", prepare: func(t *testing.T, root string) {
			write(t, root+"/elsewhere", "new", 0o600)
			must(t, os.Mkdir(root+"/pki", 0o755))
		}, act: func(t *testing.T, root string) {
			must(t, os.Rename(root+"/elsewhere", root+file))
		}, want: seen},
		{name: "another name of it is made", act: func(t *testing.T, root string) { must(t, os.Link(root+file, root+"/elsewhere")) }, want: unseen},
		{name: "a link for the file", act: func(t *testing.T, root string) {
			write(t, root+"/elsewhere", "new", 0o600)
			must(t, os.Remove(root+file))
			link(t, "../elsewhere", root+file)
		}, want: seen},
		{name: "mode", act: func(t *testing.T, root string) { must(t, os.Chmod(root+file, 0o644)) }, want: unseen},
		{name: "mode of the directory", act: func(t *testing.T, root string) { must(t, os.Chmod(root+"/pki", 0o711)) }, want: unseen},
		{name: "times", act: func(t *testing.T, root string) { must(t, os.Chtimes(root+file, testTime, testTime)) }, want: unseen},
		{name: "read", act: func(t *testing.T, root string) { read(t, root+file) }, want: unseen},
		{name: "other names", act: func(t *testing.T, root string) {
			for _, name := range []string{"/pki/file2", "/pki/.file", "/pki/fil", "/pki/other", "/pki/FILE", "/file", "/pki2/file"} {
				write(t, root+name, "x", 0o600)
				must(t, os.Rename(root+name, root+name+".moved"))
				must(t, os.Remove(root+name+".moved"))
			}
			must(t, os.MkdirAll(root+"/pki/dir/file", 0o755))
			must(t, os.RemoveAll(root+"/pki/dir"))
		}, want: unseen},
		{name: "nothing there, and then all at once", prepare: func(*testing.T, string) {}, act: func(t *testing.T, root string) { write(t, root+file, "new", 0o600) }, want: seen},
		{
			name: "many directories that are not there", prepare: func(*testing.T, string) {}, watch: []string{"/a/b/c/d/file"}, want: []string{"/a/b/c/d/file"},
			act: func(t *testing.T, root string) { write(t, root+"/a/b/c/d/file", "new", 0o600) },
		},
		{name: "the directory is removed", act: func(t *testing.T, root string) { must(t, os.RemoveAll(root+"/pki")) }, want: seen},
		{name: "the directory is removed and made anew", act: func(t *testing.T, root string) {
			must(t, os.RemoveAll(root+"/pki"))
			write(t, root+file, "old", 0o600)
		}, want: seen},
		{name: "the directory is moved away", act: func(t *testing.T, root string) { must(t, os.Rename(root+"/pki", root+"/elsewhere")) }, want: seen},
		{name: "the directory is replaced", act: func(t *testing.T, root string) {
			write(t, root+"/next/file", "new", 0o600)
			must(t, os.Rename(root+"/pki", root+"/last"))
			must(t, os.Rename(root+"/next", root+"/pki"))
		}, want: seen},
		{name: "a file for the directory", act: func(t *testing.T, root string) {
			must(t, os.RemoveAll(root+"/pki"))
			write(t, root+"/pki", "x", 0o600)
		}, want: seen},
		{
			name: "a mounted Secret is updated", prepare: func(t *testing.T, root string) {
				volume(t, root, "..1", "old")
				link(t, "..1", root+"/volume/..data")
				link(t, "..data/file", root+"/volume/file")
			},
			act: func(t *testing.T, root string) {
				volume(t, root, "..2", "new")
				link(t, "..2", root+"/volume/..data_tmp")
				must(t, os.Rename(root+"/volume/..data_tmp", root+"/volume/..data"))
				must(t, os.RemoveAll(root+"/volume/..1"))
			},
			watch: []string{"/volume/file"}, want: []string{"/volume/file"}, where: "/volume/..2/file",
		},
		{
			name: "a mounted Secret is updated, and its old files stay", prepare: func(t *testing.T, root string) {
				volume(t, root, "..1", "same")
				volume(t, root, "..2", "same")
				link(t, "..1", root+"/volume/..data")
				link(t, "..data/file", root+"/volume/file")
			},
			act:   func(t *testing.T, root string) { must(t, swapLink(root+"/volume/..data", "..2")) },
			watch: []string{"/volume/file"}, want: []string{"/volume/file"}, where: "/volume/..2/file",
		},
		{
			name: "what a link leads to", prepare: func(t *testing.T, root string) {
				write(t, root+"/far/away/target", "old", 0o600)
				link(t, root+"/far/away/target", root+file)
			},
			act: func(t *testing.T, root string) { replace(t, root+"/far/away/target", "new") }, want: seen, where: "/far/away/target",
		},
		{
			name: "what a link leads to comes to be", prepare: func(t *testing.T, root string) { link(t, "../far/away/target", root+file) },
			act: func(t *testing.T, root string) { write(t, root+"/far/away/target", "new", 0o600) }, want: seen, where: "/far/away/target",
		},
		{
			name: "behind a link for a directory", prepare: func(t *testing.T, root string) {
				write(t, root+"/real/pki/file", "old", 0o600)
				link(t, "real/pki", root+"/pki")
			},
			act: func(t *testing.T, root string) { write(t, root+"/real/pki/file", "new", 0o600) }, want: seen, where: "/real/pki/file",
		},
		{
			name: "a link to itself is mended", prepare: func(t *testing.T, root string) { link(t, "file", root+file) },
			act: func(t *testing.T, root string) { replace(t, root+file, "new") }, want: seen,
		},
		{
			name: "one of two, and a third that is not there", prepare: func(t *testing.T, root string) {
				write(t, root+"/a/file", "old", 0o600)
				write(t, root+"/b/file", "old", 0o600)
			},
			act: func(t *testing.T, root string) { replace(t, root+"/b/file", "new") }, watch: []string{"/a/file", "/b/file", "/c/file"}, want: []string{"/b/file"},
		},
		{
			name: "two names of one file", prepare: func(t *testing.T, root string) {
				write(t, root+"/a/file", "old", 0o600)
				link(t, "a", root+"/b")
			},
			act: func(t *testing.T, root string) { replace(t, root+"/a/file", "new") }, watch: []string{"/b/file", "/a/file"}, want: []string{"/b/file", "/a/file"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			root, err := filepath.EvalSymlinks(t.TempDir())
			must(t, err)
			if test.prepare == nil {
				test.prepare = func(t *testing.T, root string) { write(t, root+file, "old", 0o600) }
			}
			test.prepare(t, root)
			if test.watch == nil {
				test.watch = []string{file}
			}
			below := func(paths []string) (full []string) {
				for _, path := range paths {
					full = append(full, root+path)
				}
				return full
			}
			var log logged
			w := newWatcher(t, &log, below(test.watch)...)
			runs(t, w)
			test.act(t, root)
			got := wantEvents(t, w, below(test.want)...)
			if slices.ContainsFunc(got, func(path string) bool { return !slices.Contains(below(test.want), path) }) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			wantSettled(t, w, len(test.want) == 0)
			last := test.watch[len(test.watch)-1]
			if test.where == "" {
				test.where = last
			}
			if info, err := os.Lstat(filepath.Dir(root + test.where)); err == nil && !info.IsDir() {
				must(t, os.Remove(filepath.Dir(root+test.where)))
			}
			write(t, root+test.where, "the end", 0o600)
			wantEvents(t, w, root+last)
			if got := log.messages(t); len(got) != 0 {
				t.Errorf("logged: %v", got)
			}
		})
	}
}

// wantSettled takes what is still delivered until nothing is, or checks that nothing is.
func wantSettled(tb testing.TB, w *Watcher, nothing bool) {
	tb.Helper()
	if nothing {
		wantNoEvent(tb, w)
		return
	}
	for {
		select {
		case <-w.Events():
		case <-time.After(10 * hush):
			return
		}
	}
}

// TestWatchStore: a commit is reported for each file that it changes, and only those.
func TestWatchStore(t *testing.T) {
	t.Parallel()
	store, root := newStore(t)
	var log logged
	w := newWatcher(t, &log, append(store.Watched(), aSlot(store).Watched()...)...)
	runs(t, w)
	for i := range 3 {
		commit(t, store, pairNo(t, i), testTime.Add(time.Duration(i)*time.Minute))
		for _, path := range wantEvents(t, w, store.Watched()...) {
			if i == 0 && !slices.Contains(store.Watched(), path) { // later it can be a word more about the slot
				t.Errorf("%s was delivered", path)
			}
		}
		must(t, aSlot(store).Commit(pairNo(t, i), testTime.Add(time.Duration(i)*time.Minute)))
		wantEvents(t, w, aSlot(store).Watched()...)
	}
	must(t, os.RemoveAll(root+"/var/lib/kubelet"))
	wantEvents(t, w, store.Client.Watched()...)
	if got := log.messages(t); len(got) != 0 {
		t.Errorf("logged: %v", got)
	}
}

// TestWatcherBatch: what changed while nobody received comes at once, each path once, in the order in which they were given.
func TestWatcherBatch(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var paths []string
	for _, name := range []string{"c", "a", "d", "b"} {
		paths = append(paths, filepath.Join(root, name))
	}
	var log logged
	w := newWatcher(t, &log, paths...)
	w.quiet, w.atMost = time.Hour, time.Hour // nothing but Refresh ends it
	runs(t, w)
	for _, name := range []string{"b", "a", "a", "c", "b"} {
		write(t, filepath.Join(root, name), name, 0o600)
	}
	w.Refresh()
	select {
	case got := <-w.Events():
		if diff := cmp.Diff([]string{paths[0], paths[1], paths[3]}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	case <-time.After(patience):
		t.Error("nothing was delivered")
	}
}

// TestWatcherBurst: a burst of changes is delivered not more often than the quiet time allows, whatever the machine does.
func TestWatcherBurst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	var log logged
	w := newWatcher(t, &log, path)
	w.quiet, w.atMost = 200*time.Millisecond, time.Hour
	runs(t, w)
	begin := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 100 {
			replace(t, path, fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
	}()
	batches := 0
	for writing := true; writing || batches == 0; {
		select {
		case <-w.Events():
			batches++
		case <-done:
			writing, done = false, nil
		case <-time.After(patience):
			t.Fatal("nothing was delivered")
		}
	}
	if most := int(time.Since(begin) / w.quiet); batches > most {
		t.Errorf("delivered %d times, want at most %d", batches, most)
	}
}

// TestWatcherNeverQuiet: changes that never end are delivered all the same, but not at once.
func TestWatcherNeverQuiet(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	var log logged
	w := newWatcher(t, &log, path)
	w.quiet, w.atMost = time.Hour, 200*time.Millisecond
	runs(t, w)
	begin := time.Now()
	for delivered := false; !delivered; {
		replace(t, path, "new")
		select {
		case <-w.Events():
			delivered = true
		case <-time.After(time.Millisecond):
		}
		if time.Since(begin) > patience {
			t.Fatal("nothing was delivered")
		}
	}
	if took := time.Since(begin); took < w.atMost {
		t.Errorf("delivered after %s", took)
	}
	if w, err := NewWatcher(nil, log.logger()); err != nil || w.quiet != watchQuiet || w.atMost != watchAtMost || w.Close() != nil {
		t.Errorf("got %+v, %v", w, err)
	}
}

// TestWatcherEarly: what changes between the making of a watcher and its run is delivered.
func TestWatcherEarly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "file")
	var log logged
	w := newWatcher(t, &log, path)
	write(t, path, "new", 0o600)
	runs(t, w)
	wantEvents(t, w, path)
}

// TestWatcherRefresh: what the kernel did not tell of is found when asked to look, and is watched again from there.
func TestWatcherRefresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "old", 0o600)
	var log logged
	w := newWatcher(t, &log, path)
	must(t, w.notify.Remove(dir)) // as the kernel does it when another file system is mounted
	replace(t, path, "new")
	runs(t, w)
	wantNoEvent(t, w)
	for range 10 {
		w.Refresh() // never waits
	}
	wantEvents(t, w, path)
	wantSettled(t, w, false)
	replace(t, path, "newer")
	wantEvents(t, w, path)
	quiet := newWatcher(t, &log, path)
	runs(t, quiet)
	quiet.Refresh()
	wantNoEvent(t, quiet) // nothing happened
}

// TestWatcherRefreshDirectory: a directory that is another, unseen, is watched when asked to look.
func TestWatcherRefreshDirectory(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	path := filepath.Join(top, "pki", "file")
	write(t, path, "old", 0o600)
	var log logged
	w := newWatcher(t, &log, path)
	must(t, w.notify.Remove(top))
	must(t, os.Rename(filepath.Join(top, "pki"), filepath.Join(top, "last")))
	write(t, path, "new", 0o600)
	runs(t, w)
	w.Refresh()
	wantEvents(t, w, path)
	wantSettled(t, w, false)
	replace(t, path, "newer")
	wantEvents(t, w, path)
}

// TestWatcherRelative: a path that depends on the directory is refused.
func TestWatcherRelative(t *testing.T) {
	var log logged
	for _, path := range []string{"file", "./file", "../file", ""} {
		if w, err := NewWatcher([]string{"/etc/hosts", path}, log.logger()); w != nil || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("cannot watch %q: the path is not absolute", path)) {
			t.Errorf("%q: %v", path, err)
		}
	}
}
