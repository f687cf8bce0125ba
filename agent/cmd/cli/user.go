package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/issue"
	"github.com/nodejoin/nodejoin/csr"
)

// defaultUserLifetime is a working day: what cannot be revoked had better end.
const defaultUserLifetime = 8 * time.Hour

// userOptions are the flags of user, and what follows from them.
type userOptions struct {
	name              string
	groups            []string
	lifetime, timeout time.Duration
	approve           bool
	algorithm         string
	role, clusterRole string
	namespace         string
	apply             bool
	out               string
	csrFile, keyPath  string
	renew             string
	server            string
	kubeconfig        string
}

func (p *program) userCommand() *cobra.Command {
	var o userOptions
	cmd := &cobra.Command{
		Use:   "user NAME",
		Short: "Give a person a certificate and a kubeconfig",
		Long: `user makes a key, has the cluster sign a certificate for the user NAME in the groups that are given, and writes a kubeconfig.
The request is approved with your own right (--approve), or waits for somebody's "kubectl certificate approve". An interrupted
wait is gone on with by the same command: the key is kept in OUT.pending until then.

With --role or --cluster-role, the binding that gives the user these rights is printed, for kubectl apply -f -, or applied
(--apply). With --csr, the key never leaves its owner, who made a request with openssl; the kubeconfig then names the key by
its path (--client-key).

--renew FILE gets a new certificate for the user of a kubeconfig, for the same name and groups, and puts it into the file; all
else in it is kept, and the file stays as it is if anything fails. It gets a new key, too, unless the file names the key by
its path: then the same key is used, since two files cannot be replaced at once. It is asked for with the
administrator's kubeconfig, as everything here; who may ask for himself gives his own file with --kubeconfig.

A certificate cannot be revoked: prefer a short --lifetime.

` + exitHelp,
		Example: `  nodejoin user jane --group developers --approve --role edit --namespace team-a | kubectl apply -f -
  nodejoin user jane --group developers --csr jane.csr --client-key /home/jane/jane.key
  nodejoin user --renew jane.kubeconfig --approve`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.renew != "" && len(args) == 0 {
				return nil
			}
			return oneName("the user's")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.name = args[0]
			}
			return p.user(cmd, &o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.groups, "group", nil, "group of the user; may be repeated")
	f.DurationVar(&o.lifetime, "lifetime", defaultUserLifetime, "lifetime to ask for, 10m or more; 0 for the cluster's own")
	f.BoolVar(&o.approve, "approve", false, "approve the request with your own right, instead of waiting for somebody")
	f.StringVar(&o.role, "role", "", "ClusterRole that the user gets in --namespace")
	f.StringVar(&o.namespace, "namespace", "", "namespace of --role")
	f.StringVar(&o.clusterRole, "cluster-role", "", "ClusterRole that the user gets everywhere")
	f.BoolVar(&o.apply, "apply", false, "apply the binding instead of printing it")
	f.StringVar(&o.out, "out", "", "kubeconfig to make, mode 0600; - is standard output (default NAME.kubeconfig)")
	f.StringVar(&o.algorithm, "key-algorithm", "", fmt.Sprintf("kind of the private key: %s (default %s)", strings.Join(csr.Algorithms(), ", "), csr.DefaultAlgorithm))
	f.StringVar(&o.csrFile, "csr", "", "PKCS#10 request of the user's own, in PEM, as openssl req makes it")
	f.StringVar(&o.keyPath, "client-key", "", "path of the key that --csr was made with, as the kubeconfig is to name it (default that of --csr, with .key)")
	f.StringVar(&o.renew, "renew", "", "kubeconfig to put a new certificate into")
	f.StringVar(&o.server, "server", "", "API server as the user reaches it, HOST:PORT (default the kubeconfig's)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", kubeconfigHelp)
	f.DurationVar(&o.timeout, "timeout", agent.DefaultTimeout, "how long to wait for approval")
	return cmd
}

func (p *program) user(cmd *cobra.Command, o *userOptions) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	if o.renew != "" {
		return p.renewUser(cmd, o)
	}
	if err := o.checkNew(); err != nil {
		return err
	}
	var request *csr.Request
	if o.csrFile != "" {
		var err error
		if request, err = o.readCSR(); err != nil {
			return err
		}
		o.groups = request.Template.Organization
	}
	place, err := openCluster(o.kubeconfig, o.server)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	if err := p.checkUsersApprover(ctx, o, place); err != nil {
		return err
	}
	keep, key := issue.Pending{Path: o.file() + issue.PendingSuffix}, issue.Key{Path: o.keyPath}
	if request == nil {
		if request, err = keep.Request(issue.UserTemplate(o.name, o.groups, o.lifetime), csr.Algorithm(o.algorithm)); err != nil {
			return err
		}
		key = issue.Key{Inline: request}
	}
	issued, err := p.issueUser(ctx, o, place, request)
	if err != nil {
		return o.giveUp(keep, key.Inline != nil, err)
	}
	kubeconfig, err := place.kubeconfig(o.name, o.namespace, issued.Chain, key)
	if err != nil {
		return err
	}
	if err := p.writeUser(o, kubeconfig); err != nil {
		return err
	}
	if key.Inline != nil {
		if err := keep.Done(); err != nil {
			return err
		}
	}
	p.userNotes(o, place, issued)
	return p.bind(ctx, o, place, issued)
}

