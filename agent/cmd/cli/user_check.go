package cli

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/issue"
	"github.com/nodejoin/nodejoin/csr"
)

// check refuses flags that cannot be right, for a new user and for a renewal.
func (o *userOptions) check(cmd *cobra.Command) error {
	help := "see: " + cmd.CommandPath() + " --help"
	var err error
	if o.lifetime, err = csr.ParseLifetime(o.lifetime); err != nil {
		return err
	}
	if o.algorithm != "" {
		if _, err := csr.ParseAlgorithm(o.algorithm); err != nil {
			return err
		}
	} else {
		o.algorithm = string(csr.DefaultAlgorithm)
	}
	switch {
	case o.timeout <= 0:
		return fault.New(fault.Usage, "give a time above zero, for example 15m", "the time-out is zero")
	case o.role != "" && o.clusterRole != "":
		return fault.New(fault.Usage, "give one of them; kubectl create rolebinding makes more", "--role and --cluster-role are both given")
	case o.role != "" && o.namespace == "":
		return fault.New(fault.Usage, "give the namespace with --namespace, or --cluster-role for all of them", "--role gives rights in a namespace, and none is given")
	case o.namespace != "" && o.role == "":
		return fault.New(fault.Usage, "give a ClusterRole with --role, for example edit", "--namespace is that of --role, which is not given")
	case o.apply && o.role == "" && o.clusterRole == "":
		return fault.New(fault.Usage, "give --role or --cluster-role", "there is no binding to apply")
	case o.keyPath != "" && o.csrFile == "":
		return fault.New(fault.Usage, "give the request that was made with the key with --csr", "--client-key is of use with --csr only")
	case o.csrFile != "" && cmd.Flags().Changed("key-algorithm"):
		return fault.New(fault.Usage, "leave --key-algorithm out", "the key of --csr is there already")
	}
	if strings.ContainsAny(o.role+o.clusterRole, "/%") {
		return fault.New(fault.Usage, "see which there are: kubectl get clusterroles", "there is no ClusterRole of such a name: %q", o.role+o.clusterRole)
	}
	if o.namespace != "" {
		if err := issue.CheckNamespace(o.namespace); err != nil {
			return err
		}
	}
	if o.renew == "" {
		return nil
	}
	for _, name := range []string{"group", "out", "server", "role", "cluster-role", "client-key"} {
		if cmd.Flags().Changed(name) {
			return fault.New(fault.Usage, help, "--renew keeps what is in the kubeconfig: --%s cannot be given with it", name)
		}
	}
	return nil
}

// checkNew refuses what cannot be a new user.
func (o *userOptions) checkNew() error {
	if err := o.checkSubject(); err != nil {
		return err
	}
	if o.csrFile != "" && o.keyPath == "" {
		o.keyPath = strings.TrimSuffix(o.csrFile, filepath.Ext(o.csrFile)) + ".key"
		if from, err := filepath.Rel(filepath.Dir(o.file()), o.keyPath); err == nil && !filepath.IsAbs(o.keyPath) {
			o.keyPath = from // a kubeconfig's paths start from where it is
		}
	}
	if o.out == "-" {
		if o.binding() != nil && !o.apply {
			return fault.New(fault.Usage, "give a file with --out, or --apply", "the kubeconfig and the binding cannot both go to standard output")
		}
		return nil
	}
	return issue.Absent(o.file(), "for a new certificate in it: nodejoin user --renew "+o.file()+"; else give another path with --out")
}

// checkSubject refuses a name and groups that no person may have.
func (o *userOptions) checkSubject() error {
	if err := issue.CheckUser(o.name); err != nil {
		return err
	}
	return issue.CheckGroups(o.groups)
}
