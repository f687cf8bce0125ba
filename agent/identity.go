package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/machine"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// newIdentity returns the keeper of the kubelet's client certificate, which is the node's identity: it alone can be asked
// for with a credential, it has a CA bundle and a kubeconfig around it, and it is proved by being used.
func newIdentity(a *Agent) *keeper {
	k := newKeeper(a, rotate.ClientName, a.store.Client, a.config.algorithm)
	k.forced, k.freshKey = a.config.force, a.config.force
	k.role = role{name: a.nameByCredential, load: a.loadIdentity, ways: a.ladder, stage: a.stageIdentity, admit: a.admitIdentity, settle: a.settleIdentity}
	return k
}

func (a *Agent) loadIdentity() (*sight, error) {
	disk, err := a.store.Load()
	if err != nil {
		return nil, err
	}
	if err := a.settleName(disk); err != nil {
		if !a.isReplaced(disk) {
			return nil, err
		}
		disk.Pair, disk.PairErr = nil, err
	}
	a.seeDisk(disk)
	return &sight{found: &disk.Found, disk: disk, template: csr.KubeletClient(a.node(), a.config.lifetime), mode: a.owner(&disk.Found)}, nil
}

// isReplaced reports whether what is on disk has taken the place of a certificate of this node that is still at hand.
func (a *Agent) isReplaced(disk *rotate.Disk) bool {
	last := a.identity.last
	return disk.Pair != nil && last != nil && last.Pair != nil && last.Pair.NodeName() == a.node() && disk.Pair.NodeName() != a.node()
}

// settleName decides which node this machine is. The name that it joined with wins over the host's, which may have
// changed; a name that the operator gave must fit.
func (a *Agent) settleName(disk *rotate.Disk) error {
	forced := a.identity != nil && a.identity.wants().forced
	if errors.Is(disk.KubeconfigErr, rotate.ErrUnmanaged) && !forced {
		return fault.New(fault.Files, "move it away to make this machine a node by certificate, or replace it with --force", "somebody else keeps this machine's identity: %w", disk.KubeconfigErr)
	}
	if disk.Pair == nil {
		return nil
	}
	joined, name := disk.Pair.NodeName(), a.node()
	switch {
	case joined == name || a.config.named && forced:
	case joined == "" && forced:
	case joined == "":
		return fault.New(fault.Files, "move it away, or replace it with --force", "the certificate in %s is of %q, which is no node", disk.PairPath, disk.Pair.Leaf.Subject)
	case a.config.named:
		return fault.New(fault.Files, "leave --node-name out to keep it, or become the other node with --force",
			"this machine is the node %q already, and is asked to become %q", joined, name)
	case a.identity != nil && a.identity.last != nil && a.identity.last.Pair != nil && a.identity.last.Pair.NodeName() == name:
		return fault.New(fault.Files, "look at who changed it", "the certificate in %s is of the node %q, and this machine is the node %q", disk.PairPath, joined, name)
	default:
		a.tell(Notice{Text: fmt.Sprintf("this machine stays the node %q that it joined as, although its host name is %q", joined, name)})
		a.setNode(joined)
	}
	return nil
}

// owner decides who rotates the identity: a kubelet that does it by itself is never fought over it.
func (a *Agent) owner(found *rotate.Found) Rotation {
	owner, note := a.config.rotation, ""
	if owner == RotationAgent {
		switch rotates, why := a.kubeletRotates(); {
		case rotates:
			owner, note = RotationKubelet, why
		case found.Replaced:
			owner, note = RotationKubelet, "another program has replaced the certificate in "+found.PairPath
		}
	}
	a.setOwner(owner, note)
	return owner
}

// kubeletRotates asks the kubelet whether it rotates the identity by itself.
func (a *Agent) kubeletRotates() (rotates bool, why string) {
	kubelet := a.kubelet()
	if kubelet == nil {
		return false, ""
	}
	return kubelet.RotatesItself()
}

