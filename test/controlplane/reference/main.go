// Command reference joins a node the way kubeadm and the kubelet do, with their own code and nothing around it:
// kubeadm's token discovery, a bootstrap kubeconfig, and the kubelet's LoadClientCert. Benchmarks of nodejoin compare
// with its time, its requests and its memory, so it imports no more than those two need.
//
// It prints nothing when it succeeds. A failure is a line on standard error and exit status 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/discovery/token"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/kubeconfig"
	"k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap"
)

// Names and the timeout that kubeadm join uses.
const (
	clusterName      = "kubernetes"
	userName         = "tls-bootstrap-token-user"
	discoveryTimeout = 5 * time.Minute
)

// pins is the list of a repeatable flag.
type pins []string

func (p *pins) String() string { return strings.Join(*p, ",") }

func (p *pins) Set(pin string) error {
	*p = append(*p, pin)
	return nil
}

// options are the command line.
type options struct {
	server, token, nodeName                  string
	pins                                     pins
	caFile                                   string // not empty: no discovery
	kubeconfig, bootstrapKubeconfig, certDir string
}

func main() {
	var o options
	flag.StringVar(&o.server, "server", "", "API server, `HOST:PORT`")
	flag.StringVar(&o.token, "token", "", "bootstrap `token`")
	flag.Var(&o.pins, "pin", "sha256:`hash` of the public key of the cluster's CA; may be given several times, or not at all")
	flag.StringVar(&o.caFile, "ca-file", "", "CA `file`; given, there is no discovery")
	flag.StringVar(&o.nodeName, "node-name", "", "`name` of the node")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` to write")
	flag.StringVar(&o.bootstrapKubeconfig, "bootstrap-kubeconfig", "", "bootstrap kubeconfig `file` to write")
	flag.StringVar(&o.certDir, "cert-dir", "", "`directory` for the certificate")
	flag.Parse()
	if err := join(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

// join does what kubeadm join and the kubelet that it starts do up to the certificate.
func join(ctx context.Context, o options) error {
	cluster, err := discover(o)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	config := kubeconfig.CreateWithToken(cluster.Server, clusterName, userName, cluster.CertificateAuthorityData, o.token)
	if err := clientcmd.WriteToFile(*config, o.bootstrapKubeconfig); err != nil {
		return fmt.Errorf("write the bootstrap kubeconfig: %w", err)
	}
	err = bootstrap.LoadClientCert(ctx, o.kubeconfig, o.bootstrapKubeconfig, o.certDir, types.NodeName(o.nodeName))
	if err != nil {
		return fmt.Errorf("load the client certificate: %w", err)
	}
	return nil
}

// discover returns the cluster as cluster-info describes it, or as the command line does.
func discover(o options) (*clientcmdapi.Cluster, error) {
	if o.caFile != "" {
		ca, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, err
		}
		return &clientcmdapi.Cluster{Server: "https://" + o.server, CertificateAuthorityData: ca}, nil
	}
	config, err := token.RetrieveValidatedConfigInfo(nil, &kubeadm.Discovery{
		BootstrapToken: &kubeadm.BootstrapTokenDiscovery{
			Token:                    o.token,
			APIServerEndpoint:        o.server,
			CACertHashes:             o.pins,
			UnsafeSkipCAVerification: len(o.pins) == 0,
		},
	}, discoveryTimeout)
	if err != nil {
		return nil, err
	}
	_, cluster, err := kubeconfig.GetClusterFromKubeConfig(config)
	return cluster, err
}
