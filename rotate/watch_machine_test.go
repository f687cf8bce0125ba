//go:build linux

package rotate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/nodejoin/nodejoin/test/expect"
)

// TestWatcherAnywhere: whatever happens to the files, the directories and the links on three ways, each change that a look
// can tell of is delivered, without anybody asking for another look.
func TestWatcherAnywhere(t *testing.T) {
	t.Parallel()
	for name, top := range map[string]string{"in memory": tempDir(t), "on disk": t.TempDir()} { // where numbers of inodes are used again
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			watchAnywhere(t, top)
		})
	}
}

func watchAnywhere(t *testing.T, top string) {
	top, err := filepath.EvalSymlinks(top)
	must(t, err)
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(top, "tree") //nolint:usetesting // there are many in one test
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, dir := range []string{"a", "b", "c"} {
			paths = append(paths, filepath.Join(root, dir, "e", "f"))
		}
		levels := [][]string{{"a", "b", "c"}, {"a/e", "b/e", "c/e"}, {"a/e/f", "b/e/f", "c/e/f"}}
		w, err := NewWatcher(paths, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		w.quiet, w.atMost = hush, 10*hush
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		ended := false
		end := func() {
			if cancel(); !ended {
				ended = true
				if err := <-done; err != nil {
					t.Errorf("the watcher ended: %v", err)
				}
			}
		}
		defer end()
		look := LookAt(paths)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			for range rapid.IntRange(1, 3).Draw(t, "at once") {
				level := rapid.IntRange(0, 2).Draw(t, "level")
				name := rapid.SampledFrom(levels[level])
				befall(t, root, name.Draw(t, "at"), name.Draw(t, "other"), level < 2)
			}
			now := LookAt(paths)
			changed := look.Changed(now)
			if !receives(w, changed) {
				// What came and went before the watcher looked was no change to it.
				if end(); len(w.look.Changed(LookAt(paths))) != 0 {
					t.Fatalf("%q changed, and nothing was delivered", changed)
				}
				return
			}
			look = now
		}
	})
}

// befall does something to a file, a directory or a link. An error is of what is not possible now.
func befall(t *rapid.T, root, at, other string, isDir bool) {
	path, from := filepath.Join(root, at), filepath.Join(root, other)
	switch rapid.SampledFrom([]string{"make", "write", "replace", "remove", "move", "link", "swap"}).Draw(t, "do") {
	case "make":
		dir := path
		if !isDir {
			dir = filepath.Dir(path)
		}
		_ = os.MkdirAll(dir, 0o755)
	case "write":
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = os.WriteFile(path, []byte(other), 0o600)
	case "replace":
		_ = os.WriteFile(path+".new", []byte(other), 0o600)
		_ = os.Rename(path+".new", path)
	case "remove":
		_ = os.RemoveAll(path)
	case "move":
		if at != other {
			_ = os.RemoveAll(path)
			_ = os.Rename(from, path)
		}
	case "link":
		_ = os.RemoveAll(path)
		_ = os.Symlink(from, path)
	case "swap":
		_ = os.Symlink(strings.Repeat("../", strings.Count(at, "/"))+other, path+".link")
		_ = os.Rename(path+".link", path)
	}
}

// TestWatcherHasty: a file in directories that come to be, one in the other, while they are being looked for is found, by
// whoever reads it at each event. Nothing is held back here, so that the looking and the making are at the same time.
func TestWatcherHasty(t *testing.T) {
	t.Parallel()
	root := tempDir(t)
	path := filepath.Join(root, "a", "b", "c", "d", "file")
	w := newWatcher(t, new(logged), path)
	w.quiet, w.atMost = 0, 0
	runs(t, w)
	for round := range 300 {
		want := fmt.Sprint(round)
		must(t, os.RemoveAll(filepath.Join(root, "a")))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		replace(t, path, want)
		for found := false; !found; {
			select {
			case <-w.Events():
				content, err := os.ReadFile(path)
				found = err == nil && string(content) == want
			case <-time.After(patience):
				t.Fatalf("round %d: the file was not seen", round)
			}
		}
	}
}

