package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How long a change is held back for others that come with it: until nothing has come for a while, and never for long.
const (
	watchQuiet  = 100 * time.Millisecond
	watchAtMost = 500 * time.Millisecond
)

// Watcher says which of some files changed. It watches directories, so that files that are replaced, that do not exist
// yet, or whose directories do not exist yet are noticed as well: every directory from the root to the file, and those
// of every symbolic link on the way, so that a swapped link ("..data" of a mounted Secret) and a moved directory count.
//
// What is reported is that something happened: whoever receives it looks at the file, and may find it unchanged. A
// change of mode or owner alone is not reported, and changes of file systems over which the kernel says nothing (a
// network's, a mount that appears) are not seen: a look each minute ([LookAt], [Watcher.Refresh]) stands behind it.
//
// It sets no timer and uses no processor while nothing happens.
type Watcher struct {
	paths  []string // as given, absolute
	log    *slog.Logger
	notify *fsnotify.Watcher
	events chan []string
	again  chan struct{} // Refresh
	faults chan error    // of notify, the first of many
	done   chan struct{} // no more of them will come

	quiet, atMost time.Duration

	// Run's, and before that NewWatcher's.
	ground  survey
	watched map[string]inode // what notify was told to watch, and what it was
	refused map[string]bool  // directories that may not be watched, and of which that was said
	look    Look
	pending map[int]bool // changed, and held back
	ready   map[int]bool // to be received
}

// NewWatcher watches files from when it returns. The paths are absolute; they are reported as they are given. Call
// [Watcher.Run], or [Watcher.Close].
//
// An error says that there can be no watching, for example because a limit of the kernel's is reached. It carries no
// class: whoever gets it logs it, and goes on with a look each minute.
func NewWatcher(paths []string, log *slog.Logger) (*Watcher, error) {
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("cannot watch %q: the path is not absolute", path)
		}
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, watchError(err)
	}
	w := &Watcher{
		paths:   slices.Clone(paths),
		log:     log,
		notify:  notify,
		events:  make(chan []string),
		again:   make(chan struct{}, 1),
		faults:  make(chan error, 1),
		done:    make(chan struct{}),
		quiet:   watchQuiet,
		atMost:  watchAtMost,
		watched: map[string]inode{},
		refused: map[string]bool{},
		pending: map[int]bool{},
		ready:   map[int]bool{},
	}
	go w.takeFaults()
	if err := w.watch(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.look = LookAt(w.paths)
	return w, nil
}

// Events delivers those of the paths that changed, in the order in which they were given, soon after the last of a
// number of changes and at most half a second after the first. What changes while nobody receives is added to what is
// delivered next. The channel is never closed.
func (w *Watcher) Events() <-chan []string { return w.events }

// Refresh makes Run look whether it watches the right directories and whether it missed a change, which is then
// delivered. It does not wait. It is cheap enough to be called each minute.
func (w *Watcher) Refresh() {
	select {
	case w.again <- struct{}{}:
	default: // there is one to come
	}
}

// Close ends the watching of a Watcher whose Run was not called.
func (w *Watcher) Close() error {
	err := w.notify.Close()
	<-w.done
	return err
}

// takeFaults takes fsnotify's errors off it at any time: it holds its lock while it hands one over, so that whoever
// waits for that lock must not be the one to receive it.
func (w *Watcher) takeFaults() {
	defer close(w.done)
	for err := range w.notify.Errors {
		select {
		case w.faults <- err:
		default: // there is one to come, after which everything is looked at
		}
	}
}

// Run watches until the context ends, which is no error, or until watching is not possible any more, as with
// [NewWatcher]. In the end nothing is watched, and what was not delivered is not delivered any more.
func (w *Watcher) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, w.Close()) }()
	var (
		timer = time.NewTimer(0) // runs only while something is held back
		first time.Time          // of what is held back; zero if nothing is
	)
	defer timer.Stop()
	timer.Stop()
	hold := func() {
		if first.IsZero() {
			first = time.Now()
		}
		timer.Reset(max(0, min(w.quiet, w.atMost-time.Since(first))))
	}
	for {
		var out chan<- []string // nil, and so never ready, while there is nothing to deliver
		if len(w.ready) > 0 {
			out = w.events
		}
		select {
		case <-ctx.Done():
			return nil
		case out <- w.batch():
			clear(w.ready)
		case event, open := <-w.notify.Events:
			if !open {
				return errors.New("cannot watch files any more: the events ended")
			}
			if w.concerns(event) {
				hold()
			}
		case err := <-w.faults:
			if !w.survivable(err) {
				return watchError(err)
			}
			hold()
		case <-w.again:
			first = time.Time{}
			timer.Stop()
			if err := w.settle(); err != nil {
				return err
			}
		case <-timer.C:
			first = time.Time{}
			if err := w.settle(); err != nil {
				return err
			}
		}
	}
}

// batch returns the paths that are to be delivered.
func (w *Watcher) batch() []string {
	var batch []string
	for i, path := range w.paths {
		if w.ready[i] {
			batch = append(batch, path)
		}
	}
	return batch
}

// concerns reports whether something happened that can have changed a file, and holds on to which. A change of a file is
// one. A change on the way to it, such as of a link, is one if the file is another then, which settle looks at.
func (w *Watcher) concerns(event fsnotify.Event) bool {
	if event.Op&^fsnotify.Chmod == 0 {
		return false
	}
	path := filepath.Clean(event.Name) // below the root directory, fsnotify's names begin with two slashes
	marks := w.ground.steps[step{w.ground.dirs[filepath.Dir(path)], filepath.Base(path)}]
	if len(marks) == 0 {
		return false
	}
	for _, mark := range marks {
		if mark.last {
			w.pending[mark.path] = true
		}
	}
	// A directory of this name that came or went is another one, even if its number is the same. Its watch may have gone
	// with it, and fsnotify may not know yet.
	if _, is := w.watched[path]; is && event.Op&^(fsnotify.Chmod|fsnotify.Write) != 0 {
		w.unwatch(path)
	}
	return true
}

