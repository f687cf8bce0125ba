// Command bench measures joining against the reference, side by side: nodejoin join, and kubeadm's discovery followed
// by the kubelet's LoadClientCert (test/controlplane/reference), in alternation, against one control plane, as whole
// processes. It prints medians and ratios; it is no test, since times depend on the machine.
//
// What counts ends when the identity is on disk: the kubeconfig, which both write last. nodejoin goes on after that
// to prove the identity over mTLS, which the reference does not do.
//
// Round trips are time divided by delay, over a proxy that adds 100 ms to each, the handshakes of TCP and TLS among
// them. Requests are counted in the API server's audit log, by user: its metrics do not tell one client's requests
// from another's.
//
// At last it watches the agent, and a real kubelet, while they have nothing to do: the most memory that is resident, and
// the processor time, of which a day's is extrapolated, with the day's looks at the cluster's CA bundle, one of which is
// measured by an agent that looks every second.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nodejoin/nodejoin/test/testbed"
	"github.com/nodejoin/nodejoin/test/testbed/proxy"
)

const delay = 100 * time.Millisecond

func main() {
	runs := flag.Int("runs", 25, "runs of each program on loopback")
	delayed := flag.Int("delayed-runs", 9, "runs of each program with 100 ms per round trip")
	idling := flag.Duration("idle", 3*time.Minute, "how long to watch a program that waits; 0 leaves that out")
	binary := flag.String("nodejoin", "bin/nodejoin", "the program to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *runs, *delayed, *idling); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, runs, delayed int, idling time.Duration) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	// The controller manager's client limits would otherwise be what is measured.
	cp, err := testbed.Start(ctx, testbed.Options{ControllerManagerArgs: []string{"--kube-api-qps=1000", "--kube-api-burst=2000"}})
	if err != nil {
		return err
	}
	defer func() { _ = cp.Stop() }()                     // its processes die with this one in any case
	wire, err := proxy.New(cp.Endpoint, proxy.Options{}) //nolint:contextcheck // it ends with Close
	if err != nil {
		return err
	}
	defer wire.Close()
	b := &bench{cp: cp, wire: wire, programs: [2]program{nodejoin(binary), reference(cp.Program("reference"))}}
	fmt.Fprintf(os.Stderr, "bench: %d runs of each program on loopback, %d with %s per round trip, with discovery and with the CA known\n", runs, delayed, delay)

	var results [2]result // by scenario
	for i, s := range []scenario{withDiscovery, caKnown} {
		if err := b.measure(ctx, s, runs, delayed, &results[i]); err != nil {
			return err
		}
	}
	waiting := &idle{}
	if idling > 0 {
		fmt.Fprintf(os.Stderr, "bench: the agent and the kubelet while they wait, %s each\n", idling)
		if waiting, err = b.idle(ctx, idling); err != nil {
			return err
		}
	}
	return report(os.Stdout, results[0], results[1], waiting, b.programs)
}
