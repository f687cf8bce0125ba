package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodejoin/nodejoin/test/internal/port"
)

// Options say how a control plane differs from the one that kubeadm makes, which is the zero value.
type Options struct {
	// Dir holds the PKI, the data and the logs. Empty: a temporary directory, which Stop removes.
	Dir string
	// Address is the IP address that the API server listens on. Empty: 127.0.0.1. etcd and the controller manager
	// always listen on 127.0.0.1.
	Address string
	// CertSANs are further names and IP addresses of the API server's certificate, which is always good for Address,
	// 127.0.0.1, localhost and the names that a cluster's Pods use.
	CertSANs []string
	// SeparateClientCA gives client certificates a CA of their own. Discovery then carries the serving CA alone.
	SeparateClientCA bool
	// ClientCAs are further CAs whose client certificates the API server accepts, until Rotate says otherwise.
	ClientCAs []*CA

	// Extra arguments of the form --name=value. One takes the place of the component's own argument of that name.
	EtcdArgs, APIServerArgs, ControllerManagerArgs []string

	// NoBindings leaves out kubeadm's ClusterRoleBindings: no bootstrap token may request a certificate, and nothing
	// is approved.
	NoBindings bool
	// NoClusterInfo leaves out cluster-info and the right to read it.
	NoClusterInfo bool
}

// ControlPlane is a running control plane. Make one with New or Start.
type ControlPlane struct {
	Dir        string
	Endpoint   string // HOST:PORT of the API server
	URL        string // https://HOST:PORT
	Kubeconfig string // path of the administrator's kubeconfig (group system:masters)
	AuditLog   string // path of the API server's audit log; see AuditEvents

	// ServingCA signed the API server's certificate. ClientCA signs clients, nodes among them; it is the same CA
	// unless Options.SeparateClientCA is set.
	ServingCA, ClientCA *CA

	Etcd, APIServer, ControllerManager *Process

	options   Options
	temporary bool // Dir is ours to remove
	binaries  string
	ports     []*port.Held
	trusted   []byte // PEM of the CAs that kubeconfigs verify the API server with
	rotations int
	trail     trail

	mu     sync.Mutex // guards what follows
	admin  *rest.Config
	client kubernetes.Interface
	extra  []*Process // adopted
}

// New starts a control plane for a test and stops it when the test ends. It fails the test when the control plane does
// not start. When the test has failed, it logs the end of every component's log.
func New(t testing.TB, options Options) *ControlPlane {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	cp, err := Start(t.Context(), options)
	if err != nil {
		t.Fatalf("start a control plane: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, process := range cp.processes() {
				t.Logf("%s, the end of %s:\n%s", process.Name, process.Log, process.Tail(logTail))
			}
		}
		if err := cp.Stop(); err != nil {
			t.Errorf("stop the control plane: %v", err)
		}
	})
	return cp
}

// Start starts a control plane and returns when it is ready to be joined. The context bounds the start (without a
// deadline, each component gets three minutes), not the life of the control plane. Nothing runs after an error.
func Start(ctx context.Context, options Options) (*ControlPlane, error) {
	binaries, err := Binaries(ctx)
	if err != nil {
		return nil, err
	}
	if options.Address == "" {
		options.Address = "127.0.0.1"
	}
	cp := &ControlPlane{Dir: options.Dir, options: options, binaries: binaries}
	if err := cp.start(ctx); err != nil {
		return nil, errors.Join(err, cp.Stop())
	}
	return cp, nil
}

func (cp *ControlPlane) start(ctx context.Context) error {
	if cp.Dir == "" {
		dir, err := os.MkdirTemp("", "controlplane-")
		if err != nil {
			return err
		}
		cp.Dir, cp.temporary = dir, true
	}
	if err := cp.prepare(); err != nil {
		return fmt.Errorf("prepare a control plane: %w", err)
	}
	if err := cp.Etcd.Start(ctx); err != nil {
		return err
	}
	if err := cp.APIServer.Start(ctx); err != nil {
		return err
	}
	published := make(chan error, 1)
	go func() { published <- cp.publish(ctx) }()
	return errors.Join(cp.ControllerManager.Start(ctx), <-published)
}

