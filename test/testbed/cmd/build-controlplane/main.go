// Command build-controlplane builds the programs of the test bed, unless they are built already, and prints the
// directory that holds them. See [testbed.Binaries] for where they come from.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodejoin/nodejoin/test/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := testbed.Binaries(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build-controlplane:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
