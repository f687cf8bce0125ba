package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// kubeletUnit is the kubelet's unit as an image has it that knows nothing of nodejoin.
const kubeletUnit = `[Unit]
Description=kubelet
Wants=network-online.target
After=network-online.target containerd.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf --v=2
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
`

// kubeletConfig lets the kubelet run in a machine that is a container: it has neither cgroups nor a network for Pods.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
rotateCertificates: $ROTATES
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
featureGates: {KubeletInUserNamespace: true}
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
`

// containerdConfig has snapshots that are plain copies: an overlay cannot be mounted on another.
const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  disable_cgroup = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`

// kubelet says how an image has its kubelet.
type kubelet struct {
	enabled bool // the boot starts it
	rotates bool // it rotates its client certificate by itself
}

// addKubelet puts a real kubelet into a machine that is off.
func (m *machine) addKubelet(cp *testbed.ControlPlane, k kubelet) error {
	program, err := filepath.EvalSymlinks(cp.Program("kubelet"))
	if err != nil {
		return err
	}
	m.binds = append(m.binds, program+":/usr/bin/kubelet")
	if k.enabled {
		wants := filepath.Join(m.root, "/etc/systemd/system/multi-user.target.wants")
		err := errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("/etc/systemd/system/kubelet.service", filepath.Join(wants, "kubelet.service")))
		if err != nil {
			return err
		}
	}
	return errors.Join(
		m.write("/etc/systemd/system/kubelet.service", kubeletUnit, 0o644),
		m.write("/var/lib/kubelet/config.yaml", strings.Replace(kubeletConfig, "$ROTATES", strconv.FormatBool(k.rotates), 1), 0o644),
		m.write("/etc/containerd/config.toml", containerdConfig, 0o644),
		m.write("/usr/bin/kubelet", "", 0o755), // to mount the program on
	)
}

// registered waits until the kubelet of a machine has registered its Node.
func (c *cluster) registered(ctx context.Context, m *machine) (string, error) {
	node, err := c.WaitNode(ctx, m.name)
	if err != nil {
		return "", err
	}
	info := node.Status.NodeInfo
	return "node " + node.Name + ": kubelet " + info.KubeletVersion + ", " + info.OSImage + ", " + info.ContainerRuntimeVersion, nil
}
