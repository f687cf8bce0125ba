package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/csr"
)

// shells are those that there is completion for.
var shells = []string{"bash", "zsh", "fish", "powershell"}

func (p *program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the completion of this command line for a shell",
		Long: `completion prints a script that makes a shell complete commands, flags and the values that are known: formats, key algorithms,
and the certificates of the configuration file. Nothing is asked of a cluster. The packages install it.`,
		Example: `  source <(nodejoin completion bash)
  nodejoin completion bash > /etc/bash_completion.d/nodejoin
  nodejoin completion zsh > "${fpath[1]}/_nodejoin"
  nodejoin completion fish > ~/.config/fish/completions/nodejoin.fish`,
		ValidArgs: shells,
		Args:      usageArgs(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(p.stdout, true)
			case "zsh":
				err = root.GenZshCompletion(p.stdout)
			case "fish":
				err = root.GenFishCompletion(p.stdout, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(p.stdout)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			return nil
		},
	}
}

// known are the values of flags, by name, where they can be listed.
var known = map[string][]string{
	"output":        {"text", "json", "yaml"},
	"log-format":    {"text", "json"},
	"key-algorithm": csr.Algorithms(),
	"rotation":      {string(agent.RotationAgent), string(agent.RotationKubelet)},
}

// directories are the flags whose value is a directory.
var directories = []string{"cert-dir", "state-dir", "runtime-dir", "root"}

// complete has a shell complete what is known, and files where a file is meant.
func (p *program) complete(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	each := func(flag *pflag.Flag) {
		values, listed := known[flag.Name]
		switch {
		case flag.Value.Type() == "bool":
		case flag.Name == "for":
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, p.completeFor) // the flag is there, and has none yet
		case listed:
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		case slices.Contains(directories, flag.Name):
			_ = cmd.MarkFlagDirname(flag.Name)
		case flag.Value.Type() == "duration":
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, cobra.NoFileCompletions)
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(each)
	cmd.PersistentFlags().VisitAll(each)
	for _, sub := range cmd.Commands() {
		p.complete(sub)
	}
}

// completeFor lists what can be waited for. A configuration file that cannot be read adds nothing.
func (p *program) completeFor(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := []string{agent.IdentityName, config.KubeletClient}
	root, _ := cmd.Flags().GetString("root")
	file, _, err := p.loadFile(root)
	if err != nil {
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	for _, c := range file.Certificates {
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeFiles has a shell complete the name of a file.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}
