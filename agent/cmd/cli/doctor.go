package cli

import (
	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
)

func (p *program) doctorCommand() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:   "doctor [HOST:PORT]",
		Short: "Look for what can keep this machine from joining or from rotating",
		Long: `doctor makes every check that a person would make on a machine that does not join, or that will not be able to rotate: names,
network, TLS, clock, token, rights, files, disk, the kubelet's configuration, the lock, the service. Each is ok, a warning or a failure
with its remedy. It changes nothing, and takes what join takes. Its exit status is 0 where nothing has failed, else 1.

` + exitHelp,
		Args: oneServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Servers = append(args, o.Servers...)
			c, _, wrong := p.configure(cmd, o, len(args) != 0)
			if wrong != nil { // the rest is looked at all the same, as the flags have it
				var err error
				if c, err = o.Config(); err != nil {
					return wrong
				}
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			report := agent.Examine(ctx, c, wrong)
			if err := p.print(report, report.Text()); err != nil {
				return err
			}
			return verdictOf(report.Exit())
		},
	}
	addJoinFlags(cmd, &o)
	p.addConfigFlags(cmd, &o)
	return cmd
}
