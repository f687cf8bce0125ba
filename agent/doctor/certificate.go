package doctor

import (
	"errors"
	"time"

	"github.com/nodejoin/nodejoin/rotate"
)

// overduePercent of its lifetime is when a certificate should have been rotated: the window ends at 90 %.
const overduePercent = 95

func (e *examination) checkCertificate(f *findings) {
	const again = "if the agent runs it is at work on that (nodejoin status); else: nodejoin join"
	switch {
	case e.DiskErr != nil:
		f.fail(Failure, e.DiskErr, "look at the files")
		return
	case e.Disk == nil:
		f.skip("the files of this machine's identity are not known")
		return
	case e.Disk.PairErr != nil:
		f.fail(Failure, e.Disk.PairErr, again)
		return
	case e.Disk.Pair == nil:
		f.add(Warning, again, "this machine has no certificate yet: it has not joined")
		if len(e.Disk.PendingKey) != 0 {
			f.ok("there is the key of a request that is under way")
		}
		return
	}
	pair, now := e.Disk.Pair, e.Now()
	leaf := pair.Leaf
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	switch {
	case pair.NodeName() != e.Node:
		f.add(Failure, "say which node this machine is (--node-name), or join anew: nodejoin join --force ...", "the certificate is of %q in %q, and this machine is the node %q", leaf.Subject.CommonName, leaf.Subject.Organization, e.Node)
	case now.Before(leaf.NotBefore):
		f.add(Failure, "check this machine's clock: timedatectl", "the certificate becomes valid only at %s", stamp(leaf.NotBefore))
	case !now.Before(leaf.NotAfter):
		f.add(Failure, "give this machine a credential that works, and it comes back by itself: kubeadm token create", "the certificate expired at %s", stamp(leaf.NotAfter))
	case now.Sub(leaf.NotBefore) > lifetime/100*overduePercent:
		f.add(Warning, "see what it waits for: nodejoin status", "the certificate expires at %s (in %s) and should have been rotated before", stamp(leaf.NotAfter), inWords(leaf.NotAfter.Sub(now)))
	default:
		f.ok("the certificate of the node %q is valid until %s (%s)", pair.NodeName(), stamp(leaf.NotAfter), inWords(leaf.NotAfter.Sub(now)))
	}
	if len(e.Disk.PendingKey) != 0 {
		f.ok("there is the key of a request that is under way: nodejoin status says what it waits for")
	}
}

// inWords rounds a time to what a person wants to know of it.
func inWords(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return plural(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return plural(int(d/time.Hour), "hour")
	case d >= 2*time.Minute:
		return plural(int(d/time.Minute), "minute")
	}
	return d.Round(time.Second).String()
}

func (e *examination) checkKubeconfig(f *findings) {
	const again = "if the agent runs it writes it anew; else: nodejoin join"
	path := e.on(e.Paths.Kubeconfig)
	switch {
	case e.Disk == nil:
		f.skip("the files of this machine's identity are not known")
	case errors.Is(e.Disk.KubeconfigErr, rotate.ErrUnmanaged):
		f.add(Failure, "move it away to make this machine a node by certificate, or replace it with: nodejoin join --force ...", "somebody else keeps this machine's identity: %s", e.Disk.KubeconfigErr)
	case e.Disk.KubeconfigErr != nil:
		f.fail(Failure, e.Disk.KubeconfigErr, again)
	case e.Disk.Kubeconfig == nil && e.Disk.Pair != nil:
		f.add(Failure, again, "the kubeconfig %s is missing: a kubelet cannot start", path)
	case e.Disk.Kubeconfig == nil:
		f.skip("this machine has not joined")
	case e.Disk.Pair == nil || e.Disk.Kubeconfig.Pair.Fingerprint() != e.Disk.Pair.Fingerprint():
		f.add(Failure, again, "the kubeconfig %s leads to another certificate than %s", path, e.Disk.PairPath)
	default:
		f.ok("%s leads to the certificate and to %s", path, e.Disk.Kubeconfig.Server)
	}
}

func (e *examination) checkConfig(f *findings) {
	switch {
	case e.ConfigErr != nil:
		f.fail(Failure, e.ConfigErr, "nodejoin config validate")
	case e.ConfigFile != "":
		f.ok("%s is in order", e.ConfigFile)
	default:
		f.ok("there is no configuration file: flags and defaults apply")
	}
}
