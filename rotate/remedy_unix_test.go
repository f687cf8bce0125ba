//go:build unix

package rotate

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// What the sandbox of the unit refuses is told as that, with the line that changes it.
func TestRemedyUnderSystemd(t *testing.T) {
	readOnly := fmt.Errorf("cannot write: %w", &fs.PathError{Op: "open", Path: "/etc/my-service/.tls.crt1", Err: syscall.EROFS})
	chown := fmt.Errorf("cannot give: %w", &fs.PathError{Op: "chown", Path: "/etc/my-service/.tls.crt1", Err: syscall.EPERM})
	for _, test := range []struct {
		name, runtime string
		err           error
		want          string
	}{
		{"read-only", "/run/nodejoin", readOnly, `"ReadWritePaths=/etc/my-service"; then: systemctl restart nodejoin`},
		{"a directory that is missing", "/run/nodejoin", &fs.PathError{Op: "mkdir", Path: "/etc/my-service", Err: syscall.EROFS}, `mkdir -p /etc/my-service; and let the service write there: systemctl edit nodejoin, with the lines "[Service]" and "ReadWritePaths=/etc/my-service"`},
		{"an owner", "/run/nodejoin", chown, "owner.conf"},
		{"read-only, and not a service", "", readOnly, "its file system is writable"},
		{"an owner, and not a service", "", chown, "run as root"},
		{"of another user", "/run/nodejoin", &fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, "chown root /x"},
		{"something else", "/run/nodejoin", &fs.PathError{Op: "open", Path: "/x", Err: syscall.EISDIR}, "run as root"},
		{"read-only, in another service", "/run/other", readOnly, "its file system is writable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("RUNTIME_DIRECTORY", test.runtime)
			err := explain(test.err)
			if fault.ClassOf(err) != fault.Files || !strings.Contains(fault.Remedy(err), test.want) {
				t.Errorf("the remedy of %v is %q", err, fault.Remedy(err))
			}
		})
	}
}
