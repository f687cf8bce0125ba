package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs kubectl as the administrator and returns its standard output. The error holds its standard error.
func (cp *ControlPlane) Kubectl(ctx context.Context, args ...string) (string, error) {
	return cp.command(ctx, "", "kubectl", args)
}

// Kubeadm runs kubeadm as the administrator and returns its standard output. The error holds its standard error.
func (cp *ControlPlane) Kubeadm(ctx context.Context, args ...string) (string, error) {
	return cp.command(ctx, "", "kubeadm", args)
}

// Apply applies a YAML document, or several.
func (cp *ControlPlane) Apply(ctx context.Context, yaml string) error {
	_, err := cp.command(ctx, yaml, "kubectl", []string{"apply", "--filename=-"})
	return err
}

// Program returns the path of one of the programs that [Binaries] holds: "kubelet", "reference".
func (cp *ControlPlane) Program(name string) string { return filepath.Join(cp.binaries, name) }

func (cp *ControlPlane) command(ctx context.Context, input, program string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, cp.Program(program), args...)
	// HOME is where kubectl keeps its caches.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cp.Kubeconfig, "HOME="+cp.Dir)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := spawn(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "),
			errors.Join(ctx.Err(), err), strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
