package cli

import (
	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/review"
)

func (p *program) manifestsCommand() *cobra.Command {
	var ways admin.Ways
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "Print the RBAC objects that a cluster needs (for an administrator)",
		Long: `manifests prints the least rights with which nodes join and rotate, ready for kubectl apply -f -. It talks to no cluster. Without a
flag it prints those of all ways; a way that is not used should not be open.

A cluster that kubeadm made has what bootstrap tokens, rotation and cluster-info need already, under other names.

` + exitHelp,
		Example: `  nodejoin manifests --bootstrap-tokens --rotation --cluster-info | kubectl apply -f -
  nodejoin manifests --name-bound --rotation | kubectl apply -f -
  nodejoin manifests --bootstrap-tokens --group system:bootstrappers:edge | kubectl apply -f -`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if err := ways.Check(); err != nil {
				return err
			}
			if ways.IsZero() {
				ways = admin.Ways{BootstrapTokens: true, NameBound: true, Rotation: true, ClusterInfo: true}
			}
			return p.printManifests(ways.Objects())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&ways.BootstrapTokens, "bootstrap-tokens", false, "joining with a bootstrap token, as any node")
	f.BoolVar(&ways.NameBound, "name-bound", false, "joining with an identity that can become one node only: the user system:node:NAME in the group "+review.JoinersGroup)
	f.BoolVar(&ways.Rotation, "rotation", false, "getting the next certificate with the present one")
	f.BoolVar(&ways.ClusterInfo, "cluster-info", false, "reading kube-public/cluster-info, by which a bootstrap token finds the cluster")
	f.StringVar(&ways.Group, "group", "", "group of the joiners (default "+admin.DefaultTokenGroup+" for --bootstrap-tokens, "+review.JoinersGroup+" for --name-bound)")
	return cmd
}

func (p *program) printManifests(objects []admin.Object) error {
	text, err := admin.Manifests(objects)
	if err != nil {
		return err
	}
	list, err := admin.ListOf(objects)
	if err != nil {
		return err
	}
	return p.print(list, string(text))
}
