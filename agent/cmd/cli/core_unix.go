//go:build unix

package cli

import "golang.org/x/sys/unix"

// forbidCoreFiles keeps keys and tokens in memory from being written to disk when the program crashes.
func forbidCoreFiles() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) // lowering a limit is always allowed
	forbidDumps()
}
