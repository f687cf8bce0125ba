package rotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate/pending"
)

// access is who may do what with a file.
type access struct {
	mode  fs.FileMode
	owner *Owner // nil: this process's
}

// writeFile puts data under path, durably: what is read there after a crash is the old content or the new, whole.
func writeFile(path string, data []byte, a access) error {
	f, err := stageFile(path, data, a)
	if err != nil {
		return err
	}
	return errors.Join(place(f, path), discard(f))
}

// ReplaceSecret replaces the content of a file that holds a secret, durably: what is read there after a crash is the old
// or the new, whole. Where path is a symbolic link, what it leads to is replaced. Owner and mode stay.
func ReplaceSecret(path string, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("cannot replace a secret: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("cannot replace a secret: %w", err)
	}
	return writeFile(path, data, accessOf(info))
}

// stageFile makes data durable under a temporary name beside path, with its final mode before anything is written.
// Temporary files that an earlier crash left are removed. place puts the file under path, discard lets go of it.
func stageFile(path string, data []byte, a access) (*pending.File, error) {
	f, err := newStaged(path, a.mode)
	if err != nil {
		return nil, err
	}
	if err := giveAway(f, a.owner); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot give %s to its owner: %w", path, err), discard(f))
	}
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write %s: %w", path, err), discard(f))
	}
	if err := f.Sync(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write %s: %w", path, err), discard(f))
	}
	return f, nil
}

// staging are the temporary files of this process, which sweep leaves alone: one may wait for its certificate while
// another is written for the same path.
var staging = struct {
	sync.Mutex
	names map[string]bool
}{names: map[string]bool{}}

// newStaged makes an empty temporary file for path, and removes those that a crash left.
func newStaged(path string, mode fs.FileMode) (*pending.File, error) {
	dir := filepath.Dir(path)
	if err := sweep(dir, regexp.QuoteMeta(filepath.Base(path))); err != nil {
		return nil, err
	}
	staging.Lock()
	defer staging.Unlock()
	f, err := pending.New(path, mode)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	staging.names[f.Name()] = true
	return f, nil
}

