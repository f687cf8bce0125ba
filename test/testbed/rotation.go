package testbed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// PKI is what a control plane's certificates are issued by, and what is trusted in it.
type PKI struct {
	// Issuer signs the API server's certificate, the components' and the administrator's own, and what the cluster signs
	// from then on.
	Issuer *CA
	// Trusted are the CAs of the clients (--client-ca-file) and of the API server (--root-ca-file, cluster-info and every
	// kubeconfig). One of them must be the issuer.
	Trusted []*CA
}

// Outage is how long the API server may not have answered.
type Outage struct{ From, To time.Time }

// Rotate gives the control plane another PKI, as the steps of a manual rotation of its CA do
// (https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/): what it needs is issued anew, the API server
// and the controller manager are restarted, which takes an outage, and cluster-info is published. Client and Config
// return others afterwards.
//
// A rotation that nobody notices takes three steps: the old CA issues and both are trusted; the new one issues; the new
// one alone is trusted. A step must not be taken while another one is.
func (cp *ControlPlane) Rotate(ctx context.Context, to PKI) (Outage, error) {
	var outage Outage
	if err := cp.prepareRotation(to); err != nil {
		return outage, fmt.Errorf("rotate the CA: %w", err)
	}
	outage.From = time.Now()
	cp.ControllerManager.Kill()
	cp.APIServer.Kill() // with SIGTERM it would wait for a kubelet's requests, which may take a minute
	if err := cp.probeAPIServer(); err != nil {
		return outage, err
	}
	if err := cp.APIServer.Start(ctx); err != nil {
		return outage, err
	}
	outage.To = time.Now()
	if err := cp.ControllerManager.Start(ctx); err != nil {
		return outage, err
	}
	if cp.options.NoClusterInfo {
		return outage, nil
	}
	return outage, cp.PublishClusterInfo(ctx, cp.URL, cp.trusted)
}

// prepareRotation makes the files of a step and names them in the arguments of the components, which go on with those
// that they have: no file that is in use changes, since they look at some of them all the time.
func (cp *ControlPlane) prepareRotation(to PKI) error {
	cp.rotations++
	dir := cp.path("pki", "rotation-"+strconv.Itoa(cp.rotations))
	certFile, keyFile, err := to.Issuer.IssueFiles(dir, "apiserver", cp.serving())
	if err != nil {
		return err
	}
	var bundle [][]byte
	for _, ca := range to.Trusted {
		bundle = append(bundle, ca.PEM)
	}
	cp.trusted = bytes.Join(bundle, nil)
	bundleFile := filepath.Join(dir, "trusted.crt")
	if err := os.WriteFile(bundleFile, cp.trusted, 0o644); err != nil {
		return err
	}
	cp.ServingCA, cp.ClientCA = to.Issuer, to.Issuer
	cp.APIServer.Args = override(cp.APIServer.Args, []string{
		"--tls-cert-file=" + certFile, "--tls-private-key-file=" + keyFile, "--client-ca-file=" + bundleFile,
	})
	cp.ControllerManager.Args = override(cp.ControllerManager.Args, []string{
		"--root-ca-file=" + bundleFile,
		"--cluster-signing-cert-file=" + to.Issuer.CertFile, "--cluster-signing-key-file=" + to.Issuer.KeyFile,
	})
	if _, err := cp.controllerManagerKubeconfig(); err != nil {
		return err
	}
	return cp.prepareAdmin()
}
