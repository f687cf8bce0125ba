// Package cli is the command line: commands, flags, what a person sees and the exit status.
//
// Results go to standard output, everything else to standard error. The exit status is the class of the error (package
// fault), and every error is printed as one line of cause and, where there is one, a remedy.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/systemd"
)

// Version is the program's version, stamped by the build.
var Version = "v0.0.0-dev"

// Commit is the commit that the program was built from, stamped by the build.
var Commit = "unknown"

// exitHelp documents the exit status in --help.
const exitHelp = `Exit status:
  0  done
  1  unexpected failure, or the API server could not be reached in time
  2  usage or configuration
  3  the cluster could not be trusted (pin, signature, CA)
  4  the credential was refused
  5  the request was denied or failed, or what was issued is not acceptable
  6  nobody approved the request in time
  7  another agent holds this machine
  8  the machine's files are in a state that needs a person
`

// program holds what the commands share.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	output         string // text, json or yaml
	logFormat      string // text or json
	verbosity      int
	configPath     string // --config; "" for the usual place, which may be empty
	severity       string // what a line that says why the program ends begins with, where the journal reads it
}

// Main runs the command line and returns the exit status.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	forbidCoreFiles()
	stderr = systemd.Stderr(stderr)
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	if systemd.OnJournal() {
		p.severity = systemd.PriorityError
	}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	if said, ok := errors.AsType[verdict](err); ok {
		return int(said.class)
	}
	if err != nil {
		p.printError(err)
	}
	return int(fault.ClassOf(err))
}

// verdict is an exit status whose reason has been printed.
type verdict struct{ class fault.Class }

func (verdict) Error() string { return "" }

// verdictOf returns nil for class 0.
func verdictOf(class fault.Class) error {
	if class == 0 {
		return nil
	}
	return verdict{class}
}

// untilSignal returns a context that SIGINT and SIGTERM end. A second signal ends the process, and so does the first
// one before this is called: nothing has been written by then.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Command returns the commands, for their man pages and completions. It is not to be executed: [Main] does that.
func Command() *cobra.Command {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	return p.root()
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nodejoin",
		Short: "The node join agent for Kubernetes TLS bootstrapping",
		Long: "nodejoin turns a machine and one credential into a Kubernetes node identity: it finds and verifies the cluster,\n" +
			"has a kubelet client certificate signed, and writes it where a kubelet starts on it unchanged.\n\n" + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(misused)
	flags := root.PersistentFlags()
	flags.StringVarP(&p.output, "output", "o", "text", "format of the result: text, json or yaml")
	flags.StringVar(&p.logFormat, "log-format", "text", "format of the log on standard error: text or json")
	flags.CountVarP(&p.verbosity, "verbose", "v", "log more; twice for everything")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return p.checkCommon() }
	root.AddCommand(p.joinCommand(), p.runCommand(), p.statusCommand(), p.waitCommand(), p.doctorCommand(), p.bundleCommand(), p.userCommand(), p.resetCommand(), p.configCommand(),
		p.tokenCommand(), p.manifestsCommand(), p.clusterInfoCommand(), p.serviceCommand(), p.completionCommand(), p.versionCommand())
	p.complete(root)
	return root
}

func (p *program) checkCommon() error {
	if p.output != "text" && p.output != "json" && p.output != "yaml" {
		return fault.New(fault.Usage, "choose text, json or yaml", "the output format %q is not known", p.output)
	}
	if p.logFormat != "text" && p.logFormat != "json" {
		return fault.New(fault.Usage, "choose text or json", "the log format %q is not known", p.logFormat)
	}
	return nil
}

// usageArgs gives cobra's complaint about arguments its class.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return misused(cmd, err)
		}
		return nil
	}
}

var tokenLike = regexp.MustCompile(`\b([a-z0-9]{6})\.[a-z0-9]{16}\b`)

// misused gives cobra's complaints their class. They quote what was typed, which may be a token in the wrong place.
func misused(cmd *cobra.Command, err error) error {
	return fault.New(fault.Usage, "see: "+cmd.CommandPath()+" --help", "%s", tokenLike.ReplaceAllString(err.Error(), "$1.[redacted]"))
}

// logger returns the log that the flags ask for.
func (p *program) logger() *slog.Logger {
	level := slog.LevelWarn
	switch p.verbosity {
	case 0:
	case 1:
		level = slog.LevelInfo
	default:
		level = slog.LevelDebug
	}
	return p.loggerAt(level, p.verbosity != 0)
}

// loggerAt returns the log from a level on, and sends the libraries' through it; without all, what they have to say is
// left out, since it comes back as an error, too.
func (p *program) loggerAt(level slog.Leveler, all bool) *slog.Logger {
	handler := func(w io.Writer) slog.Handler {
		options := &slog.HandlerOptions{Level: level}
		if p.logFormat == "json" {
			return slog.NewJSONHandler(w, options)
		}
		return slog.NewTextHandler(w, options)
	}
	log := slog.New(handler(p.stderr))
	if systemd.OnJournal() {
		log = slog.New(systemd.NewJournalHandler(p.stderr, handler))
	}
	if !all {
		klog.SetSlogLogger(slog.New(slog.DiscardHandler))
		return log
	}
	klog.SetSlogLogger(log)
	csr.LogTo(log)
	return log
}

// printError prints the cause on one line and the remedy after it, and both to standard output for a machine that
// asked for that.
func (p *program) printError(err error) {
	if mistakes, ok := errors.AsType[config.Mistakes](err); ok {
		for _, mistake := range mistakes {
			fmt.Fprintf(p.stderr, "%snodejoin: %s\n", p.severity, oneLine(mistake.String()))
		}
	} else {
		fmt.Fprintf(p.stderr, "%snodejoin: %s\n", p.severity, oneLine(err.Error()))
	}
	remedy := oneLine(fault.Remedy(err))
	if remedy != "" {
		fmt.Fprintf(p.stderr, "%s  remedy: %s\n", p.severity, remedy)
	}
	if p.output == "json" || p.output == "yaml" {
		_ = p.print(struct { // if it cannot be written, the exit status still tells
			Error    string      `json:"error"`
			Remedy   string      `json:"remedy,omitempty"`
			ExitCode fault.Class `json:"exitCode"`
		}{err.Error(), remedy, fault.ClassOf(err)}, "")
	}
}

// oneLine keeps what a server or a file had to say from breaking out of its line.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }), " ")
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			about := struct {
				Version  string `json:"version"`
				Commit   string `json:"commit"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version, Commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return p.print(about, fmt.Sprintf("nodejoin %s (%s, %s, %s)", about.Version, about.Commit, about.Go, about.Platform))
		},
	}
}

var errOutput = errors.New("cannot write the result")
