package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
)

func (p *program) waitCommand() *cobra.Command {
	var o agent.Options
	w := agent.Wait{}
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until this machine's identity can be used",
		Long: `wait returns when this node's identity can be used: its certificate is on disk and valid, the kubeconfig names it, and the
agent that runs has seen it to work. (An agent that reaches no API server does not keep it back.) It never asks for
anything by itself: the agent does, or join. Where no agent runs, the disk decides, and wait says so.

Until then it tells, on standard error, what is waited for whenever that changes, in the words of "systemctl status
nodejoin". With --for it waits for another certificate of the configuration, such as kubelet-serving, instead.

When the time is over, the exit status is the class of what is wrong: 6 while nobody has approved the request, for
example. With --timeout 0 it waits for ever, as a unit's ExecStartPre= should: give that unit TimeoutStartSec=infinity, too.

` + exitHelp,
		Example: `  nodejoin wait
  nodejoin wait --timeout 0 && systemctl start kubelet
  nodejoin wait --for=kubelet-serving --timeout 2m -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.wait(cmd, o, &w) },
	}
	cmd.Flags().StringVar(&w.For, "for", agent.IdentityName, "what to wait for: identity, or the name of a certificate of the configuration")
	cmd.Flags().DurationVar(&w.Timeout, "timeout", agent.DefaultTimeout, "how long to wait; 0 for ever")
	p.addConfigFlags(cmd, &o)
	return cmd
}

func (p *program) wait(cmd *cobra.Command, flags agent.Options, w *agent.Wait) error {
	if w.Timeout < 0 {
		return fault.New(fault.Usage, "give a duration such as 5m, or 0 to wait for ever", "--timeout %s is negative", w.Timeout)
	}
	path, _ := p.configFile(flags.Root)
	w.ConfigFile = absolute(path)
	w.Load = func() (*agent.Config, error) {
		c, _, err := p.configure(cmd, flags, false)
		return c, err
	}
	w.Report = func(text string) { fmt.Fprintf(p.stderr, "nodejoin: %s\n", oneLine(text)) }
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	c, s, err := w.Run(ctx)
	if err != nil {
		return err
	}
	done := struct {
		For         string    `json:"for"`
		Node        string    `json:"node"`
		Kubeconfig  string    `json:"kubeconfig,omitempty"` // of the identity
		Certificate string    `json:"certificate"`          // path
		Serial      string    `json:"serialNumber"`
		NotBefore   time.Time `json:"notBefore"`
		NotAfter    time.Time `json:"notAfter"`
	}{w.For, s.Node, "", c.Path, c.Serial, c.NotBefore.UTC(), c.NotAfter.UTC()}
	text := fmt.Sprintf("The certificate %s can be used until %s: %s", c.Name, done.NotAfter.Format(time.RFC3339), c.Path)
	if c.Name == config.KubeletClient {
		done.Kubeconfig = s.Kubeconfig
		text = fmt.Sprintf("The node %s can use its identity until %s: %s", s.Node, done.NotAfter.Format(time.RFC3339), s.Kubeconfig)
	}
	return p.print(done, text)
}
