package systemd

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// MayChange returns an error where this user cannot do that to the service of this machine.
func MayChange(verb string) error { return mayInstall(verb) }

// Executable returns the path of the running program, without links, as a service can run it: nobody but root can
// replace it.
func Executable() (string, error) {
	path, err := os.Executable()
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fault.New(fault.Files, "install it, and run what is installed", "this program's own file cannot be found: %w", err)
	}
	if err := checkExecutable(path); err != nil {
		return "", err
	}
	if temporary := filepath.Clean(os.TempDir()) + string(filepath.Separator); strings.HasPrefix(path, temporary) {
		return "", fault.New(fault.Usage, "install it first, and run what is installed", "the program is in the directory for temporary files: %s", path)
	}
	return path, nil
}
