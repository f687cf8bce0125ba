// Command demo shows a machine joining a real cluster: it starts a control plane, makes a bootstrap token, runs
// `nodejoin join`, looks at the request as an administrator would, and starts the real kubelet on the files that were
// written. Everything lives in a temporary directory and on loopback; nothing is left behind.
//
// With STRATEGY=NAME in the environment it shows another way in instead: what the API server is configured with, what the
// joiner may do, what the node has, and, where the credential is bound to one node's name, that it gets no other.
//
// With KEEP=1 in the environment it waits at the end, and prints how to use what is running.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodejoin/nodejoin/test/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	node := strings.ToLower(host)
	if name := os.Getenv("STRATEGY"); name != "" {
		return runStrategy(ctx, name, node)
	}

	title("A control plane: etcd, kube-apiserver, kube-controller-manager (%s)", "real ones, on loopback")
	began := time.Now()
	cp, err := testbed.Start(ctx, testbed.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = cp.Stop() }() // its processes die with this one in any case
	fmt.Printf("%s is ready after %.1f s\n", cp.URL, time.Since(began).Seconds())

	title("A bootstrap token, by kubeadm")
	line, err := cp.Kubeadm(ctx, "token", "create", "--print-join-command", "--kubeconfig", cp.Kubeconfig)
	if err != nil {
		return err
	}
	line = strings.TrimSpace(line)
	fmt.Println(line)

	title("The same line with its first word changed, on the machine that joins")
	root := filepath.Join(cp.Dir, "machine")
	args := append(strings.Fields(line)[1:], "--node-name", node, "--kubeconfig", filepath.Join(root, "kubelet.conf"),
		"--cert-dir", filepath.Join(root, "pki"), "--ca-file", filepath.Join(root, "ca.crt"), "--state-dir", filepath.Join(root, "nodejoin"))
	nodejoin, err := build(ctx, cp.Dir)
	if err != nil {
		return err
	}
	if err := show(ctx, nodejoin, args...); err != nil {
		return err
	}

	title("What the cluster has seen")
	if err := kubectl(ctx, cp, "get", "csr"); err != nil {
		return err
	}

	return lookAt(ctx, cp, machine{
		node: node, root: root, certDir: filepath.Join(root, "pki"), kubeconfig: filepath.Join(root, "kubelet.conf"),
	})
}

// build compiles nodejoin into a directory and returns its path.
func build(ctx context.Context, dir string) (string, error) {
	nodejoin := filepath.Join(dir, "nodejoin")
	build := exec.CommandContext(ctx, "go", "build", "-o", nodejoin, "./agent/cmd/nodejoin")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("cannot build nodejoin (run this at the top of its repository): %w", err)
	}
	return nodejoin, nil
}

// machine is one that has joined, and where its files are.
type machine struct{ node, root, config, certDir, kubeconfig string }

// lookAt shows what a machine got, and what a kubelet makes of it.
func lookAt(ctx context.Context, cp *testbed.ControlPlane, m machine) error {
	title("The certificate")
	if err := show(ctx, "openssl", "x509", "-in", filepath.Join(m.certDir, "kubelet-client-current.pem"), "-noout", "-subject", "-issuer", "-dates", "-ext", "extendedKeyUsage"); err != nil {
		fmt.Println("(openssl is not here to print it)")
	}
	if err := kubelet(ctx, cp, m); err != nil {
		return err
	}
	return keep(ctx, cp, m.root)
}

// kubelet starts the real kubelet on the files, where a container runtime lets it.
func kubelet(ctx context.Context, cp *testbed.ControlPlane, m machine) error {
	title("The real kubelet on these files")
	if err := testbed.HaveContainerd(); err != nil {
		fmt.Printf("left out: %v\n", err)
		return nil
	}
	containerd, err := testbed.StartContainerd(ctx, filepath.Join(cp.Dir, "containerd"))
	if err != nil {
		return err
	}
	defer func() { _ = containerd.Stop() }() // it dies with this process in any case
	kubelet, err := cp.Kubelet(ctx, testbed.KubeletOptions{
		NodeName: m.node, Kubeconfig: m.kubeconfig, CertDir: m.certDir,
		ContainerRuntimeEndpoint: containerd.Endpoint,
	})
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := cp.WaitNode(waiting, m.node); err != nil {
		return fmt.Errorf("%w; the kubelet's last words:\n%s", err, kubelet.Tail(20))
	}
	return kubectl(ctx, cp, "get", "nodes")
}

// keep holds everything until it is interrupted, if that was asked for.
func keep(ctx context.Context, cp *testbed.ControlPlane, root string) error {
	if os.Getenv("KEEP") == "" {
		return nil
	}
	title("It keeps running until you press Ctrl-C")
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\nkubectl get csr,nodes\nls -l %s\n", cp.Kubeconfig, filepath.Dir(cp.Program("kubectl")), root)
	<-ctx.Done()
	return nil
}

func kubectl(ctx context.Context, cp *testbed.ControlPlane, args ...string) error {
	fmt.Println("$ kubectl", strings.Join(args, " "))
	out, err := cp.Kubectl(ctx, args...)
	fmt.Print(out)
	return err
}

// show runs a program in sight of the reader.
func show(ctx context.Context, name string, args ...string) error {
	fmt.Println("$", filepath.Base(name), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func title(format string, args ...any) {
	fmt.Printf("\n== "+format+"\n", args...)
}
