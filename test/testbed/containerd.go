package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// Containerd is a containerd of a test's own: its root, its state and its socket are in one directory.
type Containerd struct {
	*Process
	Endpoint string // unix:///PATH, for KubeletOptions.ContainerRuntimeEndpoint
}

// socketPathMax is the longest path of a unix socket (sun_path less its terminating zero).
const socketPathMax = 107

// HaveContainerd returns nil when StartContainerd can work on this machine, else why it cannot.
func HaveContainerd() error {
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root")
	}
	for _, program := range []string{"containerd", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w; install the packages containerd and runc", err)
		}
	}
	return nil
}

// StartContainerd starts a containerd whose files are all in a directory, and waits until its socket answers. The caller
// stops it; like everything here, it does not outlive the test process.
func StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	if err := HaveContainerd(); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "containerd.sock")
	if len(socket) > socketPathMax {
		return nil, fmt.Errorf("start containerd: %s is longer than the %d bytes of a socket's path", socket, socketPathMax)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, containerdConfig(dir, socket), 0o644); err != nil {
		return nil, err
	}
	program, err := exec.LookPath("containerd")
	if err != nil {
		return nil, err
	}
	process := &Process{
		Name:          "containerd",
		Path:          program,
		Args:          []string{"--config=" + config},
		Log:           filepath.Join(dir, "containerd.log"),
		Ready:         func(ctx context.Context) error { return dial(ctx, socket) },
		PrivateMounts: true,
	}
	if err := process.Start(ctx); err != nil {
		return nil, err
	}
	return &Containerd{Process: process, Endpoint: "unix://" + socket}, nil
}

// containerdConfig keeps to what the kubelet's runtime service needs: snapshots are plain copies, which work on any file
// system, and nothing is read from the machine's own containerd or CNI directories.
func containerdConfig(dir, socket string) []byte {
	return fmt.Appendf(nil, `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = %[3]q

[plugins."io.containerd.grpc.v1.cri"]
  disable_cgroup = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[4]q
    conf_dir = %[5]q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, filepath.Join(dir, "cni-bin"), filepath.Join(dir, "cni"))
}

// dial reports whether something listens on a unix socket.
func dial(ctx context.Context, socket string) error {
	connection, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return connection.Close()
}