// writeUser writes the kubeconfig where it was asked for.
func (p *program) writeUser(o *userOptions, kubeconfig *v1.Config) error {
	data, err := yaml.Marshal(kubeconfig)
	switch {
	case err != nil:
		return err
	case o.out == "-":
		return p.print(kubeconfig, string(data))
	}
	return issue.Create(o.file(), data)
}

// giveUp returns the error, and removes the key of a request that has ended.
func (o *userOptions) giveUp(keep issue.Pending, kept bool, err error) error {
	if kept && issue.Ended(err) {
		if failed := keep.Done(); failed != nil {
			return failed
		}
	}
	return err
}

// checkUsersApprover refuses --approve of a user who may not, before anything is made.
func (p *program) checkUsersApprover(ctx context.Context, o *userOptions, place *cluster) error {
	if !o.approve {
		return nil
	}
	err := p.checkApprover(ctx, place)
	if fault.Is(err, fault.Refused) {
		return fault.New(fault.Refused, "leave --approve out, and have somebody approve who may; or "+fault.Remedy(err), "%w", err)
	}
	return err
}

func (p *program) issueUser(ctx context.Context, o *userOptions, place *cluster, request *csr.Request) (*csr.Issued, error) {
	var approval *csr.Approval
	if o.approve {
		who, err := place.admin.WhoAmI(ctx)
		if err != nil {
			return nil, err
		}
		approval = &csr.Approval{Reason: "NodejoinUser", Message: fmt.Sprintf("%s made a kubeconfig for the user %s (nodejoin user --approve)", who, request.Template.CommonName)}
	}
	return p.issueFrom(ctx, place, request, o.timeout, approval)
}

// userNotes says what a person wants to know of what was made.
func (p *program) userNotes(o *userOptions, place *cluster, issued *csr.Issued) {
	what := "the kubeconfig"
	if o.out != "-" {
		what += " " + o.file()
	}
	groups := "no groups"
	if len(o.groups) != 0 {
		groups = "the groups " + strings.Join(o.groups, ", ")
	}
	p.say("%s is the user %s in %s, until %s (%s)", what, o.name, groups, issued.Leaf.NotAfter.Format(time.RFC3339), inWords(time.Until(issued.Leaf.NotAfter).Round(time.Minute)))
	p.longerNote(issued, o.lifetime)
	p.say("note: a certificate cannot be revoked: whoever has its key is that user until then")
	place.loopbackNote(p, "the user")
}

// userResult is what user prints for a machine.
type userResult struct {
	User       string       `json:"user"`
	Groups     []string     `json:"groups"`
	Kubeconfig string       `json:"kubeconfig"`
	Server     string       `json:"server,omitempty"`
	Serial     string       `json:"serial"`
	NotAfter   time.Time    `json:"notAfter"`
	Binding    admin.Object `json:"binding,omitempty"`
}

// bind applies the binding or prints it, and prints the result.
func (p *program) bind(ctx context.Context, o *userOptions, place *cluster, issued *csr.Issued) error {
	binding := o.binding()
	if binding != nil && o.apply {
		if err := place.admin.Apply(ctx, binding); err != nil {
			return fmt.Errorf("the kubeconfig is made, but the binding is not: %w", err)
		}
		p.say("applied: %s", binding.GetName())
	}
	switch {
	case o.out == "-":
		return nil // the result was printed
	case p.output != "text":
		return p.print(userResult{
			User: o.name, Groups: o.groups, Kubeconfig: o.file(), Server: place.server,
			Serial: issued.Leaf.SerialNumber.Text(16), NotAfter: issued.Leaf.NotAfter, Binding: binding,
		}, "")
	case binding == nil || o.apply:
		return nil
	}
	data, err := yaml.Marshal(binding)
	if err != nil {
		return err
	}
	return p.printRaw(data)
}

// binding returns the binding that is asked for; nil if none is.
func (o *userOptions) binding() admin.Object {
	switch {
	case o.role != "":
		return issue.RoleBinding(o.name, o.role, o.namespace)
	case o.clusterRole != "":
		return issue.ClusterRoleBinding(o.name, o.clusterRole)
	}
	return nil
}

// file returns the path of the kubeconfig, and where there is none the one that it would have.
func (o *userOptions) file() string {
	switch {
	case o.renew != "":
		return o.renew
	case o.out == "" || o.out == "-":
		return o.name + ".kubeconfig"
	}
	return o.out
}
