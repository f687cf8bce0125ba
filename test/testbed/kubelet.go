package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/test/internal/port"
)

// KubeletOptions are what a kubelet runs on.
type KubeletOptions struct {
	// Dir holds its configuration, its root directory and its log. Empty: one in the control plane's, named for the node.
	Dir      string
	NodeName string
	// Kubeconfig is the kubelet's --kubeconfig. Empty: one that the control plane's CA issues for the node, in Dir.
	Kubeconfig string
	// BootstrapKubeconfig is the kubelet's --bootstrap-kubeconfig. Empty: none.
	BootstrapKubeconfig string
	// CertDir is the kubelet's --cert-dir. Empty: pki in Dir.
	CertDir string
	// Rotate is rotateCertificates: the kubelet replaces its own client certificate.
	Rotate bool
	// TLSCertFile and TLSPrivateKeyFile are the kubelet's serving certificate. Empty: one that it makes in CertDir.
	TLSCertFile, TLSPrivateKeyFile string
	// ContainerRuntimeEndpoint is the socket of a container runtime, unix:///PATH; see StartContainerd.
	ContainerRuntimeEndpoint string
	// Config holds fields of the kubelet's configuration; each takes the place of what this package sets.
	Config map[string]any
	// Args are further arguments.
	Args []string
}

// Kubelet starts a real kubelet. It is returned as soon as its process has started; WaitNode waits until it has
// registered its Node. The control plane's Stop ends it too.
//
// It runs no Pods: it is set up to be content on a machine that is not its own (a build machine, a container), with
// neither cgroups nor a network for Pods. It needs root, and as every kubelet does it sets a few sysctls of the machine
// (vm.overcommit_memory, kernel.panic, kernel.panic_on_oops, kernel.keys.*) and uses /var/lib/kubelet/device-plugins.
func (cp *ControlPlane) Kubelet(ctx context.Context, options KubeletOptions) (*Process, error) {
	if options.Dir == "" {
		options.Dir = cp.path("kubelet-" + options.NodeName)
	}
	if options.CertDir == "" {
		options.CertDir = filepath.Join(options.Dir, "pki")
	}
	if err := os.MkdirAll(options.Dir, 0o755); err != nil {
		return nil, err
	}
	if options.Kubeconfig == "" {
		options.Kubeconfig = filepath.Join(options.Dir, "kubelet.conf")
		node := Certificate{CommonName: "system:node:" + options.NodeName, Organization: []string{"system:nodes"}}
		if err := cp.WriteKubeconfig(options.Kubeconfig, node); err != nil {
			return nil, err
		}
	}
	config, err := cp.kubeletConfig(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("configure the kubelet of %s: %w", options.NodeName, err)
	}
	args := []string{
		"--config=" + config,
		"--kubeconfig=" + options.Kubeconfig,
		"--cert-dir=" + options.CertDir,
		"--root-dir=" + filepath.Join(options.Dir, "root"),
		"--hostname-override=" + options.NodeName,
		"--v=2",
	}
	if options.BootstrapKubeconfig != "" {
		args = append(args, "--bootstrap-kubeconfig="+options.BootstrapKubeconfig)
	}
	if err := provideKmsg(); err != nil {
		return nil, err
	}
	process := &Process{
		Name: "kubelet of " + options.NodeName,
		Path: cp.Program("kubelet"),
		Args: override(args, options.Args),
		Log:  filepath.Join(options.Dir, "kubelet.log"),

		PrivateMounts: true, // it mounts its root directory on itself
	}
	if err := process.Start(ctx); err != nil {
		return nil, err
	}
	cp.Adopt(process)
	return process, nil
}

// provideKmsg gives a machine that has no kernel log of its own (a container) an empty one: the kubelet watches it for
// processes that the kernel killed, and does not start without it.
func provideKmsg() error {
	err := os.Symlink(os.DevNull, "/dev/kmsg")
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// kubeletConfig writes the configuration file and returns its path.
func (cp *ControlPlane) kubeletConfig(ctx context.Context, options KubeletOptions) (string, error) {
	number, err := port.Free(ctx, "127.0.0.1")
	if err != nil {
		return "", err
	}
	config := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  "127.0.0.1",
		"port":                     number,
		"readOnlyPort":             0,
		"healthzPort":              0,
		"rotateCertificates":       options.Rotate,
		"containerRuntimeEndpoint": options.ContainerRuntimeEndpoint,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": cp.ClientCA.CertFile},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		// None of these is asked of a machine that only shows that its kubelet can authenticate.
		"failSwapOn":             false,
		"failCgroupV1":           false,
		"cgroupDriver":           "cgroupfs",
		"cgroupsPerQOS":          false,
		"enforceNodeAllocatable": []string{},
		"featureGates":           map[string]bool{"KubeletInUserNamespace": true},
		"evictionHard": map[string]string{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
		},
		"imageGCHighThresholdPercent": 100,
		"makeIPTablesUtilChains":      false,
		"podLogsDir":                  filepath.Join(options.Dir, "pod-logs"),
		"volumePluginDir":             filepath.Join(options.Dir, "volume-plugins"),
	}
	if options.TLSCertFile != "" {
		config["tlsCertFile"], config["tlsPrivateKeyFile"] = options.TLSCertFile, options.TLSPrivateKeyFile
	}
	maps.Copy(config, options.Config)
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(options.Dir, "config.yaml")
	return path, os.WriteFile(path, text, 0o644)
}

// Adopt makes a process part of the control plane: its Stop kills it, and New logs the end of its log when the test fails.
func (cp *ControlPlane) Adopt(process *Process) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.extra = append(cp.extra, process)
}

// WaitNode waits until a Node is registered, ready or not, and returns it.
func (cp *ControlPlane) WaitNode(ctx context.Context, name string) (*corev1.Node, error) {
	var node *corev1.Node
	err := poll(ctx, func(ctx context.Context) (err error) {
		node, err = cp.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the Node %s: %w", name, err)
	}
	return node, nil
}
