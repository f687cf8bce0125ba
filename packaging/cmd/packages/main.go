// Command packages makes what a release consists of: a deb and an rpm for each architecture of Linux, archives for Linux, macOS and
// Windows, a bill of materials for each program, and checksums. `make packages` runs it, in the root of the repository.
//
// # What it promises
//
// The same commit, version and Go give the same bytes, wherever the tree is and whenever that is: every time is that of the
// commit (SOURCE_DATE_EPOCH), the order is fixed, and no name of this machine gets in.
//
// # How it fails
//
// At the first error, with what the program said that failed. What is in the output directory by then is no release.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1) //nolint:forbidigo,gocritic // the main of a tool
	}
}
