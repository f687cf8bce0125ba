//go:build !windows

package systemd

import (
	"context"
	"io"
)

// Run runs the program's loop as its service manager wants it. Here every one of them starts a process, and ends it by
// SIGTERM: there is nothing between it and the loop.
func Run(ctx context.Context, loop func(context.Context) error) error { return loop(ctx) }

// isHosted reports whether Windows' service control manager has started this program.
func isHosted() bool { return false }

// Stderr returns where the program writes what it would write to standard error: there. Every service manager here has a place
// for it.
func Stderr(stderr io.Writer) io.Writer { return stderr }
