package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// TestNextBundle decides what becomes of the bundle on disk: wider at once, narrower when the same was offered twice.
func TestNextBundle(t *testing.T) {
	old, next, third := newAuthority(t, "old"), newAuthority(t, "new"), newAuthority(t, "third")
	type list = []*authority
	for _, test := range []struct {
		name                     string
		present, before, offered list
		want                     list
		narrows                  bool
	}{
		{"the same", list{old}, nil, list{old}, list{old}, false},
		{"the same, again", list{old}, list{old}, list{old}, list{old}, false},
		{"in another order", list{old, next}, list{next, old}, list{next, old}, list{old, next}, false},
		{"one more", list{old}, list{old}, list{old, next}, list{old, next}, false},
		{"another", list{old}, list{old}, list{next}, list{old, next}, false},
		{"another, again", list{old}, list{next}, list{next}, list{old, next}, false},
		{"one less, for the first time", list{old, next}, list{old, next}, list{next}, list{old, next}, false},
		{"one less, after a restart", list{old, next}, nil, list{next}, list{old, next}, false},
		{"one less, again", list{old, next}, list{next}, list{next}, list{next}, true},
		{"one less and then the other", list{old, next}, list{old}, list{next}, list{old, next}, false},
		{"to and fro", list{old, next}, list{next}, list{old, next}, list{old, next}, false},
		{"one less and one more", list{old, next}, list{next}, list{next, third}, list{old, next, third}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, narrows := nextBundle(bundleOf(t, test.present...), bundleOf(t, test.offered...), bundleOf(t, test.before...))
			if want := bundleOf(t, test.want...); !got.Equal(want) || narrows != test.narrows {
				t.Errorf("%s (narrows: %t) instead of %s", got, narrows, want)
			}
		})
	}
}

// trusting is a machine that has joined servers of a cluster, and what follows the cluster's CA on it.
func trusting(t *testing.T, servers int, change func(*Options)) (*host, *follower, []*server) {
	t.Helper()
	cluster := newCluster(t)
	h := newHost(t, cluster)
	h.change = func(o *Options) {
		o.TrustEvery = 1 // each look counts
		if change != nil {
			change(o)
		}
	}
	list := make([]*server, servers)
	for i := range list {
		list[i] = cluster.serve(cluster.signer)
	}
	h.joinAt(h.fresh(), list...)
	return h, &follower{agent: h.agent()}, list
}

