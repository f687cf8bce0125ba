package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/fault"
)

// kubeconfigHelp is the help of every --kubeconfig: it is [admin.Connect]'s order.
const kubeconfigHelp = "the administrator's kubeconfig (default what KUBECONFIG says, else ~/.kube/config, else /etc/kubernetes/admin.conf)"

// addAdminFlags adds the flag that every command of an administrator has.
func addAdminFlags(cmd *cobra.Command, kubeconfig *string) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(kubeconfig, "kubeconfig", "", kubeconfigHelp)
}

// asAdmin runs what an administrator wants with the cluster of a kubeconfig.
func asAdmin(cmd *cobra.Command, kubeconfig string, do func(ctx context.Context, client *admin.Client) error) error {
	client, err := admin.Connect(kubeconfig)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	return do(ctx, client)
}

// note tells a person what is not the result, and what to do about it.
func (p *program) note(text, remedy string) {
	fmt.Fprintf(p.stderr, "nodejoin: %s\n", oneLine(text))
	if remedy != "" {
		fmt.Fprintf(p.stderr, "  remedy: %s\n", oneLine(remedy))
	}
}

// groupCommand returns a command that has only commands below it.
func groupCommand(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 { // unquoted: it may be a token in the wrong place
				return fault.New(fault.Usage, "see: "+cmd.CommandPath()+" --help", "%s has no such command", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}
