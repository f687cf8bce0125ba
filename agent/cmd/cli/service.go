package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/systemd"
)

func (p *program) serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Install, start, stop or show the service that runs the agent",
		Long: `service makes "nodejoin run" a service of this machine: with systemd, OpenRC, upstart, launchd or Windows' service control
manager. With systemd it installs the unit that the packages ship; where a package has installed that already, it only enables
it. The service ends when the agent does, with its exit status. It is started again after a failure; with systemd and on Windows
not after the exit statuses 2, 3, 4, 5 and 8, which need a person. On Windows, the log is in the event log.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		p.serviceVerb("install", "Install the service, to be started at boot",
			`install makes this program a service that is started at boot, and does not start it now. It can be run again: a unit that
it wrote before is brought up to date (what runs already goes on until it is restarted), one that somebody else wrote or
edited is refused: changes go into a drop-in (systemctl edit nodejoin). In a chroot or an image, where systemd does not run, the
service is started at the next boot. The program must be where nobody but root can replace it.`,
			`  sudo install -m 0755 nodejoin /usr/local/bin/nodejoin
  sudo /usr/local/bin/nodejoin service install
  sudo nodejoin service start`,
			func(s *systemd.Service) (*systemd.Report, error) {
				executable, err := systemd.Executable()
				if err != nil {
					return nil, err
				}
				return s.Install(executable)
			}),
		p.serviceVerb("uninstall", "Stop the service and remove it",
			`uninstall stops the service and removes it. A unit that a package has installed stays, and is not started at boot any more.
What somebody else wrote under the same name, or edited, is refused, and stays.
This node's identity and the configuration stay: see nodejoin reset.`, "", (*systemd.Service).Uninstall),
		p.serviceVerb("start", "Start the service", "start starts the service. With systemd and OpenRC it fails where nothing is configured; with systemd and on Windows, where the agent ends at once.", "",
			func(s *systemd.Service) (*systemd.Report, error) { return after(s, s.Start()) }),
		p.serviceVerb("stop", "Stop the service", "stop stops the service. The certificates on disk stay as they are, and nothing is rotated until it runs again.", "",
			func(s *systemd.Service) (*systemd.Report, error) { return after(s, s.Stop()) }),
		p.serviceVerb("restart", "Stop the service and start it", "restart stops the service and starts it. What is under way goes on. (A changed configuration is read anew without.)", "",
			func(s *systemd.Service) (*systemd.Report, error) { return after(s, s.Restart()) }),
		p.serviceStatusCommand(),
	)
	return cmd
}

// after returns how the service is after a verb that went well.
func after(s *systemd.Service, err error) (*systemd.Report, error) {
	if err != nil {
		return nil, err
	}
	return s.Status()
}

func (p *program) serviceVerb(verb, short, long, example string, do func(*systemd.Service) (*systemd.Report, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: short, Long: long + "\n\n" + exitHelp, Example: example, Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if err := systemd.MayChange(verb); err != nil {
				return err
			}
			s, err := systemd.Find()
			if err != nil {
				return err
			}
			report, err := do(s)
			if err != nil {
				return err
			}
			return p.print(report, tellService(report))
		},
	}
}

func tellService(r *systemd.Report) string {
	var out strings.Builder
	switch {
	case r.State == "": // installed
		fmt.Fprintf(&out, "The service is installed (%s).\n", r.Manager)
	case r.State == systemd.NotInstalled:
		fmt.Fprintf(&out, "The service is not installed (%s).\n", r.Manager)
	case r.AtBoot:
		fmt.Fprintf(&out, "The service is %s (%s), and is started at boot.\n", r.State, r.Manager)
	default:
		fmt.Fprintf(&out, "The service is %s (%s), and is not started at boot.\n", r.State, r.Manager)
	}
	for _, line := range []struct{ name, value string }{{"file", r.File}, {"runs", r.Executable}, {"detail", r.Detail}, {"note", r.Note}} {
		if line.value != "" {
			fmt.Fprintf(&out, "  %-6s  %s\n", line.name, oneLine(line.value))
		}
	}
	return out.String()
}

// serviceStatus is what service status prints.
type serviceStatus struct {
	*systemd.Report
	Agent string `json:"agent,omitempty"` // what the agent says of itself
}

func (p *program) serviceStatusCommand() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether the service runs",
		Long: `status tells whether the service runs, and what the agent says of itself in one line (nodejoin status says more, and its exit
status tells of the certificates; this one tells of the service alone).

Exit status (not the 0, 3 and 4 of "systemctl status", which mean something else throughout nodejoin):
  0  the service runs
  1  it is installed, and does not run: it is just starting, was stopped, or has failed (also where it is started again)
  8  it is not installed
`,
		Example: `  nodejoin service status
  nodejoin service status -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := systemd.Find()
			if err != nil {
				return err
			}
			report, err := s.Status()
			if err != nil {
				return err
			}
			out := serviceStatus{Report: report, Agent: p.agentLine(cmd.Context(), cmd, o)}
			text := tellService(report)
			if out.Agent != "" && out.Agent != report.Detail { // systemd was told the same
				text += "  agent   " + oneLine(out.Agent) + "\n"
			}
			if err := p.print(out, text); err != nil {
				return err
			}
			switch report.State {
			case systemd.Running:
				return nil
			case systemd.NotInstalled:
				return verdictOf(fault.Files)
			}
			return verdictOf(fault.Unexpected)
		},
	}
	p.addConfigFlags(cmd, &o)
	return cmd
}

// agentLine returns what the agent that runs says of itself; "" where none answers this user.
func (p *program) agentLine(ctx context.Context, cmd *cobra.Command, flags agent.Options) string {
	c, _, err := p.configure(cmd, flags, false)
	if err != nil || !agent.IsRunning(ctx, c) {
		return ""
	}
	s, err := agent.Status(ctx, c)
	if err != nil {
		return err.Error()
	}
	return s.Summary(time.Now())
}
