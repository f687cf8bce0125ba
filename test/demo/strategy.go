package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/test/strategy"
)

// runStrategy shows one way in.
func runStrategy(ctx context.Context, name, node string) error {
	if name == bundle {
		return runBundle(ctx, node)
	}
	s, err := strategy.Find(name)
	if err != nil {
		return fmt.Errorf("%w, %s", err, bundle)
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the OpenID Connect provider's
	title("%s: a control plane that is configured for it", s.Title)
	began := time.Now()
	bed, err := strategy.Start(ctx, strategy.Options{Strategies: []string{name}, Nodes: []string{node}})
	if err != nil {
		return err
	}
	defer func() { _ = bed.Stop() }() // its processes die with this one in any case
	cp := bed.ControlPlane(s)
	fmt.Printf("%s is ready after %.1f s. Of its API server's arguments, these are about this:\n", cp.URL, time.Since(began).Seconds())
	for _, argument := range bed.Arguments(s) {
		fmt.Println(" ", argument)
	}
	if err := explain(bed); err != nil {
		return err
	}

	title("What the joiner may do")
	fmt.Print(s.RBAC)

	title("What the machine has")
	m, credential, err := give(ctx, bed, s, node)
	if err != nil {
		return err
	}

	title("It joins")
	nodejoin, err := build(ctx, bed.Dir)
	if err != nil {
		return err
	}
	if err := show(ctx, nodejoin, "join", "--config", m.config); err != nil {
		return err
	}
	if s.Unbindable == "" {
		title("The same credential on another machine, for another name: the cluster does not approve it")
		if err := steal(ctx, nodejoin, cp.Endpoint, credential, m); err != nil {
			return err
		}
	}

	title("What the cluster has seen")
	if err := kubectl(ctx, cp, "get", "csr"); err != nil {
		return err
	}
	return lookAt(ctx, cp, m)
}

// explain prints the files that say who is who.
func explain(bed *strategy.Bed) error {
	for what, path := range map[string]string{
		"The file of --authentication-config": filepath.Join(bed.Dir, "authentication.yaml"),
		"The configuration of nginx":          filepath.Join(bed.Dir, "nginx", "nginx.conf"),
	} {
		text, err := os.ReadFile(path)
		switch {
		case err == nil:
			title(what)
			fmt.Print(string(text))
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	return nil
}

// give writes what a machine is given, and shows all but the secrets.
func give(ctx context.Context, bed *strategy.Bed, s strategy.Strategy, node string) (machine, *strategy.Credential, error) {
	m := machineAt(filepath.Join(bed.Dir, "machine"), node)
	credential, err := bed.Credential(ctx, s, strategy.Request{Node: node, Bound: s.Unbindable == ""})
	if err != nil {
		return m, nil, err
	}
	cp := bed.ControlPlane(s)
	credential.Files["/etc/kubernetes/pki/ca.crt"] = string(cp.ServingCA.PEM)
	config := configure(m, cp.Endpoint, credential)
	fmt.Printf("$ cat %s\n%s", m.config, config)
	for _, path := range slices.Sorted(maps.Keys(credential.Files)) {
		if path != configFile {
			fmt.Printf("%-30s %5d bytes\n", path, len(credential.Files[path]))
		}
	}
	return m, credential, credential.Write(m.root)
}

const configFile = "/etc/nodejoin/config.yaml"

// configuration says where everything is: this machine is a directory, and the kubelet on it takes paths as they are.
const configuration = `nodeName: $NODE
cluster:
  servers: [$SERVER]
credentials:
${CREDENTIAL}paths:
  kubeconfig: /etc/kubernetes/kubelet.conf
  certDir: /var/lib/kubelet/pki
  caFile: /etc/kubernetes/pki/ca.crt
  stateDir: /var/lib/nodejoin
  runtimeDir: /run/nodejoin
`

// configure adds the configuration to a machine's files, and returns it.
func configure(m machine, server string, c *strategy.Credential) string {
	values := map[string]string{"NODE": m.node, "SERVER": server, "CREDENTIAL": c.YAML}
	text := os.Expand(configuration, func(name string) string { return values[name] })
	text = strings.NewReplacer(" /etc/", " "+m.root+"/etc/", "[/etc/", "["+m.root+"/etc/", " /var/", " "+m.root+"/var/", " /run/", " "+m.root+"/run/").Replace(text)
	c.Files[configFile] = text
	return text
}

func machineAt(root, node string) machine {
	return machine{
		node: node, root: root, config: root + configFile,
		certDir: filepath.Join(root, "var/lib/kubelet/pki"), kubeconfig: filepath.Join(root, "etc/kubernetes/kubelet.conf"),
	}
}

// steal takes what a machine was given to another one, which asks for a name of its own, and is content when nobody
// approves that.
func steal(ctx context.Context, nodejoin, server string, credential *strategy.Credential, from machine) error {
	m := machineAt(from.root+"-of-another", "another")
	for path := range credential.Files { // as they are now: a refresh token is another after each use
		text, err := os.ReadFile(filepath.Join(from.root, path))
		if err != nil {
			return err
		}
		credential.Files[path] = string(text)
	}
	configure(m, server, credential)
	if err := credential.Write(m.root); err != nil {
		return err
	}
	return stolen(show(ctx, nodejoin, "join", "--config", m.config, "--timeout", "3s"))
}

// stolen is content with a join that nobody approved.
func stolen(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == notApproved {
		return nil
	}
	return fmt.Errorf("what a machine was given was used for another name, and the exit status is not %d: %w", notApproved, err)
}

// notApproved is the exit status of join when its time is over.
const notApproved = 6
