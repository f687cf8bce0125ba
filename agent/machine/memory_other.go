//go:build !linux

package machine

import "runtime/debug"

// ReleaseMemory gives back to the system what this process does not need while it waits.
func ReleaseMemory() { debug.FreeOSMemory() }
