package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

const defaultTokenTTL = 24 * time.Hour // kubeadm's

func (p *program) tokenCommand() *cobra.Command {
	return groupCommand("token", "Make, list and delete bootstrap tokens (for an administrator)",
		`token does what kubeadm token does, in clusters that kubeadm did not make, too. The tokens of the two are the same.`,
		p.tokenCreateCommand(), p.tokenListCommand(), p.tokenDeleteCommand())
}

// tokenCreation is what token create is asked for.
type tokenCreation struct {
	kubeconfig string
	node       string
	line       bool
	userData   machineOptions
	machine    cloudinit.Machine
	new        admin.NewToken
}

func (p *program) tokenCreateCommand() *cobra.Command {
	var c tokenCreation
	cmd := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a bootstrap token",
		Long: `create makes a bootstrap token, with which machines can join, and prints it; or the line with which one joins; or the user data
with which cloud-init makes it a node at its first boot. A TOKEN of your own is ID.SECRET, of 6 and 16 characters of a-z and 0-9; others on
this machine can see it while the command runs: without one, a random token is made.

Whoever holds a bootstrap token can join as any node. For one that is good for one node only, see: nodejoin bundle --help

` + cloudInitHelp + `

The cluster must let the token's group join: nodejoin manifests --bootstrap-tokens --rotation --cluster-info | kubectl apply -f -

` + exitHelp,
		Example: `  nodejoin token create
  nodejoin token create --print-join-command --ttl 1h
  nodejoin token create --node worker-1 --ttl 15m --cloud-init >user-data
  nodejoin token create --ttl 1h --cloud-init --install apt=https://pkgs.example.com/apt --install-key nodejoin.asc >user-data`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fault.New(fault.Usage, "see: "+cmd.CommandPath()+" --help", "there are %d arguments instead of one TOKEN or none", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("groups") && !slices.Contains(c.new.Usages, admin.UsageAuthentication) {
				c.new.Groups = nil
			}
			if err := c.check(args); err != nil {
				return err
			}
			return asAdmin(cmd, c.kubeconfig, func(ctx context.Context, client *admin.Client) error { return p.createToken(ctx, client, &c) })
		},
	}
	addAdminFlags(cmd, &c.kubeconfig)
	f := cmd.Flags()
	f.StringVar(&c.node, "node", "", "name of the node in the join line or in the user data")
	f.DurationVar(&c.new.TTL, "ttl", defaultTokenTTL, "time until the token expires; 0 for never")
	f.StringSliceVar(&c.new.Groups, "groups", []string{admin.DefaultTokenGroup}, "groups that its holder is in, beside system:bootstrappers")
	f.StringSliceVar(&c.new.Usages, "usages", []string{admin.UsageSigning, admin.UsageAuthentication}, "what it is for: signing (of cluster-info), authentication")
	f.StringVar(&c.new.Description, "description", "", "what it is for, for people")
	f.BoolVar(&c.line, "print-join-command", false, "print the line with which a machine joins, in the place of the token")
	c.userData.addFlags(f)
	return cmd
}

// check refuses what cannot be meant, before the cluster is asked.
func (c *tokenCreation) check(args []string) (err error) {
	if len(args) == 1 {
		if c.new.Token, err = bootstrap.ParseToken(args[0]); err != nil {
			return fault.New(fault.Usage, "leave it out, and a random one is made", "%w", err)
		}
	}
	if c.node != "" {
		if c.node, err = csr.ParseNodeName(c.node); err != nil {
			return err
		}
	}
	if c.machine, err = c.userData.machine(); err != nil {
		return err
	}
	switch {
	case c.line && c.userData.cloudInit:
		return fault.New(fault.Usage, "give one of them", "--print-join-command and --cloud-init exclude each other")
	case c.node != "" && !c.line && !c.userData.cloudInit:
		return fault.New(fault.Usage, "add --print-join-command or --cloud-init; for a credential that is good for this node alone: nodejoin bundle "+c.node,
			"--node names the node in the join line or in the user data, and a token alone has no name in it")
	case (c.line || c.userData.cloudInit) && len(c.new.Usages) == 1:
		return fault.New(fault.Usage, "leave out --usages", "a machine that joins needs a token for signing and for authentication")
	}
	return c.new.Check()
}

// createdToken is what token create has made, its secret included: that is what it is for.
type createdToken struct {
	Token string `json:"token"`
	admin.TokenInfo
	JoinCommand string `json:"joinCommand,omitempty"`
	UserData    string `json:"userData,omitempty"`
}

