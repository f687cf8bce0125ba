// Command nodejoin makes a machine a Kubernetes node: it obtains the kubelet's client certificate and keeps it.
package main

import (
	"os"

	"github.com/nodejoin/nodejoin/agent/cmd/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
