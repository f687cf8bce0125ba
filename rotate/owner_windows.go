package rotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate/pending"
)

// accessOf returns who may do what with a file that holds a secret and is replaced: there are no modes here to keep.
func accessOf(fs.FileInfo) access { return access{mode: 0o600} }

// giveAway gives a file to its owner.
func giveAway(f *pending.File, owner *Owner) error {
	if owner == nil {
		return nil
	}
	return f.Chown(owner.UID, owner.GID)
}

// isOf is always true: the access control list that a file was made with is not looked at again.
func (a access) isOf(fs.FileInfo) bool { return true }

// checkRights refuses a directory that another user owns, who may then do with it as he likes. Its access control list is
// not looked at: what this program makes in it has one of its own.
func checkRights(dir string, _ fs.FileInfo) error {
	descriptor, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("cannot find out who owns %s: %w", dir, err)
	}
	owner, _, err := descriptor.Owner()
	if err != nil {
		return fmt.Errorf("cannot find out who owns %s: %w", dir, err)
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return fmt.Errorf("cannot find out who this user is: %w", err)
	}
	if !mayOwn(owner, user.User.Sid) {
		return fault.New(fault.Files, "take it over (takeown /a /f "+dir+"), after a look at what is in it", "the directory %s belongs to another user (%s)", dir, owner)
	}
	return nil
}

// trustedInstaller owns what came with Windows, such as the root of its drive.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// mayOwn reports whether a directory of this owner is safe for this user, as is one of the system or of the administrators.
func mayOwn(owner, user *windows.SID) bool {
	return owner.Equals(user) || owner.IsWellKnown(windows.WinLocalSystemSid) || owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) ||
		owner.String() == trustedInstaller
}

// copiesForLinks says whether what makeLink has made can be a copy.
const copiesForLinks = true

// makeLink makes a symbolic link. Where there can be none, for want of the right to make one (SeCreateSymbolicLinkPrivilege) or
// in a file system that has none, a copy stands in its place: a kubelet takes that, too (loadFile of client-go's
// util/certificate).
func makeLink(target, path string) error {
	_ = os.Symlink(target, path) // what counts is what there is now
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSymlink {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(path), target))
	if err != nil {
		return err
	}
	return writeFile(path, data, access{mode: 0o600})
}

// lockName is the file in the state directory that is open for as long as the store is locked. Therefore that directory,
// other than on Unix, stays when a join comes to nothing, and after a reset.
const lockName = "lock"

// Lock keeps other agents off a store. The kernel gives it back when the process ends, however it ends.
type Lock struct{ file windows.Handle }

// Lock takes the store's lock, which makes the state directory if it is missing. If another process holds it, the
// error has the class [fault.Held].
func (s *Store) Lock() (*Lock, error) {
	if err := s.makeDir(s.paths.StateDir, 0o700); err != nil {
		return nil, explain(err)
	}
	name, err := windows.UTF16PtrFromString(filepath.Join(s.paths.StateDir, lockName))
	if err != nil {
		return nil, explain(err)
	}
	// Shared with nobody, and gone with its last handle.
	file, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE|windows.DELETE, 0, nil,
		windows.OPEN_ALWAYS, windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_DELETE_ON_CLOSE, 0)
	switch {
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return nil, fault.New(fault.Held, "wait for it or stop it", "another nodejoin is at work on this machine (it holds %s)", s.paths.StateDir)
	case err != nil:
		return nil, explain(fmt.Errorf("cannot lock the state directory: %w", err))
	}
	return &Lock{file}, nil
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error { return windows.CloseHandle(l.file) }