// kubelet returns the settings of the kubelet on these files: of the one that runs, else of its configuration; nil where
// they are not known. Kubelets of other nodes may run here, too.
func (a *Agent) kubelet() *machine.Kubelet {
	path, root := a.config.kubeletConfig, a.config.paths.Root
	own := filepath.Join(root, a.config.paths.Kubeconfig)
	var k *machine.Kubelet
	var err error
	if p := machine.FindKubelet("/proc", own); p != nil && p.Kubeconfig() == own {
		k, err = machine.ReadKubelet(path, root, "/proc", own)
	} else {
		k, err = machine.KubeletConfig(path, root)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Debug("what the kubelet does is not known", "err", err)
	}
	return k
}

// stageIdentity prepares the commit: of the pair alone where everything around it is in place and stays, else of all.
func (a *Agent) stageIdentity(app *application) (staged, error) {
	if app.way.joined && app.sight.disk.Whole() {
		return slotCommit{a.store.Client}, nil
	}
	files, err := a.store.Stage(kubeconfigOf(app.cluster, app.conn, nil))
	if err != nil {
		return nil, err
	}
	return files, nil
}

// admitIdentity lets in what is the first and comes from the cluster's CA; everything else only after it has authenticated:
// it would replace another, or the bundle cannot tell whether the cluster knows its issuer.
func (a *Agent) admitIdentity(ctx context.Context, app *application, pair *rotate.KeyPair) error {
	if app.anchored && app.sight.found.Pair == nil {
		return nil
	}
	a.tell(Notice{Waiting: true, Text: "the request " + app.request.Name + " is issued; authenticating with the certificate before it becomes this node's"})
	_, err := a.authenticate(ctx, app.cluster, pair)
	if errors.Is(err, csr.ErrUnauthorized) {
		return a.identity.endRequest(fault.New(fault.Denied, "the signer's CA must be in the API server's --client-ca-file; nothing was written",
			"the issued certificate is refused: the API server does not accept it (401); its issuer is %q", pair.Leaf.Issuer))
	}
	if err != nil || !app.way.joined || !app.sight.disk.Whole() {
		return err
	}
	// What a kubelet will use it with stays as it is: this was the proof.
	return a.store.Client.Remember(func(record *rotate.Record) { record.Verified = pair.Fingerprint() })
}

// settleIdentity shows that the identity on disk works, by using it. Where the kubeconfig or the CA bundle is missing, is damaged
// or leads elsewhere, it is made anew first.
func (a *Agent) settleIdentity(ctx context.Context, s *sight) (func(*rotate.State), error) {
	disk := s.disk
	if !disk.Whole() {
		if err := a.repairKubeconfig(ctx, disk); err != nil {
			return nil, err
		}
		again, err := a.store.Load()
		if err != nil {
			return nil, err
		}
		if !again.Whole() {
			return nil, errAgain
		}
		*disk = *again
		s.found = &disk.Found
	}
	replaced := disk.Cluster != nil && !bytes.Equal(disk.Kubeconfig.CA, []byte(disk.Cluster.CA))
	if disk.Record.Verified != disk.Pair.Fingerprint() || replaced || a.identity.isSuspect() {
		if err := a.proveOverNetwork(ctx, disk, replaced); err != nil {
			return nil, err
		}
		a.identity.clearDoubt()
		a.identity.proved = true
	}
	a.removeUsedTokens(&disk.Record)
	a.settled = disk
	k := disk.Kubeconfig
	if a.daemon {
		a.comparePins(disk)
	}
	a.changedAround(disk)
	return func(state *rotate.State) {
		record := state.Certificates[rotate.ClientName]
		record.Verified = disk.Pair.Fingerprint()
		state.Certificates[rotate.ClientName] = record
		state.Cluster = &rotate.Remembered{Server: k.Server, TLSServerName: k.TLSServerName, ProxyURL: k.ProxyURL, CA: string(k.CA)}
	}, nil
}

// wakeOthers wakes what waits for the identity to work.
func (a *Agent) wakeOthers() {
	for _, other := range a.keepers[1:] {
		other.wake()
	}
	select {
	case a.proven <- struct{}{}:
	default:
	}
}