// TestWatcherMount: another file system at a directory is found when asked to look, and is watched from there; the kernel
// tells of neither its coming nor its going.
func TestWatcherMount(t *testing.T) {
	expect.Root(t)
	dir := filepath.Join(t.TempDir(), "pki")
	path := filepath.Join(dir, "file")
	write(t, path, "below", 0o600)
	w := newWatcher(t, new(logged), path)
	runs(t, w)
	expect.Able(t, "a mount", unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // done already, if all went well
	w.Refresh()
	wantEvents(t, w, path)
	wantSettled(t, w, false)
	replace(t, path, "above")
	wantEvents(t, w, path)
	wantSettled(t, w, false)
	must(t, unix.Unmount(dir, 0))
	w.Refresh()
	wantEvents(t, w, path)
	wantSettled(t, w, false)
	replace(t, path, "below again")
	wantEvents(t, w, path)
}

// TestWatcherOverflow: when the kernel loses events, all files are reported, and the watching goes on.
func TestWatcherOverflow(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	busy, still := filepath.Join(root, "busy", "file"), filepath.Join(root, "still", "file")
	write(t, busy, "", 0o600)
	write(t, still, "", 0o600)
	var log logged
	w := newWatcher(t, &log, still, busy)
	var most int
	if _, err := fmt.Sscan(read(t, "/proc/sys/fs/inotify/max_queued_events"), &most); err != nil || most > 1<<20 {
		t.Skipf("%d events are queued, %v", most, err)
	}
	for range most { // more events than that, and no two in a row are the same
		must(t, os.Rename(busy, busy+"2"))
		must(t, os.Rename(busy+"2", busy))
	}
	runs(t, w)
	wantEvents(t, w, still)
	if !log.says(t, "file events were lost: looking at all files") {
		t.Errorf("logged: %v", log.messages(t))
	}
	wantSettled(t, w, false)
	for _, path := range []string{still, busy} {
		replace(t, path, "new")
		wantEvents(t, w, path)
	}
}

// TestWatcherRefused: a directory that may not be watched is said once, and is watched when it may be.
func TestWatcherRefused(t *testing.T) {
	root := t.TempDir()
	for dir := root; dir != "/"; dir = filepath.Dir(dir) { // the way there is free
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o005 != 0o005 && strings.HasPrefix(dir, os.TempDir()+"/") {
			must(t, os.Chmod(dir, 0o755))
		}
	}
	open, shut := filepath.Join(root, "open", "file"), filepath.Join(root, "shut", "file")
	write(t, open, "", 0o600)
	write(t, shut, "", 0o600)
	must(t, os.Chmod(filepath.Dir(shut), 0o711))
	var log logged
	var w *Watcher
	asNobody(t, func() {
		w = newWatcher(t, &log, open, shut)
		must(t, w.settle())
	})
	messages := log.messages(t)
	if len(messages) != 1 || messages[0]["level"] != "WARN" || messages[0]["msg"] != "a directory cannot be watched: what changes there is found within a minute" || messages[0]["directory"] != filepath.Dir(shut) {
		t.Errorf("logged: %v", messages)
	}
	replace(t, shut, "new")
	runs(t, w) // with all rights
	wantNoEvent(t, w)
	replace(t, open, "new")
	wantEvents(t, w, open, shut) // a look at everything comes with it
	wantSettled(t, w, false)
	replace(t, shut, "newer")
	wantEvents(t, w, shut)
}

// inotifies returns how many inotify instances this process has.
func inotifies() (n int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.Contains(target, "inotify") {
			n++
		}
	}
	return n, err
}

// TestWatcherEnds: whatever it was doing, in the end no goroutine and no file is left. It does not run in parallel: both
// are counted.
func TestWatcherEnds(t *testing.T) {
	files, err := inotifies()
	must(t, err)
	before := goleak.IgnoreCurrent()
	path := filepath.Join(t.TempDir(), "file")
	for _, test := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"closed at once", func(t *testing.T) {
			for range 100 {
				w := newWatcher(t, new(logged), path)
				must(t, w.Close())
				select {
				case <-w.done:
				default:
					t.Fatal("there is still one at work")
				}
			}
		}},
		{"closed with events that nobody took", func(t *testing.T) {
			w := newWatcher(t, new(logged), path)
			for range 100 {
				replace(t, path, "new")
			}
			must(t, w.Close())
		}},
		{"run and ended", func(t *testing.T) { runs(t, newWatcher(t, new(logged), path))() }},
		{"ended before it ran", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := newWatcher(t, new(logged), path).Run(ctx); err != nil {
				t.Error(err)
			}
		}},
		{"ended with something held back", func(t *testing.T) {
			w := newWatcher(t, new(logged), path)
			w.quiet, w.atMost = patience, patience
			stop := runs(t, w)
			replace(t, path, "new")
			stop()
		}},
		{"ended with something to deliver", func(t *testing.T) {
			w := newWatcher(t, new(logged), path)
			stop := runs(t, w)
			replace(t, path, "new")
			w.Refresh()
			wantEvents(t, w, path)
			replace(t, path, "newer")
			w.Refresh()
			stop()
			select {
			case batch := <-w.Events():
				t.Errorf("%q was delivered after the end", batch)
			default:
			}
		}},
		{"closed from under it", func(t *testing.T) {
			w := newWatcher(t, new(logged), path)
			must(t, w.notify.Close())
			if err := w.Run(t.Context()); err == nil || err.Error() != "cannot watch files any more: the events ended" {
				t.Errorf("got %v", err)
			}
		}},
		{"refused", func(t *testing.T) {
			if _, err := NewWatcher([]string{"file"}, new(logged).logger()); err == nil {
				t.Error("no error")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.do(t)
			goleak.VerifyNone(t, before)
			if n, err := inotifies(); n != files || err != nil {
				t.Errorf("%d inotify instances, and %d before, %v", n, files, err)
			}
		})
	}
}

func init() {
	// A child that watches a file, and puts out why it cannot.
	children["watch"] = func() error {
		w, err := NewWatcher([]string{"/etc/hosts"}, slog.New(slog.DiscardHandler))
		if err == nil {
			return errors.Join(errors.New("it can be watched"), w.Close())
		}
		fmt.Println(err)
		if n, err := inotifies(); n != 0 || err != nil {
			return fmt.Errorf("%d inotify instances are left, %w", n, err)
		}
		return nil
	}
}

// TestWatcherLimits: when a limit of the kernel's is reached, the error names it. The child has limits of its own.
func TestWatcherLimits(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{
		"user.max_inotify_instances": "cannot watch files: too many inotify instances of this user (sysctl fs.inotify.max_user_instances), or open files of this process: ",
		"user.max_inotify_watches":   "cannot watch files: too many inotify watches of this user (sysctl fs.inotify.max_user_watches): ",
	} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, "watch", t.TempDir(), "sh", "-c", `echo 0 >"/proc/sys/$0" && exec "$@"`, strings.ReplaceAll(limit, ".", "/"))
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}
			output, err := cmd.CombinedOutput()
			if err != nil && !strings.Contains(string(output), "cannot watch") {
				expect.Able(t, "a user namespace", fmt.Errorf("%w: %s", err, output))
			}
			if err != nil || !strings.HasPrefix(string(output), want) {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
}
