package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

func (p *program) statusCommand() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what identity this machine has and what it waits for",
		Long: `status tells what certificates this machine has, until when, when they rotate next, and what is waited for and why. It asks
the agent that runs, and reads the disk where none does. Its exit status is 0 where everything is in order, else the class
of what is wrong.

` + exitHelp,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.status(cmd, o)
			if err != nil {
				return err
			}
			if err := p.print(s, s.Text(time.Now())); err != nil {
				return err
			}
			return verdictOf(s.Exit(time.Now()))
		},
	}
	p.addConfigFlags(cmd, &o)
	return cmd
}

// status returns the status of this machine. With a configuration that is wrong, an agent that runs is asked all the same: it
// has kept the one before.
func (p *program) status(cmd *cobra.Command, flags agent.Options) (*status.Status, error) {
	c, _, err := p.configure(cmd, flags, false)
	if err == nil {
		return agent.Status(cmd.Context(), c)
	}
	s, unanswered := monitor.Ask(cmd.Context(), filepath.Join(orRoot(flags.Root), flags.RuntimeDir, monitor.SocketName))
	if unanswered != nil {
		return nil, err
	}
	return s, nil
}

func (p *program) resetCommand() *cobra.Command {
	var o agent.Options
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Remove this node's identity from this machine",
		Long: `reset removes what nodejoin made: certificates and keys, the kubeconfig, the CA bundle and its own state. It says what it removes,
asks first, and touches nothing that it did not make or that somebody changed since. The Node object in the cluster, the
kubelet and the configuration of nodejoin stay. The agent must not run.

` + exitHelp,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := p.configure(cmd, o, false)
			if err != nil {
				return err
			}
			return p.reset(c, yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	p.addConfigFlags(cmd, &o)
	return cmd
}

func (p *program) reset(c *agent.Config, yes bool) (err error) {
	store := c.Store()
	plan, err := store.PlanReset()
	if err != nil {
		return err
	}
	if len(plan.Removed) == 0 { // the lock would make a directory
		return p.print(plan, tellRemoval("removed", plan))
	}
	lock, err := store.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if plan, err = store.PlanReset(); err != nil {
		return err
	}
	if !yes && len(plan.Removed) != 0 {
		fmt.Fprint(p.stderr, tellRemoval("will be removed", plan))
		fmt.Fprint(p.stderr, "Remove this node's identity? [y/N] ")
		answer, _ := bufio.NewReader(p.stdin).ReadString('\n')
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			return fault.New(fault.Usage, "answer y, or give --yes", "not confirmed: nothing was removed")
		}
	}
	done, err := store.Reset()
	if done != nil {
		err = errors.Join(err, p.print(done, tellRemoval("removed", done)))
	}
	return err
}

func tellRemoval(verb string, r *rotate.Removal) string {
	var out strings.Builder
	for _, path := range r.Removed {
		fmt.Fprintf(&out, "%s  %s\n", verb, path)
	}
	for _, left := range r.Left {
		fmt.Fprintf(&out, "left  %s (%s)\n", left.Path, left.Why)
	}
	if out.Len() == 0 {
		return "There is nothing to remove.\n"
	}
	return out.String()
}

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check or print the configuration file",
		Args:  usageArgs(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&p.configPath, "config", "", "configuration file (default "+agent.DefaultConfigFile+")")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "validate [FILE]",
			Short: "Report every mistake in the configuration file",
			Args:  usageArgs(cobra.MaximumNArgs(1)), ValidArgsFunction: completeFiles,
			RunE: func(_ *cobra.Command, args []string) error {
				file, path, err := p.namedFile(args)
				if err != nil {
					return err
				}
				if _, err := optionsOf(file); err != nil { // owners that this machine does not have
					return err
				}
				return p.print(struct {
					File  string `json:"file"`
					Valid bool   `json:"valid"`
				}{path, true}, path+" is valid")
			},
		},
		&cobra.Command{
			Use:   "print [FILE]",
			Short: "Print the configuration with all defaults filled in",
			Args:  usageArgs(cobra.MaximumNArgs(1)), ValidArgsFunction: completeFiles,
			RunE: func(_ *cobra.Command, args []string) error {
				file, _, err := p.namedFile(args)
				switch unnamed := len(args) == 0 && p.configPath == ""; {
				case errors.Is(err, os.ErrNotExist) && unnamed:
					file = &config.File{}
				case err != nil:
					return err
				}
				file.Default()
				text, err := file.Marshal()
				if err != nil {
					return err
				}
				return p.print(file, string(text))
			},
		},
	)
	return cmd
}

// namedFile loads the configuration file that was named, or the usual one.
func (p *program) namedFile(args []string) (file *config.File, path string, err error) {
	if len(args) != 0 {
		p.configPath = args[0]
	}
	path, _ = p.configFile("")
	file, err = config.Load(path)
	return file, path, err
}
