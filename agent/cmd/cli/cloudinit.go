package cli

import (
	"errors"
	"io/fs"

	"github.com/spf13/pflag"

	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/issue"
)

// machineOptions are the flags that say what user data for cloud-init has a machine do.
type machineOptions struct {
	cloudInit           bool
	install, installKey string
	kubelet             bool
}

// cloudInitHelp is what the commands with these flags say of them.
const cloudInitHelp = `With --cloud-init, what is printed is complete user data: the machine has nodejoin in its image or installs it as --install says, runs
it as a service, which keeps the identity, and starts its kubelet.service, if it has one, when the identity is there. --install is the path
of a package that the machine has, http(s)://HOST/PATH.deb#sha256=HEX (or .rpm), or a repository: apt=URL, "apt=URL SUITE COMPONENT", dnf=URL.
Give the user data to one machine, and keep it as secret as what is in it.`

func (o *machineOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.cloudInit, "cloud-init", false, "print user data for cloud-init instead")
	f.StringVar(&o.install, "install", "", "how cloud-init installs nodejoin: a package or a repository (default the image has it)")
	f.StringVar(&o.installKey, "install-key", "", "file with the public key of the repository, in ASCII armour")
	f.BoolVar(&o.kubelet, "kubelet", true, "have cloud-init start kubelet.service, if there is one, when the identity is there")
}

// machine returns what the flags say, once they make sense.
func (o *machineOptions) machine() (m cloudinit.Machine, err error) {
	m.NoKubelet = !o.kubelet
	switch {
	case !o.cloudInit && (o.install != "" || o.installKey != "" || !o.kubelet):
		return m, fault.New(fault.Usage, "add --cloud-init", "--install, --install-key and --kubelet are for the user data of cloud-init")
	case o.install == "" && o.installKey != "":
		return m, fault.New(fault.Usage, "add --install apt=URL or dnf=URL", "--install-key is for a repository, and none is given")
	case o.install == "":
		return m, nil
	}
	var key []byte
	if o.installKey != "" {
		if key, err = issue.ReadSmall(o.installKey); errors.Is(err, fs.ErrNotExist) {
			return m, fault.New(fault.Usage, "give the file with the repository's public key with --install-key", "there is no %s", o.installKey)
		} else if err != nil {
			return m, fault.New(fault.Usage, "give the file with the repository's public key with --install-key", "%w", err)
		}
	}
	m.Install, err = cloudinit.ParseInstall(o.install, key)
	return m, err
}