// removeUsedTokens removes the file of a credential that serves once and has led to the certificate that works. Another
// one that has been put there since is still to be used.
func (a *Agent) removeUsedTokens(record *rotate.Record) {
	if !a.config.hasSingleUse() || record.ObtainedWith == "" {
		return
	}
	note := ""
	for _, x := range a.config.accesses() {
		if x.usedUp == "" || x.credential.String() != record.ObtainedWith {
			continue
		}
		if wasHanded(x.usedUp) {
			note = x.credential.String() + " was used once, and cannot be removed here: it is a systemd credential"
			a.tell(Notice{Text: note, Remedy: removeHanded})
			note += "; " + removeHanded
			continue
		}
		if err := os.Remove(x.usedUp); err != nil && !errors.Is(err, os.ErrNotExist) {
			a.tell(Notice{Text: fmt.Sprintf("the used token could not be removed: %v", err), Remedy: "rm " + x.usedUp})
		}
	}
	a.board.mu.Lock()
	a.board.unremoved = note
	a.board.mu.Unlock()
}

// removeHanded is what to do about a used token that systemd has handed over: what the service sees of it is a copy, which
// nobody can change (systemd.exec(5), LoadCredential=) and which goes when the service ends.
const removeHanded = "remove it where it comes from: the file that LoadCredential= or LoadCredentialEncrypted= names (systemctl cat nodejoin), or the credential nodejoin.token of the host"

// repairKubeconfig makes the kubeconfig and the CA bundle for a pair that is there, once that has authenticated to the
// cluster that they will name: the one that is remembered, else the one that discovery finds.
func (a *Agent) repairKubeconfig(ctx context.Context, disk *rotate.Disk) error {
	if joined := a.clusterJoined(disk); joined != nil && disk.Cluster != nil {
		conn := a.connectionTo(joined, disk.Pair)
		defer conn.Close()
		err := a.commitAround(ctx, joined, conn, disk.Pair)
		if err == nil {
			a.log.Warn("the kubeconfig or the CA bundle was deleted or damaged and has been made anew", "kubeconfig", a.config.paths.Kubeconfig)
		}
		if err == nil || !fault.Is(err, fault.Untrusted) {
			return err
		}
	}
	var failures []failure
	for _, x := range a.config.accesses() {
		err := x.discoveryErr
		if err == nil {
			err = a.repairBy(ctx, x.discovery, disk.Pair)
		}
		if err == nil {
			return nil
		}
		failures = append(failures, failure{way: x.name, err: err})
	}
	return allClosed(failures)
}

// repairBy makes the kubeconfig and the CA bundle for a pair that is there, of the cluster that is discovered.
func (a *Agent) repairBy(ctx context.Context, discovery bootstrap.Discovery, pair *rotate.KeyPair) error {
	cluster, conn, err := bootstrap.Connect(ctx, discovery, nil, a.log)
	if err != nil {
		return err
	}
	defer conn.Close()
	return a.commitAround(ctx, cluster, conn, pair)
}

func (a *Agent) commitAround(ctx context.Context, cluster *bootstrap.Cluster, conn *bootstrap.Connection, pair *rotate.KeyPair) error {
	if _, err := a.authenticate(ctx, cluster, pair); err != nil {
		a.identity.markDead(pair, err)
		return err
	}
	return a.store.CommitKubeconfig(kubeconfigOf(cluster, conn, pair))
}

// kubeconfigOf returns the kubeconfig for a pair: its server is the one that the cluster names, and where the operator
// listed several, the one in use.
func kubeconfigOf(cluster *bootstrap.Cluster, conn *bootstrap.Connection, pair *rotate.KeyPair) *rotate.Kubeconfig {
	server := conn.Endpoint()
	if cluster.Named {
		server = cluster.Endpoints[0]
	}
	k := &rotate.Kubeconfig{Server: server.URL(), TLSServerName: cluster.TLSServerName, CA: cluster.CA.PEM(), Pair: pair}
	if cluster.ProxyURL != nil {
		k.ProxyURL = cluster.ProxyURL.String()
	}
	return k
}

// comparePins tells an operator who asks a machine that has joined to join another cluster that nothing was done.
func (a *Agent) comparePins(disk *rotate.Disk) {
	ca, err := bootstrap.ParseBundle(disk.Kubeconfig.CA, time.Now())
	if err == nil && len(a.config.pins) != 0 && ca.Pinned(a.config.pins).IsZero() {
		a.tell(Notice{Text: "none of the CA hashes that were given is of the cluster that this machine has joined", Remedy: "to join another cluster: nodejoin join --force ..."})
	}
}
