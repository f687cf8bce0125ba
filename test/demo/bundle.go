package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// bundle is the way in that needs nothing but a stock control plane.
const bundle = "bundle"

// runBundle shows a bundle, which makes a machine one node and no other.
func runBundle(ctx context.Context, node string) error {
	title("A control plane as kubeadm makes it: nothing is configured for this")
	cp, err := testbed.Start(ctx, testbed.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = cp.Stop() }() // its processes die with this one in any case
	nodejoin, err := build(ctx, cp.Dir)
	if err != nil {
		return err
	}

	title("What the joiner may do")
	manifests, err := exec.CommandContext(ctx, nodejoin, "manifests", "--name-bound").Output()
	if err != nil {
		return fmt.Errorf("nodejoin manifests: %w", err)
	}
	fmt.Printf("$ nodejoin manifests --name-bound | kubectl apply -f -\n%s", manifests)
	if err := cp.Apply(ctx, string(manifests)); err != nil {
		return err
	}

	title("An administrator makes a bundle")
	file := filepath.Join(cp.Dir, "bundle.conf")
	if err := show(ctx, nodejoin, "bundle", node, "--kubeconfig", cp.Kubeconfig, "--out", file); err != nil {
		return err
	}

	title("The machine joins with it")
	join := func(m machine, more ...string) error {
		return show(ctx, nodejoin, append([]string{
			"join", "--bundle", file, "--kubeconfig", m.kubeconfig, "--cert-dir", m.certDir,
			"--ca-file", filepath.Join(m.root, "ca.crt"), "--state-dir", filepath.Join(m.root, "nodejoin"),
		}, more...)...)
	}
	m := machineAt(filepath.Join(cp.Dir, "machine"), node)
	if err := join(m); err != nil {
		return err
	}

	title("The same bundle on another machine, for another name: the cluster does not approve it")
	other := machineAt(m.root+"-of-another", "another")
	if err := stolen(join(other, "--node-name", other.node, "--timeout", "3s")); err != nil {
		return err
	}

	title("What the cluster has seen")
	if err := kubectl(ctx, cp, "get", "csr"); err != nil {
		return err
	}
	return lookAt(ctx, cp, m)
}
