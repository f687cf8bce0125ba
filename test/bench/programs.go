package main

import (
	"os"
	"path/filepath"
	"strings"
)

// scenario is what a machine knows beforehand.
type scenario int

const (
	withDiscovery scenario = iota // a token and a pin
	caKnown                       // a token and the CA
)

// machine is where one run happens.
type machine struct {
	dir, node, server, token, pin, caFile string
}

func (m machine) kubeconfig() string { return filepath.Join(m.dir, "kubelet.conf") }

// program is one of the two that are compared.
type program struct {
	name, path string
	args       func(s scenario, m machine) []string
}

func nodejoin(path string) program {
	return program{name: "nodejoin", path: path, args: func(s scenario, m machine) []string {
		args := []string{
			"join", m.server, "--token", m.token, "--node-name", m.node, "--kubeconfig", m.kubeconfig(), "--cert-dir", filepath.Join(m.dir, "pki"),
			"--ca-file", filepath.Join(m.dir, "ca.crt"), "--state-dir", filepath.Join(m.dir, "state"),
		}
		if s == caKnown {
			return append(args, "--certificate-authority", m.caFile)
		}
		return append(args, "--discovery-token-ca-cert-hash", m.pin)
	}}
}

func reference(path string) program {
	return program{name: "reference", path: path, args: func(s scenario, m machine) []string {
		args := []string{
			"--server", m.server, "--token", m.token, "--node-name", m.node, "--kubeconfig", m.kubeconfig(), "--cert-dir", filepath.Join(m.dir, "pki"),
			"--bootstrap-kubeconfig", filepath.Join(m.dir, "bootstrap.conf"),
		}
		if s == caKnown {
			return append(args, "--ca-file", m.caFile)
		}
		return append(args, "--pin", m.pin)
	}}
}

// size returns the program's size in megabytes (10^6 bytes).
func (p program) size() float64 {
	info, err := os.Stat(p.path)
	if err != nil {
		return 0
	}
	return float64(info.Size()) / 1e6
}

func tokenID(token string) string {
	id, _, _ := strings.Cut(token, ".")
	return id
}
