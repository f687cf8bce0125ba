//go:build unix

package rotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate/pending"
)

// accessOf returns who may do what with a file that is there.
func accessOf(info fs.FileInfo) access {
	a := access{mode: info.Mode().Perm()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		a.owner = &Owner{UID: int(stat.Uid), GID: int(stat.Gid)}
	}
	return a
}

// isOf reports whether a file has this mode and this owner.
func (a access) isOf(info fs.FileInfo) bool {
	return info.Mode().Perm() == a.mode && a.owner.owns(info)
}

// checkRights refuses a directory that another user can change.
func checkRights(dir string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o022 != 0 {
		return fault.New(fault.Files, "chmod go-w "+dir+", after a look at what is in it", "the directory %s is writable by others (mode %#o)", dir, info.Mode().Perm())
	}
	if uid := int(ownerOf(info)); uid != 0 && uid != os.Geteuid() {
		return fault.New(fault.Files, "chown root "+dir+", after a look at what is in it", "the directory %s belongs to another user (uid %d)", dir, uid)
	}
	return nil
}

// copiesForLinks says whether what makeLink has made can be a copy.
const copiesForLinks = false

// makeLink makes a symbolic link.
func makeLink(target, path string) error { return os.Symlink(target, path) }

// ownerOf returns the user ID that owns a file.
func ownerOf(info fs.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return 0
}

// owns reports whether a file belongs to the user and the group, as far as they are given.
func (o *Owner) owns(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if o == nil || !ok {
		return true
	}
	return (o.UID < 0 || int(stat.Uid) == o.UID) && (o.GID < 0 || int(stat.Gid) == o.GID)
}

// giveAway gives a file to its owner, where that is another: the sandbox of the unit forbids the call, whatever it changes.
func giveAway(f *pending.File, owner *Owner) error {
	if owner == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil || owner.owns(info) {
		return err
	}
	return f.Chown(owner.UID, owner.GID)
}

// Lock keeps other agents off a store. The kernel gives it back when the process ends, however it ends.
type Lock struct{ dir *os.File }

// Lock takes the store's lock, which makes the state directory if it is missing. If another process holds it, the
// error has the class [fault.Held].
func (s *Store) Lock() (*Lock, error) {
	for {
		if err := s.makeDir(s.paths.StateDir, 0o700); err != nil {
			return nil, explain(err)
		}
		dir, err := os.Open(s.paths.StateDir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by Retreat of another process
		}
		if err != nil {
			return nil, explain(fmt.Errorf("cannot open the state directory: %w", err))
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			closed := dir.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fault.New(fault.Held, "see which: fuser -v "+s.paths.StateDir+"; wait for it or stop it (nodejoin service stop)", "another nodejoin is at work on this machine (it holds %s)", s.paths.StateDir)
			}
			return nil, errors.Join(fmt.Errorf("cannot lock the state directory: %w", err), closed)
		}
		if sameDir(dir, s.paths.StateDir) {
			return &Lock{dir}, nil
		}
		if err := dir.Close(); err != nil { // the lock of a directory that is gone keeps nobody off
			return nil, err
		}
	}
}

func sameDir(open *os.File, path string) bool {
	held, err := open.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(held, there)
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error { return l.dir.Close() }
