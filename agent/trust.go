package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

// followTrust keeps the CA bundle on disk the cluster's until ctx ends.
func (a *Agent) followTrust(ctx context.Context) {
	if a.config.options.FixedTrust {
		return
	}
	ctx = bootstrap.WithProgress(ctx, func() { a.beat("trust") })
	bootstrap.Progress(ctx)
	f := &follower{agent: a}
	pause := backoff{first: time.Second, longest: mostTrustPause}
	for ctx.Err() == nil {
		every, wasSet := a.config.trustEvery, a.watchClock()
		until := a.now().Add(every - every/10 + rand.N(every/5+1)) //nolint:gosec // jitter is no secret
		err := f.follow(ctx)
		if every > idleAfter {
			a.rest()
		}
		if err == nil || errors.Is(err, bootstrap.ErrNoTrustBundle) {
			pause.pause = 0
		} else if soon := a.now().Add(pause.next(err)); soon.Before(until) {
			until = soon
		}
		f.sleep(ctx, until, wasSet)
	}
}

// mostTrustPause is the longest pause after a look that failed: nothing that is urgent waits for it.
const mostTrustPause = 5 * time.Minute

// sleep waits until a wall-clock time, until the identity was proved anew or until ctx ends.
func (f *follower) sleep(ctx context.Context, until time.Time, wasSet func() bool) {
	a := f.agent
	for !a.now().After(until) && !wasSet() && ctx.Err() == nil {
		a.beat("trust")
		timer := time.NewTimer(a.untilCheck(until.Add(time.Millisecond)))
		select {
		case <-timer.C:
		case <-a.proven:
			timer.Stop()
			return
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// follower brings the cluster's CA bundle to this machine. What it brings is believed because it came over a connection that
// the present bundle verified.
type follower struct {
	agent   *Agent
	offered bootstrap.Bundle // the last time; the zero value before the first
	since   time.Time        // when the same was first offered, by the monotonic clock
	doubted time.Time        // when the identity was last doubted, by the monotonic clock
}

// follow looks once.
func (f *follower) follow(ctx context.Context) error {
	a := f.agent
	cluster, pair, err := a.withIdentity()
	if err != nil {
		return err // which the identity's keeper tells
	}
	a.works()
	a.beat("trust")
	looking, cancel := context.WithTimeout(ctx, proveTimeout)
	defer cancel()
	offered, source, err := a.clusterBundle(looking, cluster, pair)
	if err == nil {
		err = f.adopt(looking, cluster, offered)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(cluster.Endpoints) > 1 { // those that are not in use are looked at, too
		for _, reached := range bootstrap.Reach(looking, cluster) {
			a.observeReach(reached.Endpoint, reached.Err)
		}
	}
	a.sawTrust(source, err)
	doubtful := errors.Is(err, bootstrap.ErrRefused) || fault.Is(err, fault.Untrusted) && !errors.Is(err, errCutOff)
	if doubtful && (f.doubted.IsZero() || time.Since(f.doubted) >= mostTrustPause) {
		f.doubted = time.Now()
		a.identity.doubt() // the certificate or the bundle may not work any more
	}
	return err
}

// clusterBundle asks the cluster for its CA bundle, as the node where nodes may read it, else as anyone.
func (a *Agent) clusterBundle(ctx context.Context, cluster *bootstrap.Cluster, pair *rotate.KeyPair) (bundle bootstrap.Bundle, source string, err error) {
	conn := a.connectionTo(cluster, pair)
	defer conn.Close()
	defer func() { a.notesSkew(conn) }()
	bundle, err = bootstrap.FetchTrustBundle(ctx, conn, a.config.userAgent, a.now())
	if !errors.Is(err, bootstrap.ErrNoTrustBundle) {
		return bundle, "ClusterTrustBundles of kubernetes.io/kube-apiserver-serving", err
	}
	bundle, err = bootstrap.FetchClusterInfoCA(ctx, cluster, a.now())
	return bundle, "the ConfigMap kube-public/cluster-info", err
}

// errCutOff is why a bundle is not committed.
var errCutOff = errors.New("it vouches for none of the API servers that answer")

// adopt makes the bundle on disk what the cluster offers: it is widened at once, and narrowed when the cluster has offered
// the same twice and what would remain still vouches for every server that answers.
func (f *follower) adopt(ctx context.Context, cluster *bootstrap.Cluster, offered bootstrap.Bundle) error {
	a := f.agent
	before := f.offered
	if f.offered = offered; !offered.Equal(before) {
		f.since = time.Now()
	}
	next, narrows := nextBundle(cluster.CA, offered, before)
	if next.Equal(cluster.CA) || narrows && time.Since(f.since) < a.config.trustEvery/2 { // a look that came early is not the next
		return nil
	}
	if narrows {
		if err := cutsOff(ctx, cluster, next); err != nil {
			return err
		}
	}
	if _, err := bootstrap.ParseBundle(next.PEM(), a.now()); err != nil {
		return err // too many certificates, say
	}
	if err := a.store.CommitCA(next.PEM()); err != nil {
		return err
	}
	a.log.Info("the CA bundle follows the cluster's", "now", next.String(), "narrowed", narrows)
	if len(a.config.pins) != 0 {
		for _, cert := range next.Without(next.Pinned(a.config.pins)).Certificates() {
			a.tell(Notice{
				Text:   fmt.Sprintf("the cluster has the CA %s, which no configured hash names: it is trusted because a server of a trusted CA vouched for it", cert.Subject),
				Remedy: "add " + bootstrap.PinOf(cert).String() + " to cluster.caCertHashes, for the day when this node must join anew",
			})
		}
	}
	return a.nameCA(next)
}

// nameCA makes a kubeconfig that has its CA inside, as a kubelet writes it, name the file that follows the cluster's.
func (a *Agent) nameCA(bundle bootstrap.Bundle) error {
	disk, err := a.store.Load()
	if err != nil || disk.Kubeconfig == nil || !disk.Whole() || bytes.Equal(disk.Kubeconfig.CA, bundle.PEM()) || disk.PairPath != a.store.Client.CurrentPath() {
		return err
	}
	k := *disk.Kubeconfig
	k.CA = bundle.PEM()
	a.log.Info("the kubeconfig names the CA bundle's file from now on", "kubeconfig", a.config.paths.Kubeconfig, "path", a.config.paths.CAFile)
	return a.store.CommitKubeconfig(&k)
}

// nextBundle decides what the bundle on disk is to become: what is offered is added at once; what is not offered any more is
// taken away when the same was offered the time before, too.
func nextBundle(present, offered, before bootstrap.Bundle) (next bootstrap.Bundle, narrows bool) {
	switch {
	case !present.Contains(offered):
		return present.Union(offered), false
	case offered.Equal(before) && !present.Equal(offered):
		return offered, true
	}
	return present, false
}

// cutsOff returns an error if a narrower bundle does not vouch for a server that the present one vouches for, or if that
// cannot be told now.
func cutsOff(ctx context.Context, cluster *bootstrap.Cluster, narrower bootstrap.Bundle) error {
	with := *cluster
	with.CA = narrower
	alive := map[bootstrap.Endpoint]bool{}
	for _, reached := range bootstrap.Reach(ctx, cluster) {
		alive[reached.Endpoint] = reached.Err == nil
	}
	vouchedFor := 0
	for _, reached := range bootstrap.Reach(ctx, &with) {
		switch {
		case reached.Err == nil:
			vouchedFor++
		case alive[reached.Endpoint] && fault.Is(reached.Err, fault.Untrusted):
			return fault.New(fault.Untrusted, "give every API server a certificate of the new CA before the old one is taken out of the cluster's bundle",
				"the CA bundle is not narrowed to %s: %w: %w", narrower.Subjects(), errCutOff, reached.Err)
		case alive[reached.Endpoint]:
			return fmt.Errorf("the CA bundle is not narrowed to %s yet: %w", narrower.Subjects(), reached.Err)
		}
	}
	if vouchedFor == 0 {
		return fmt.Errorf("the CA bundle is not narrowed to %s yet: no API server answers that it vouches for", narrower.Subjects())
	}
	return nil
}
