//go:build !windows

package systemd

// newNative returns nil: what kardianos/service does is enough, or this package does it all.
func newNative() native { return nil }