// place renames a staged file to path, durably.
func place(f *pending.File, path string) error {
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// discard removes a staged file. After place it does nothing.
func discard(f *pending.File) error {
	defer func() {
		staging.Lock()
		defer staging.Unlock()
		delete(staging.names, f.Name())
	}()
	if err := f.Cleanup(); err != nil {
		return fmt.Errorf("cannot remove a temporary file: %w", err)
	}
	return nil
}

// swapLink makes the symbolic link path point to target, by rename: at no instant is there no link.
func swapLink(path, target string) error {
	staged := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"0")
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove a leftover: %w", err)
	}
	if err := makeLink(target, staged); err != nil {
		return fmt.Errorf("cannot make a link for %s: %w", path, err)
	}
	if err := pending.Rename(staged, path); err != nil {
		return fmt.Errorf("cannot replace %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error { return pending.SyncDir(dir) }

// explain gives an error of the file system its class: a person must act where trying again cannot help. What may pass,
// such as a full disk, stays as it is.
func explain(err error) error {
	for _, hopeless := range []error{fs.ErrPermission, fs.ErrExist, syscall.EROFS, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG} {
		if errors.Is(err, hopeless) && !fault.IsFinal(err) {
			return fault.New(fault.Files, remedyFor(err), "%w", err)
		}
	}
	return err
}

// remedyFor says what to do about what the file system refuses. In the service it is the sandbox of the unit that does, most
// likely: systemd says where the service's runtime directory is to nobody else.
func remedyFor(err error) string {
	path, known := errors.AsType[*fs.PathError](err)
	if known && filepath.Base(os.Getenv("RUNTIME_DIRECTORY")) == "nodejoin" {
		switch {
		case errors.Is(err, syscall.EROFS) && path.Op == "mkdir": // a directory that is not there cannot be made writable
			return fmt.Sprintf("mkdir -p %s; and let the service write there: systemctl edit nodejoin, with the lines \"[Service]\" and \"ReadWritePaths=%[1]s\"; then: systemctl restart nodejoin", path.Path)
		case errors.Is(err, syscall.EROFS):
			return fmt.Sprintf("let the service write there: systemctl edit nodejoin, with the lines \"[Service]\" and \"ReadWritePaths=%s\"; then: systemctl restart nodejoin", filepath.Dir(path.Path))
		case errors.Is(err, syscall.EACCES):
			return fmt.Sprintf("the service is root without its privileges, sees nothing of /root and /home, and may read and write what belongs to root: move it to /etc/nodejoin, or: chown root %s", fault.Word(path.Path))
		case strings.HasSuffix(path.Op, "chown"):
			return "let the service give files away: put the example owner.conf (/usr/share/doc/nodejoin/examples/systemd) into /etc/systemd/system/nodejoin.service.d; then: systemctl daemon-reload; systemctl restart nodejoin"
		}
	}
	return "run as root, and check the path's owner and mode and that its file system is writable"
}

// sweep removes the temporary files that a crash left for a file whose name matches pattern.
func sweep(dir, pattern string) error {
	staging.Lock()
	defer staging.Unlock()
	found, err := leftovers(dir, pattern)
	if err != nil {
		return fmt.Errorf("cannot read the directory: %w", err)
	}
	for _, path := range found {
		if staging.names[path] {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a leftover: %w", err)
		}
	}
	return nil
}

// leftovers returns the temporary files in a directory for a file whose name matches pattern: package pending and swapLink name
// them "." + name + digits.
func leftovers(dir, pattern string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	temporary := regexp.MustCompile(`^\.` + pattern + `\d+$`)
	var found []string
	for _, entry := range entries {
		if temporary.MatchString(entry.Name()) && !entry.IsDir() {
			found = append(found, filepath.Join(dir, entry.Name()))
		}
	}
	return found, nil
}

// removeFile removes a file, durably. That it is not there is fine.
func removeFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// removeDir removes a directory if nothing is in it, durably, and reports whether it did. A link to one stays.
func removeDir(path string) bool {
	return syscall.Rmdir(path) == nil && syncDir(filepath.Dir(path)) == nil
}

// missingDirs returns those of a directory and its parents that are not there, outermost first.
func missingDirs(dir string) []string {
	if !isMissing(dir) {
		return nil
	}
	return append(missingDirs(filepath.Dir(dir)), dir)
}

// makeDir makes a directory and its parents, makes their names durable, and returns those that it made, outermost
// first. One that is there must be safe.
func makeDir(dir string, mode fs.FileMode) (made []string, err error) {
	if _, err := os.Stat(dir); err == nil {
		return nil, checkDir(dir)
	}
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if made, err = makeDir(parent, 0o755); err != nil {
			return made, err
		}
	}
	err = pending.Mkdir(dir, mode)
	switch {
	case err == nil:
		made = append(made, dir)
		// Whatever the umask. Another process's Retreat may have removed it again.
		if err := os.Chmod(dir, mode); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return made, fmt.Errorf("cannot make the directory: %w", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return made, fmt.Errorf("cannot make the directory: %w", err)
	}
	if err := syncDir(parent); err != nil {
		return made, err
	}
	return made, checkDir(dir)
}

// checkDir refuses a directory that another user can change.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if link, err := os.Lstat(dir); err == nil && link.Mode()&fs.ModeSymlink != 0 {
			return fault.New(fault.Files, "make the directory that it leads to, or rm "+dir, "%s is a link that leads nowhere", dir)
		}
		return nil
	case err != nil:
		return fault.New(fault.Files, "run as root, or give a directory that this user can reach", "cannot look at the directory: %w", err)
	case !info.IsDir():
		return fault.New(fault.Files, "move it out of the way", "%s is not a directory", dir)
	}
	return checkRights(dir, info)
}