func (p *program) createToken(ctx context.Context, client *admin.Client, c *tokenCreation) (err error) {
	invitation, published := admin.Invitation{Node: c.node}, false
	if c.line || c.userData.cloudInit {
		if invitation.Cluster, published, err = client.ClusterForNodes(ctx); err != nil {
			return err
		}
	}
	token, about, err := client.CreateToken(ctx, c.new)
	if err != nil {
		return err
	}
	made := createdToken{Token: token.Bearer().Reveal(), TokenInfo: *about}
	text := made.Token
	defer func() {
		if err != nil {
			p.note("the bootstrap token "+token.ID+" was made all the same", "nodejoin token delete "+token.ID)
		}
	}()
	if invitation.Cluster != nil {
		invitation.Token, invitation.Expires = token, about.Expires
		if err := p.readyToJoin(ctx, client, &invitation, published); err != nil {
			return err
		}
	}
	if c.line {
		made.JoinCommand = invitation.Command()
		text = made.JoinCommand
	}
	if c.userData.cloudInit {
		data, err := invitation.UserData(c.machine)
		if err != nil {
			return err
		}
		made.UserData = string(data)
		text = made.UserData
	}
	return p.print(made, text)
}

// readyToJoin waits until a machine can join with the invitation, and says what keeps it from that, and what else to know.
func (p *program) readyToJoin(ctx context.Context, client *admin.Client, i *admin.Invitation, published bool) error {
	if published {
		err := client.WaitSigned(ctx, i.Token)
		if err != nil && !errors.Is(err, admin.ErrUnsigned) {
			return err
		}
		if err != nil {
			p.note("cluster-info is not signed with the token "+i.Token.ID+" yet: until it is, no machine can join with it", admin.StartSigner)
		}
	} else {
		p.note("the cluster has no kube-public/cluster-info: until it has, no machine can find it with a token", "nodejoin cluster-info publish")
	}
	if i.Node != "" {
		p.note("whoever holds this token can join as any node, not only as "+i.Node, "a credential for this node alone: nodejoin bundle "+i.Node)
	}
	return nil
}

func (p *program) tokenListCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the bootstrap tokens",
		Long: `list shows the cluster's bootstrap tokens, each by its ID: the six characters before the dot. Unlike kubeadm's, it never shows a
token's secret; whoever has lost it makes a new token.

` + exitHelp,
		Example: `  nodejoin token list
  nodejoin token list -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asAdmin(cmd, kubeconfig, func(ctx context.Context, client *admin.Client) error {
				tokens, err := client.Tokens(ctx)
				if err != nil {
					return err
				}
				if len(tokens) == 0 {
					p.note("there is no bootstrap token", "")
				}
				return p.print(struct {
					Tokens []admin.TokenInfo `json:"tokens"`
				}{tokens}, tokenTable(tokens, time.Now()))
			})
		},
	}
	addAdminFlags(cmd, &kubeconfig)
	return cmd
}

// tokenTable is kubeadm's table, with the problems at its end.
func tokenTable(tokens []admin.TokenInfo, now time.Time) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for _, t := range tokens {
		ttl, expires := "<forever>", "<never>"
		if t.Expires != nil {
			ttl, expires = t.Expires.Sub(now).Round(time.Second).String(), t.Expires.Format(time.RFC3339)
		}
		if t.Problem != "" {
			ttl = "<invalid>"
		}
		list := func(items []string) string { return cmp.Or(oneLine(strings.Join(items, ",")), "<none>") }
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", bootstrap.Token{ID: t.ID}, ttl, expires, list(t.Usages), list([]string{t.Description}), list(t.Groups))
	}
	_ = w.Flush() // a bytes.Buffer takes everything
	for _, t := range tokens {
		if t.Problem != "" {
			fmt.Fprintf(&out, "\nThe token %s is not accepted: %s\n", t.ID, oneLine(t.Problem))
		}
	}
	return out.String()
}

func (p *program) tokenDeleteCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   "delete ID|TOKEN...",
		Short: "Delete bootstrap tokens",
		Long: `delete deletes bootstrap tokens: nobody can join with them any more, once the API server has forgotten that it has just seen them,
which takes some ten seconds. Nodes that have joined stay.

` + exitHelp,
		Example: `  nodejoin token delete abcdef`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Usage, "nodejoin token list shows what there is", "it is not said which token to delete")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := make([]string, len(args))
			for i, arg := range args {
				var err error
				if ids[i], err = admin.ParseTokenID(arg); err != nil {
					return err
				}
			}
			return asAdmin(cmd, kubeconfig, func(ctx context.Context, client *admin.Client) error { return p.deleteTokens(ctx, client, ids) })
		},
	}
	addAdminFlags(cmd, &kubeconfig)
	return cmd
}

// deleteTokens goes on after one that fails: each that is left is one that somebody can join with.
func (p *program) deleteTokens(ctx context.Context, client *admin.Client, ids []string) error {
	var deleted []string
	var text strings.Builder
	var failed error
	for _, id := range ids {
		if err := client.DeleteToken(ctx, id); err != nil {
			if failed != nil {
				p.note(failed.Error(), fault.Remedy(failed))
			}
			failed = err
			continue
		}
		deleted = append(deleted, id)
		fmt.Fprintf(&text, "The bootstrap token %s is deleted\n", id)
	}
	if failed != nil && (p.output != "text" || len(deleted) == 0) { // a machine gets one document: the failure
		return failed
	}
	return errors.Join(p.print(struct {
		Deleted []string `json:"deleted"`
	}{deleted}, text.String()), failed)
}
