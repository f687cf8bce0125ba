package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/bootstrap"
)

func (p *program) clusterInfoCommand() *cobra.Command {
	return groupCommand("cluster-info", "Let bootstrap tokens find the cluster (for an administrator)",
		`cluster-info is about the ConfigMap kube-public/cluster-info, which says where the API server is and which CA is its own.`, p.publishCommand())
}

func (p *program) publishCommand() *cobra.Command {
	var kubeconfig, server, caFile string
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Publish cluster-info",
		Long: `publish does for a cluster that kubeadm did not make what kubeadm init does for its own: it writes the ConfigMap
kube-public/cluster-info, from which a machine with a bootstrap token learns the cluster's CA, and lets everybody read it. There is no
secret in it. Run again, it changes nothing, or what is no longer so.

kube-controller-manager signs it for each bootstrap token, if it runs with --controllers=*,bootstrap-signer-controller.

` + exitHelp,
		Example: `  nodejoin cluster-info publish
  nodejoin cluster-info publish --server https://api.example.com:6443 --ca-file /etc/kubernetes/pki/ca.crt`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asAdmin(cmd, kubeconfig, func(ctx context.Context, client *admin.Client) error {
				var ca []byte
				if caFile != "" {
					bundle, err := bootstrap.ReadBundle(caFile, time.Now())
					if err != nil {
						return err
					}
					ca = bundle.PEM()
				}
				cluster, err := client.NodeCluster(server, ca)
				if err != nil {
					return err
				}
				published, err := client.PublishClusterInfo(ctx, cluster)
				if err != nil {
					return err
				}
				if published.Signed != nil && !*published.Signed {
					p.note("cluster-info is not signed for any token yet: until it is, no machine can join with one", admin.StartSigner)
				}
				return p.print(published, describePublished(published))
			})
		},
	}
	addAdminFlags(cmd, &kubeconfig)
	f := cmd.Flags()
	f.StringVar(&server, "server", "", "API server as nodes reach it, HOST:PORT or an https URL (default the kubeconfig's)")
	f.StringVar(&caFile, "ca-file", "", "CA bundle that verifies it (default the kubeconfig's)")
	return cmd
}

func describePublished(published *admin.Published) string {
	done := "cluster-info says so already"
	if published.Changed {
		done = "cluster-info is published"
	}
	return fmt.Sprintf("%s\n  server         %s\n  CA cert hash   %s\n", done, published.Server, strings.Join(published.Pins, "\n                 "))
}