// prepare makes all files and processes, and starts nothing.
func (cp *ControlPlane) prepare() error {
	var held [4]*port.Held
	for i, address := range []string{cp.options.Address, "127.0.0.1", "127.0.0.1", "127.0.0.1"} {
		var err error
		if held[i], err = port.Hold(address); err != nil {
			return err
		}
		cp.ports = append(cp.ports, held[i])
	}
	cp.Endpoint = held[0].Address()
	cp.URL = "https://" + cp.Endpoint
	if err := cp.preparePKI(); err != nil {
		return err
	}
	cp.Kubeconfig = filepath.Join(cp.Dir, "admin.conf")
	if err := cp.prepareAdmin(); err != nil {
		return err
	}
	cp.prepareEtcd(held[1], held[2])
	if err := cp.prepareAPIServer(held[0], held[1]); err != nil {
		return err
	}
	return cp.prepareControllerManager(held[3])
}

// prepareAdmin makes the administrator's kubeconfig and client.
func (cp *ControlPlane) prepareAdmin() error {
	err := cp.WriteKubeconfig(cp.Kubeconfig, Certificate{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	admin, err := clientcmd.BuildConfigFromFlags("", cp.Kubeconfig)
	if err != nil {
		return err
	}
	admin.QPS = -1 // no limit of our own
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return err
	}
	cp.mu.Lock()
	cp.admin, cp.client = admin, client
	cp.mu.Unlock()
	return nil
}

func (cp *ControlPlane) preparePKI() error {
	pki := cp.path("pki")
	var err error
	if cp.ServingCA, err = NewCA(pki, "kubernetes"); err != nil {
		return err
	}
	cp.ClientCA = cp.ServingCA
	if cp.options.SeparateClientCA {
		if cp.ClientCA, err = NewCA(pki, "kubernetes-clients"); err != nil {
			return err
		}
	}
	cp.trusted = cp.ServingCA.PEM
	if _, _, err = cp.ServingCA.IssueFiles(pki, "apiserver", cp.serving()); err != nil {
		return err
	}
	// The service accounts' key pair; the certificate is not used, but is as good a public key file as any.
	_, _, err = cp.ServingCA.IssueFiles(pki, "sa", Certificate{CommonName: "service-accounts"})
	return err
}

// serving describes the API server's certificate.
func (cp *ControlPlane) serving() Certificate {
	return Certificate{
		CommonName: "kube-apiserver",
		SANs: append([]string{
			cp.options.Address, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		}, cp.options.CertSANs...),
	}
}

// path returns a path inside Dir.
func (cp *ControlPlane) path(elements ...string) string {
	return filepath.Join(append([]string{cp.Dir}, elements...)...)
}

// Stop kills every process of the control plane, every kubelet that was started with Kubelet, and
// what was adopted. A second Stop does nothing.
func (cp *ControlPlane) Stop() error {
	for _, process := range cp.processes() {
		process.Kill()
	}
	for _, held := range cp.ports {
		held.Close()
	}
	cp.ports = nil
	if cp.temporary {
		return os.RemoveAll(cp.Dir)
	}
	return nil
}

// processes returns what was started, dependents first.
func (cp *ControlPlane) processes() []*Process {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	all := slices.Concat(cp.extra, []*Process{cp.ControllerManager, cp.APIServer, cp.Etcd})
	return slices.DeleteFunc(all, func(p *Process) bool { return p == nil }) // after a failed start
}

// Client returns the administrator's client. It has no rate limit.
func (cp *ControlPlane) Client() kubernetes.Interface {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.client
}

// Config returns a copy of the administrator's client configuration.
func (cp *ControlPlane) Config() *rest.Config {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return rest.CopyConfig(cp.admin)
}

// WriteKubeconfig writes a kubeconfig, with all data inline, for a client certificate that is issued for it. A node's
// is Certificate{CommonName: "system:node:NAME", Organization: []string{"system:nodes"}}.
func (cp *ControlPlane) WriteKubeconfig(path string, c Certificate) error {
	certPEM, keyPEM, err := cp.ClientCA.Issue(c)
	if err != nil {
		return err
	}
	return cp.writeKubeconfig(path, &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM})
}

// WriteTokenKubeconfig writes a kubeconfig for a bearer token: with a bootstrap token, a kubelet's bootstrap kubeconfig.
func (cp *ControlPlane) WriteTokenKubeconfig(path, token string) error {
	return cp.writeKubeconfig(path, &clientcmdapi.AuthInfo{Token: token})
}

func (cp *ControlPlane) writeKubeconfig(path string, user *clientcmdapi.AuthInfo) error {
	const name = "testbed"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: cp.URL, CertificateAuthorityData: cp.trusted}
	config.AuthInfos[name] = user
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

// probeTimeout bounds one look at a component's health.
const probeTimeout = 2 * time.Second
