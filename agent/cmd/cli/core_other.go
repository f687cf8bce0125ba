//go:build unix && !linux

package cli

// forbidDumps has nothing to do: the limit of core files is all that there is.
func forbidDumps() {}
