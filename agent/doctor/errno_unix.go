//go:build unix

package doctor

import "syscall"

// What a connection fails with.
const (
	errRefused   = syscall.ECONNREFUSED
	errNoNetwork = syscall.ENETUNREACH
	errNoHost    = syscall.EHOSTUNREACH
)
