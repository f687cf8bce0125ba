package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/issue"
	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/csr"
)

// bundleOptions are the flags of bundle.
type bundleOptions struct {
	ttl, timeout     time.Duration
	out, group       string
	server           string
	kubeconfig, node string
	userData         machineOptions
	machine          cloudinit.Machine
}

func (p *program) bundleCommand() *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle NAME",
		Short: "Make a joining certificate that can become the node NAME only",
		Long: `bundle has the cluster sign a certificate with which a machine can join as the node NAME, for a quarter of an hour, and as
no other. It prints one file with everything in it: server, CA, certificate and key. On the machine, the command is
"nodejoin join --bundle FILE".

` + cloudInitHelp + `

It uses the administrator's kubeconfig, as kubectl does: the user must be allowed to create certificate signing requests and
to approve those of the signer kubernetes.io/kube-apiserver-client. The bundle's group needs two rights, once in a
cluster's life: nodejoin manifests --name-bound | kubectl apply -f -

Whoever holds the file can become that node until it expires. A certificate cannot be revoked.

` + exitHelp,
		Example: `  nodejoin bundle worker-7 --out worker-7.conf
  nodejoin bundle worker-7 --server api.example.com:6443 --cloud-init > user-data
  nodejoin bundle worker-7 | ssh root@worker-7 'umask 077 && cat > /etc/nodejoin/bundle.conf && nodejoin join --bundle /etc/nodejoin/bundle.conf'`,
		Args: oneName("the node's"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.bundle(cmd.Context(), &o, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.DurationVar(&o.ttl, "ttl", 15*time.Minute, "how long it is good for, 10m or more")
	f.StringVar(&o.out, "out", "-", "file to make, mode 0600; - is standard output")
	o.userData.addFlags(f)
	f.StringVar(&o.server, "server", "", "API server as the node reaches it, HOST:PORT (default the kubeconfig's)")
	f.StringVar(&o.group, "group", review.JoinersGroup, "group that the certificate is in")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", kubeconfigHelp)
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait for the cluster's signer")
	return cmd
}

// oneName wants one argument: a name.
func oneName(whose string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fault.New(fault.Usage, "see: "+cmd.CommandPath()+" --help", "there are %d arguments instead of one, %s name", len(args), whose)
		}
		return nil
	}
}

func (p *program) bundle(ctx context.Context, o *bundleOptions, name string) error {
	if err := o.check(name); err != nil {
		return err
	}
	place, err := openCluster(o.kubeconfig, o.server)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	if err := p.checkApprover(ctx, place); err != nil {
		return err
	}
	key, err := csr.GenerateKey(csr.DefaultAlgorithm)
	if err != nil {
		return err
	}
	request, err := csr.NewRequest(issue.NodeTemplate(o.node, o.group, o.ttl), key)
	if err != nil {
		return err
	}
	who, err := place.admin.WhoAmI(ctx)
	if err != nil {
		return err
	}
	issued, err := p.issueFrom(ctx, place, request, o.timeout, &csr.Approval{
		Reason: "NodejoinBundle", Message: fmt.Sprintf("%s made a bundle (nodejoin bundle) with which a machine can join as the node %s", who, o.node),
	})
	if err != nil {
		return err
	}
	kubeconfig, err := place.kubeconfig(request.Template.CommonName, "", issued.Chain, issue.Key{Inline: request})
	if err != nil {
		return err
	}
	if err := p.printBundle(o, place, kubeconfig, issued); err != nil {
		return err
	}
	p.bundleNotes(ctx, o, place, issued)
	return nil
}

// checkApprover refuses a user who may not approve what is to be made, before anything is. Where that cannot be found out it goes
// on: the API server says it when it comes to the approval.
func (p *program) checkApprover(ctx context.Context, place *cluster) error {
	err := place.admin.CheckApprover(ctx, certificates.KubeAPIServerClientSignerName)
	if errors.Is(err, admin.ErrUnasked) && ctx.Err() == nil {
		p.note("it is not known whether you may approve the request: "+err.Error(), "")
		return nil
	}
	return err
}

func (o *bundleOptions) check(name string) (err error) {
	if o.node, err = csr.ParseNodeName(name); err != nil {
		return fault.New(fault.Usage, strings.ReplaceAll(fault.Remedy(err), " with --node-name", ""), "%w", err)
	}
	if err := issue.CheckJoiners(o.group); err != nil {
		return err
	}
	if o.machine, err = o.userData.machine(); err != nil {
		return err
	}
	if o.ttl, err = csr.ParseLifetime(o.ttl); err != nil || o.ttl == 0 {
		return fault.New(fault.Usage, "give 10m or more with --ttl", "%w", cmp.Or(err, errors.New("the lifetime is zero")))
	}
	if o.out != "-" {
		return issue.Absent(o.out, "give another path with --out, or rm "+o.out)
	}
	return nil
}

// printBundle prints or writes the kubeconfig, or user data with it.
func (p *program) printBundle(o *bundleOptions, place *cluster, kubeconfig *v1.Config, issued *csr.Issued) error {
	data, err := yaml.Marshal(kubeconfig)
	if err != nil {
		return err
	}
	if o.userData.cloudInit {
		if data, err = admin.BundleUserData(o.node, issued.Leaf.NotAfter, data, o.machine); err != nil {
			return err
		}
	}
	if o.out == "-" {
		if o.userData.cloudInit {
			return p.printRaw(data)
		}
		return p.print(kubeconfig, string(data))
	}
	if err := issue.Create(o.out, data); err != nil {
		return err
	}
	if p.output == "text" {
		return nil
	}
	return p.print(struct {
		Node     string    `json:"node"`
		File     string    `json:"file"`
		Server   string    `json:"server"`
		NotAfter time.Time `json:"notAfter"`
	}{o.node, o.out, place.server, issued.Leaf.NotAfter}, "")
}

// bundleNotes says what a person wants to know of the bundle.
func (p *program) bundleNotes(ctx context.Context, o *bundleOptions, place *cluster, issued *csr.Issued) {
	what := "the bundle"
	if o.out != "-" {
		what += " " + o.out
	}
	p.say("%s makes a machine the node %s of %s until %s (%s), and no other node", what, o.node, place.server,
		issued.Leaf.NotAfter.Format(time.RFC3339), inWords(time.Until(issued.Leaf.NotAfter).Round(time.Minute)))
	p.longerNote(issued, o.ttl)
	place.loopbackNote(p, "the machine")
	allowed, err := place.admin.MayJoin(ctx, csr.NodeUser+o.node, []string{o.group, "system:authenticated"})
	switch {
	case err != nil:
		p.say("note: it could not be seen whether the group %s may join: %s", o.group, oneLine(err.Error()))
	case !allowed:
		manifests := "nodejoin manifests --name-bound"
		if o.group != review.JoinersGroup {
			manifests += " --group " + o.group
		}
		p.note("the group "+o.group+" may not join yet", manifests+" | kubectl apply -f -")
	}
}
