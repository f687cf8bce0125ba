//go:build unix

package bootstrap

import (
	"io/fs"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// checkSecrecy refuses a file with a secret that every user of this machine can read or write.
func checkSecrecy(path string, mode fs.FileMode) error {
	if mode.Perm()&0o007 != 0 {
		return fault.New(fault.Usage, "chmod 0600 "+path+", and consider what is in it known: make another",
			"the file %s holds a secret and is open to every user of this machine (mode %#o)", path, mode.Perm())
	}
	return nil
}
