//go:build !windows

package systemd

import "context"

// Run runs the program's loop as its service manager wants it. Here every one of them starts a process, and ends it by
// SIGTERM: there is nothing between it and the loop.
func Run(ctx context.Context, loop func(context.Context) error) error { return loop(ctx) }