// survivable deals with an error of fsnotify's, if it can be: from here on nothing is sure, so that everything is
// watched anew and reported.
func (w *Watcher) survivable(err error) bool {
	switch {
	case errors.Is(err, fsnotify.ErrEventOverflow):
		w.log.Warn("file events were lost: looking at all files")
	case errors.Is(err, syscall.EINVAL): // fsnotify took away a watch that had gone with its directory
	default:
		return false
	}
	for dir := range w.watched {
		w.unwatch(dir)
	}
	for i := range w.paths {
		w.pending[i] = true
	}
	return true
}

// settle watches what is to be watched now, and only then moves what was held back to what is delivered: what happens
// from here on makes events of its own.
func (w *Watcher) settle() error {
	if err := w.watch(); err != nil {
		return err
	}
	now := LookAt(w.paths)
	for i := range w.paths {
		if w.pending[i] || w.look.files[i] != now.files[i] {
			w.ready[i] = true
		}
	}
	clear(w.pending)
	w.look = now
	return nil
}

// watch follows the paths, watches the directories on the way, and no others. While it does, what is on the way may
// change. Therefore it goes on until there is nothing left to do; were it never to be so, the directories that are
// watched already make the events that lead back here.
func (w *Watcher) watch() error {
	for range 10 {
		w.ground = newSurvey(w.paths)
		done, err := w.apply()
		if err != nil || done {
			return err
		}
	}
	return nil
}

// apply watches the directories of w.ground. It reports whether they were being watched already.
func (w *Watcher) apply() (done bool, err error) {
	// The kernel drops a watch by itself, with a directory or with a mount. A directory with two names has one watch.
	alive := map[inode]bool{}
	for _, dir := range w.notify.WatchList() {
		alive[w.watched[dir]] = true
	}
	done = true
	// What is not wanted goes first: fsnotify cannot hold one directory under two names, such as before and after a move.
	for dir, was := range w.watched {
		if is, wanted := w.ground.dirs[dir]; !wanted || is != was || !alive[was] {
			w.unwatch(dir)
			done = false
		}
	}
	for _, dir := range w.ground.order {
		if _, watched := w.watched[dir]; watched {
			continue
		}
		switch err := w.notify.Add(dir); {
		case err == nil:
			w.watched[dir] = w.ground.dirs[dir]
			done = false
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
			done = false // it went while we looked
		case errors.Is(err, fs.ErrPermission):
			if !w.refused[dir] {
				w.refused[dir] = true
				w.log.Warn("a directory cannot be watched: what changes there is found within a minute", "directory", dir, "err", err)
			}
		default:
			return false, watchError(err)
		}
	}
	return done, nil
}

func (w *Watcher) unwatch(dir string) {
	delete(w.watched, dir)
	// It fails where the kernel or fsnotify dropped the watch already. There is nothing else that it could be kept by.
	_ = w.notify.Remove(dir)
}

// watchError says which of the kernel's limits is in the way, if one is.
func watchError(err error) error {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("cannot watch files: too many inotify instances of this user (sysctl fs.inotify.max_user_instances), or open files of this process: %w", err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("cannot watch files: too many inotify watches of this user (sysctl fs.inotify.max_user_watches): %w", err)
	default:
		return fmt.Errorf("cannot watch files: %w", err)
	}
}

// survey is the ground between the root directory and some files.
type survey struct {
	dirs  map[string]inode // the directories on the way, under names without links
	order []string         // their names, each after its parent
	steps map[step][]mark  // the names in them that are followed
}

// step is a name in a directory, whatever the names of that.
type step struct {
	dir  inode
	name string
}

// mark says that a step is one of the way to a file.
type mark struct {
	path int  // its index
	last bool // it is the file, not a directory or a link that leads there
}

func newSurvey(paths []string) survey {
	s := survey{dirs: map[string]inode{}, steps: map[step][]mark{}}
	for i, path := range paths {
		s.follow(i, path)
	}
	return s
}

// follow goes the way to a file as far as there is one, as the kernel does it (path_resolution(7)).
func (s *survey) follow(i int, path string) {
	const maxLinks = 40
	dir, rest := s.enterRoot(path)
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir) // it has no links in it
			continue
		}
		here := filepath.Join(dir, name)
		kind, number, target := lstat(here)
		at := step{s.dirs[dir], name}
		s.steps[at] = append(s.steps[at], mark{path: i, last: kind != aLink && len(rest) == 0})
		switch kind {
		case aLink:
			links++
			way := strings.Split(filepath.FromSlash(target), string(filepath.Separator))
			if filepath.IsAbs(target) {
				dir, way = s.enterRoot(target)
			}
			rest = append(way, rest...)
		case aDirectory:
			if len(rest) > 0 {
				dir = s.enter(here, number)
			}
		default:
			return // the file, or nothing yet
		}
	}
}

// enterRoot enters the root directory of an absolute path, on Windows that of its drive, and returns the way from there.
func (s *survey) enterRoot(path string) (root string, way []string) {
	drive := filepath.VolumeName(path)
	root = drive + string(filepath.Separator)
	_, number, _ := lstat(root)
	return s.enter(root, number), strings.Split(filepath.FromSlash(path[len(drive):]), string(filepath.Separator))
}

func (s *survey) enter(dir string, number inode) string {
	if _, known := s.dirs[dir]; !known {
		s.order = append(s.order, dir)
	}
	s.dirs[dir] = number
	return dir
}