func (f *follower) must(t *testing.T) {
	t.Helper()
	if err := f.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// offer puts a bundle into the cluster's ClusterTrustBundle.
func (c *fakeCluster) offer(authorities ...*authority) { c.with(func() { c.offered = authorities }) }

// wantCA checks whom the bundle on disk holds.
func (h *host) wantCA(authorities ...*authority) {
	h.t.Helper()
	got, err := bootstrap.ParseBundle(h.read(DefaultCAFile), h.now())
	if want := bundleOf(h.t, authorities...); err != nil || !got.Equal(want) {
		h.t.Errorf("the bundle on disk is %s (%v) instead of %s", got, err, want)
	}
	if disk := h.load(); !disk.Whole() {
		h.t.Errorf("the kubeconfig does not lead to the certificate: %v", disk.KubeconfigErr)
	}
}

// TestCARotation follows a cluster from one CA over both to the other. While a server that answers still has a certificate of the
// old one, that is not let go.
func TestCARotation(t *testing.T) {
	h, f, servers := trusting(t, 2, nil)
	old, next := h.cluster.signer, newAuthority(t, "next")
	if err := f.follow(t.Context()); !errors.Is(err, bootstrap.ErrNoTrustBundle) { // neither source has one
		t.Errorf("%v instead of %v", err, bootstrap.ErrNoTrustBundle)
	}
	if p := f.agent.Snapshot().CA.Problem; p != nil {
		t.Errorf("that is told as the problem %+v", p)
	}
	h.wantCA(old)

	h.cluster.offer(old, next)
	f.must(t)
	h.wantCA(old, next)

	servers[0].present(next.serving(t))
	h.cluster.offer(next)
	f.must(t) // once is not enough
	h.wantCA(old, next)
	for range 2 {
		err := f.follow(t.Context())
		wantFault(t, err, fault.Untrusted, "the CA bundle is not narrowed")
		if !errors.Is(err, errCutOff) || f.agent.identity.isSuspect() {
			t.Errorf("it is %v, and the identity is doubted: %t", err, f.agent.identity.isSuspect())
		}
		h.wantCA(old, next)
	}
	if p := f.agent.Snapshot().CA.Problem; p == nil || p.Class != fault.Untrusted || !strings.Contains(p.Remedy, "every API server") {
		t.Errorf("the status says %+v", p)
	}

	servers[1].present(next.serving(t))
	f.must(t)
	h.wantCA(next)
	if ca := f.agent.Snapshot().CA; ca.Problem != nil || !strings.Contains(ca.Source, "ClusterTrustBundles") {
		t.Errorf("the status says %+v", ca)
	}
	h.pass(t, f.agent) // the identity works with it
	if disk := h.load(); disk.Cluster == nil || disk.Cluster.CA != string(next.pem()) {
		t.Errorf("remembered is %+v", disk.Cluster)
	}
}

// TestDeadServerHoldsNothingUp narrows the bundle while one server does not answer.
func TestDeadServerHoldsNothingUp(t *testing.T) {
	h, f, servers := trusting(t, 2, nil)
	old, next := h.cluster.signer, newAuthority(t, "next")
	h.cluster.offer(old, next)
	f.must(t)
	servers[0].present(next.serving(t))
	servers[1].close()
	h.cluster.offer(next)
	f.must(t)
	f.must(t)
	h.wantCA(next)
}

// TestBundleNeedsTrust offers a bundle over a connection that the present one does not verify: nobody is asked, nothing is believed,
// and the identity is proved again.
func TestBundleNeedsTrust(t *testing.T) {
	h, f, servers := trusting(t, 1, nil)
	old, stranger := h.cluster.signer, newAuthority(t, "stranger")
	servers[0].present(stranger.serving(t))
	h.cluster.offer(old, stranger)
	h.cluster.info = infoOf(servers[0], old, stranger)
	for range 3 {
		wantFault(t, f.follow(t.Context()), fault.Untrusted, "not to be trusted")
	}
	h.wantCA(old)
	if asked := h.cluster.asked("/"); len(asked) != 0 {
		t.Errorf("sent to it: %q", asked)
	}
	if !f.agent.identity.isSuspect() {
		t.Error("the identity is not doubted")
	}
}

// infoOf returns the kubeconfig in cluster-info.
func infoOf(s *server, authorities ...*authority) string {
	var ca []byte
	for _, a := range authorities {
		ca = append(ca, a.pem()...)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: %s\n    certificate-authority-data: %s\n", s.Endpoint.URL(), base64.StdEncoding.EncodeToString(ca))
}

// TestClusterInfo follows a cluster that shows its nodes no ClusterTrustBundles: by cluster-info, which everybody may read.
func TestClusterInfo(t *testing.T) {
	h, f, servers := trusting(t, 1, nil)
	old, next := h.cluster.signer, newAuthority(t, "next")
	h.cluster.info = infoOf(servers[0], old, next)
	f.must(t)
	h.wantCA(old, next)
	if by := h.cluster.asked(clusterInfoPath); !slices.Equal(by, []string{"GET " + clusterInfoPath + " by " + anonymous}) {
		t.Errorf("cluster-info was asked for: %q", by)
	}
	if source := f.agent.Snapshot().CA.Source; !strings.Contains(source, "cluster-info") {
		t.Errorf("the source is %q", source)
	}
}

// TestPinsAndFollowing has a pin for the CA that the node joined by: the one that follows is trusted, and that is said, with
// what is to be added.
func TestPinsAndFollowing(t *testing.T) {
	cluster := newCluster(t)
	h := newHost(t, cluster)
	old, next := cluster.signer, newAuthority(t, "next")
	h.change = func(o *Options) { o.CACertHashes = []string{bootstrap.PinOf(old.cert).String()} }
	h.joinAt(h.fresh(), cluster.serve(old))
	f := &follower{agent: h.agent()}
	cluster.offer(old, next)
	f.must(t)
	f.must(t)
	h.wantCA(old, next)
	pin := bootstrap.PinOf(next.cert).String()
	if n := h.log.count("which no configured hash names"); n != 1 || h.log.count(pin) == 0 {
		t.Errorf("it is said %d times", n)
	}
	f.agent.seeDisk(h.load())
	if note := f.agent.Snapshot().CA.UnpinnedNote; !strings.Contains(note, pin) || strings.Contains(note, bootstrap.PinOf(old.cert).String()) {
		t.Errorf("the status says %q", note)
	}
}

// TestFixedTrust leaves the bundle alone where the operator says so.
func TestFixedTrust(t *testing.T) {
	h, f, _ := trusting(t, 1, func(o *Options) { o.FixedTrust = true })
	h.cluster.offer(h.cluster.signer, newAuthority(t, "next"))
	f.agent.followTrust(t.Context()) // returns
	h.wantCA(h.cluster.signer)
	if asked := h.cluster.asked("/"); len(asked) != 0 {
		t.Errorf("asked: %q", asked)
	}
}

// TestKubeconfigWithItsCAInside has a kubeconfig as a kubelet writes it: it would not follow the cluster's CA, and names the file
// from the first change on.
func TestKubeconfigWithItsCAInside(t *testing.T) {
	h, f, servers := trusting(t, 1, nil)
	old, next := h.cluster.signer, newAuthority(t, "next")
	inline := strings.Replace(string(h.read(DefaultKubeconfig)), "certificate-authority: "+DefaultCAFile, "certificate-authority-data: "+base64.StdEncoding.EncodeToString(old.pem()), 1)
	h.write(DefaultKubeconfig, inline, 0o600)
	h.cluster.offer(old)
	f.must(t)
	h.wantFile(DefaultKubeconfig, []byte(inline)) // as long as it is right, it is left alone
	h.cluster.offer(old, next)
	f.must(t)
	h.wantCA(old, next)
	k := h.load().Kubeconfig
	if !strings.Contains(string(h.read(DefaultKubeconfig)), "certificate-authority: "+DefaultCAFile) || string(k.CA) != string(old.pem())+string(next.pem()) || k.Server != servers[0].Endpoint.URL() {
		t.Errorf("the kubeconfig is\n%s", h.read(DefaultKubeconfig))
	}
	h.pass(t, f.agent)
}

// TestEarlyLook does not take a look that came early, because the identity was proved anew say, for the cluster saying the same twice.
func TestEarlyLook(t *testing.T) {
	h, f, servers := trusting(t, 1, func(o *Options) { o.TrustEvery = DefaultTrustEvery })
	old, next := h.cluster.signer, newAuthority(t, "next")
	h.cluster.offer(old, next)
	f.must(t)
	servers[0].present(next.serving(t))
	h.cluster.offer(next)
	for range 3 {
		f.must(t)
		h.wantCA(old, next)
	}
	f.since = f.since.Add(-DefaultTrustEvery)
	f.must(t)
	h.wantCA(next)
}

// TestBadClusterObject has the cluster publish what cannot be used: the identity is doubted once, and not at every look.
func TestBadClusterObject(t *testing.T) {
	h, f, _ := trusting(t, 1, nil)
	h.cluster.with(func() { h.cluster.info = "no kubeconfig" })
	for i := range 3 {
		if err := f.follow(t.Context()); !fault.IsFinal(err) {
			t.Fatalf("%v is no error that lasts", err)
		}
		if doubted := f.agent.identity.isSuspect(); doubted != (i == 0) {
			t.Errorf("look %d: the identity is doubted: %t", i, doubted)
		}
		f.agent.identity.clearDoubt()
	}
}
