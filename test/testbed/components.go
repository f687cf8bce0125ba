package testbed

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodejoin/nodejoin/test/internal/port"
)

// auditPolicy records who asked for what and how it ended, and no bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
`

// component makes the process of a program whose log is NAME.log in Dir.
func (cp *ControlPlane) component(name string, args, extra []string) *Process {
	return &Process{
		Name: name,
		Path: filepath.Join(cp.binaries, name),
		Args: override(args, extra),
		Log:  cp.path(name + ".log"),
	}
}

// override appends extra arguments and drops those whose place they take. Appending alone would do for most flags, but
// list-valued ones add up.
func override(args, extra []string) []string {
	replaced := make(map[string]bool)
	for _, arg := range extra {
		name, _, _ := strings.Cut(arg, "=")
		replaced[name] = true
	}
	var all []string
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); !replaced[name] {
			all = append(all, arg)
		}
	}
	return append(all, extra...)
}

func (cp *ControlPlane) prepareEtcd(client, peer *port.Held) {
	clientURL, peerURL := "http://"+client.Address(), "http://"+peer.Address()
	cp.Etcd = cp.component("etcd", []string{
		"--name=etcd",
		"--data-dir=" + cp.path("etcd"),
		"--listen-client-urls=" + clientURL,
		"--advertise-client-urls=" + clientURL,
		"--listen-peer-urls=" + peerURL,
		"--initial-advertise-peer-urls=" + peerURL,
		"--initial-cluster=etcd=" + peerURL,
		"--socket-reuse-port=true", // see package port
		"--unsafe-no-fsync=true",   // survives a kill, not a power cut
		"--log-level=warn",
	}, cp.options.EtcdArgs)
	cp.Etcd.Ready = probe(&http.Transport{}, clientURL+"/health", "")
}

func (cp *ControlPlane) prepareAPIServer(secure, etcd *port.Held) error {
	policy := cp.path("audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	clients, err := cp.clientBundle()
	if err != nil {
		return err
	}
	cp.AuditLog = cp.path("audit.log")
	cp.APIServer = cp.component("kube-apiserver", []string{
		"--etcd-servers=http://" + etcd.Address(),
		"--bind-address=" + cp.options.Address,
		"--advertise-address=" + cp.options.Address,
		"--external-hostname=" + cp.options.Address,
		"--endpoint-reconciler-type=none", // a loopback address may not be an endpoint
		"--secure-port=" + secure.String(),
		"--permit-port-sharing=true",                   // see package port
		"--shutdown-watch-termination-grace-period=1s", // else open watches hold up SIGTERM for a minute
		"--tls-cert-file=" + cp.path("pki", "apiserver.crt"),
		"--tls-private-key-file=" + cp.path("pki", "apiserver.key"),
		"--client-ca-file=" + clients,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + cp.path("pki", "sa.crt"),
		"--service-account-signing-key-file=" + cp.path("pki", "sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--allow-privileged=true",
		"--audit-policy-file=" + policy,
		"--audit-log-path=" + cp.AuditLog,
		"--audit-log-mode=blocking", // an answered request is in the file
		"--audit-log-maxsize=100000",
	}, cp.options.APIServerArgs)
	cp.APIServer.Prepare = func() error { return cutTornLine(cp.AuditLog) }
	return cp.probeAPIServer()
}

// clientBundle returns the file of the CAs whose client certificates the API server accepts.
func (cp *ControlPlane) clientBundle() (string, error) {
	if len(cp.options.ClientCAs) == 0 {
		return cp.ClientCA.CertFile, nil
	}
	bundle := slices.Clone(cp.ClientCA.PEM)
	for _, ca := range cp.options.ClientCAs {
		bundle = append(bundle, ca.PEM...)
	}
	path := cp.path("pki", "clients.crt")
	return path, os.WriteFile(path, bundle, 0o644)
}

// probeAPIServer makes the API server's Ready.
func (cp *ControlPlane) probeAPIServer() error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cp.ServingCA.Pool()}}
	certPEM, keyPEM, err := cp.ClientCA.Issue(Certificate{CommonName: "testbed-probe", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	transport.TLSClientConfig.Certificates = []tls.Certificate{pair} // anonymous requests may be off
	cp.APIServer.Ready = probe(transport, cp.URL+"/readyz", "")
	return nil
}

func (cp *ControlPlane) prepareControllerManager(secure *port.Held) error {
	kubeconfig, err := cp.controllerManagerKubeconfig()
	if err != nil {
		return err
	}
	cp.ControllerManager = cp.component("kube-controller-manager", []string{
		"--kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + secure.String(),
		"--permit-port-sharing=true", // see package port
		"--leader-elect=false",
		"--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
		"--use-service-account-credentials=false",
		"--service-account-private-key-file=" + cp.path("pki", "sa.key"),
		"--root-ca-file=" + cp.ServingCA.CertFile,
		"--cluster-signing-cert-file=" + cp.ClientCA.CertFile,
		"--cluster-signing-key-file=" + cp.ClientCA.KeyFile,
	}, cp.options.ControllerManagerArgs)
	// The serving certificate is one that the controller manager makes for itself, in memory.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	// It is healthy at once, and lists its controllers when it has made them.
	cp.ControllerManager.Ready = probe(transport,
		"https://"+secure.Address()+"/healthz?verbose", "-controller ok\n")
	return nil
}

// controllerManagerKubeconfig writes the controller manager's kubeconfig and returns its path.
func (cp *ControlPlane) controllerManagerKubeconfig() (string, error) {
	// One user with all rights for all controllers. With --use-service-account-credentials=true, as kubeadm has it, making a
	// credential for each controller takes six seconds of every start.
	user := Certificate{CommonName: "system:kube-controller-manager", Organization: []string{"system:masters"}}
	path := cp.path("controller-manager.conf")
	return path, cp.WriteKubeconfig(path, user)
}

// probe returns a check that a URL answers 200 and a body that contains a text, over a new connection each time: a kept
// one may lead to a process that is about to end.
func probe(transport http.RoundTripper, url, text string) func(context.Context) error {
	client := &http.Client{Transport: transport}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		request.Close = true
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err != nil {
			return err
		}
		if !strings.Contains(string(body), text) {
			return fmt.Errorf("%s does not answer %q yet", url, text)
		}
		return nil
	}
}
