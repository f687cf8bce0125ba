package cli

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/machine"
	"github.com/nodejoin/nodejoin/systemd"
)

func (p *program) runCommand() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:   "run [HOST:PORT]",
		Short: "Make this machine a node and keep it one",
		Long: `run joins as join does, and then stays: it rotates the certificates before they expire, follows the cluster's CA,
repairs files that were deleted or damaged, and comes back from an expired or revoked identity as soon as a credential works.
It is what the service runs, and ends on SIGTERM. On SIGHUP it reads its configuration anew, and asks again for what an
approver has denied.

It fails at the start where a person must act first; what goes wrong later is waited for, logged, and told by
"nodejoin status".

` + exitHelp,
		Example: `  nodejoin run
  nodejoin run --config /etc/nodejoin/config.yaml`,
		Args: oneServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Servers = append(args, o.Servers...)
			return p.run(cmd, o, len(args) != 0)
		},
	}
	addJoinFlags(cmd, &o)
	f := cmd.Flags()
	f.StringVar((*string)(&o.Rotation), "rotation", string(agent.RotationAgent), "who rotates the kubelet's client certificate: agent or kubelet")
	f.StringVar(&o.Listen, "metrics-listen", "", "loopback HOST:PORT or unix:PATH that serves /metrics, /healthz and /readyz; empty for none (default as in the configuration file)")
	p.addConfigFlags(cmd, &o)
	return cmd
}

func (p *program) run(cmd *cobra.Command, flags agent.Options, servers bool) error {
	if flags.TokenFile == "-" {
		return fault.New(fault.Usage, "give a file: it is read again whenever a credential is needed", "standard input can be read once only, and run needs the token again")
	}
	// A defect, and the SIGABRT of systemd's watchdog, end the process by a signal: the exit status 2 that Go would give
	// means a configuration that is wrong, after which nobody starts it again.
	debug.SetTraceback("crash")
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	// All that can fail is in the loop: a service manager hears why it ended from nothing else.
	return systemd.Run(ctx, func(ctx context.Context) error { return p.daemon(ctx, cmd, flags, servers) })
}

// daemon is the loop of the service.
func (p *program) daemon(ctx context.Context, cmd *cobra.Command, flags agent.Options, servers bool) error {
	var level slog.LevelVar
	log, err := p.daemonLog(cmd, flags.Root, &level)
	if err != nil {
		return err
	}
	path, _ := p.configFile(flags.Root)
	d := agent.Daemon{
		Load: func() (*agent.Config, error) {
			c, file, err := p.configure(cmd, flags, servers)
			if err == nil {
				level.Set(p.level(file.Log.Level))
			}
			return c, err
		},
		ConfigFile: absolute(path), Reload: onHangup(ctx), Idle: machine.Idle, Log: log,
	}
	return d.Run(ctx)
}

// daemonLog returns the log of an agent that runs: the configuration file says how it is, unless flags do.
func (p *program) daemonLog(cmd *cobra.Command, root string, level *slog.LevelVar) (*slog.Logger, error) {
	file, _, err := p.loadFile(root)
	if err != nil {
		return nil, err
	}
	file.Default()
	if !cmd.Flags().Changed("log-format") {
		p.logFormat = file.Log.Format
	}
	level.Set(p.level(file.Log.Level))
	return p.loggerAt(level, true), nil
}

// level returns the log level: the more of what -v says and what the configuration file says.
func (p *program) level(configured string) slog.Level {
	level := slog.LevelInfo
	if configured != "" {
		_ = level.UnmarshalText([]byte(configured)) // the configuration was checked
	}
	switch {
	case p.verbosity >= 2:
		return slog.LevelDebug
	case p.verbosity == 1:
		return min(level, slog.LevelInfo)
	}
	return level
}

// onHangup returns a channel that has something in it after each SIGHUP.
func onHangup(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	reload := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case <-ctx.Done():
				return
			case reload <- struct{}{}:
			}
		}
	}()
	return reload
}
