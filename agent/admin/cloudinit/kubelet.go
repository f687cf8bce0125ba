package cloudinit

const (
	kubeletUnit   = "kubelet.service"
	kubeletDropIn = "/etc/systemd/system/" + kubeletUnit + ".d/10-nodejoin.conf"

	// kubeletWaits is the drop-in with which a kubelet waits for the identity: systemd/examples has it with more words. env looks
	// for the program when the kubelet starts, in the PATH of services: a package has it in /usr/bin, an installation by hand in
	// /usr/local/bin. Without env, systemd 239 to 249 would look for it when it reads the unit, which may be before it is there.
	kubeletWaits = `# The kubelet starts when this node's identity can be used, and not before. The boot does not wait for that.
[Unit]
Wants=nodejoin.service
After=nodejoin.service multi-user.target

[Service]
ExecStartPre=/usr/bin/env nodejoin wait --timeout=0
TimeoutStartSec=infinity
`
)

// addKubelet has kubelet.service wait for the identity.
func (d *document) addKubelet() {
	// systemd has read the units by the time that cloud-init writes a file, and the boot would start the kubelet without the
	// drop-in. A pattern matches what is loaded, and is content where nothing is: it may be that the image has no kubelet.
	d.BootCommand = append(d.BootCommand, command{
		"cloud-init-per", "instance", "nodejoin-kubelet", "systemctl", "--no-block", "stop", "kubelet.servic[e]",
	})
	// Deferred: the script of a kubelet's own package would wait for a kubelet that waits for an agent that comes after it.
	f := newFile(kubeletDropIn, public, []byte(kubeletWaits))
	f.Defer = true
	d.WriteFiles = append(d.WriteFiles, f)
	d.RunCommand = append(
		d.RunCommand,
		command{"systemctl", "daemon-reload"},
		command{"systemctl", "enable", kubeletUnit},
		command{"systemctl", "restart", "--no-block", kubeletUnit},
	)
}
