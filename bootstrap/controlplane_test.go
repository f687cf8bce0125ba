//go:build linux

package bootstrap

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// realCluster is a real control plane, as a node that has joined it sees it.
type realCluster struct {
	*testbed.ControlPlane
	cluster *Cluster
}

// as returns a connection with a certificate for a user.
func (r *realCluster) as(t *testing.T, issuer *testbed.CA, user string, groups ...string) *Connection {
	t.Helper()
	certPEM, keyPEM, err := issuer.Issue(testbed.Certificate{CommonName: user, Organization: groups})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	conn := ConnectionTo(r.cluster, nil)
	conn.Present(&pair)
	t.Cleanup(conn.Close)
	return conn
}

// publishes waits until a source yields the bundle: controllers and authorizers take a moment.
func (r *realCluster) publishes(t *testing.T, what string, want Bundle, fetch func() (Bundle, error)) {
	t.Helper()
	expect.Eventually(t, what, func() bool {
		got, err := fetch()
		if err != nil && !errors.Is(err, ErrNoTrustBundle) {
			t.Fatal(err)
		}
		return got.Equal(want) && !got.IsZero()
	})
}

// What the API server, its authorizers and the publisher of trust bundles really do. What they cannot be made to do is
// tested with servers of our own.
func TestFollowARealCluster(t *testing.T) {
	cp := testbed.New(t, testbed.Options{SeparateClientCA: true})
	serving := bundleOf(&authority{cert: cp.ServingCA.Cert})
	r := &realCluster{cp, &Cluster{Endpoints: []Endpoint{mustEndpoint(t, cp.Endpoint)}, CA: serving}}
	node := r.as(t, cp.ClientCA, "system:node:worker-1", "system:nodes")
	const userAgent = "nodejoin/test-follow"
	trustBundle := func(conn *Connection) func() (Bundle, error) {
		return func() (Bundle, error) { return FetchTrustBundle(t.Context(), conn, userAgent, time.Now()) }
	}
	clusterInfoCA := func() (Bundle, error) { return FetchClusterInfoCA(t.Context(), r.cluster, time.Now()) }

	t.Run("a node reads the trust bundle", func(t *testing.T) {
		r.publishes(t, "the trust bundle is the serving CA", serving, trustBundle(node))
		events, err := cp.AuditEvents(t.Context(), func(e testbed.AuditEvent) bool { return e.UserAgent == userAgent && e.Stage == "RequestReceived" })
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events {
			if event.Verb != "list" || event.User.Username != "system:node:worker-1" || !strings.HasPrefix(event.RequestURI, trustPathV1+"?") {
				t.Errorf("it asked for more: %+v", event)
			}
		}
		if len(events) == 0 {
			t.Error("no request is in the audit log")
		}
		if skew, known := node.Skew(); skew != 0 || !known {
			t.Errorf("two programs of one machine differ by %s (known: %t)", skew, known)
		}
	})
	t.Run("another user may not", func(t *testing.T) {
		got, err := trustBundle(r.as(t, cp.ClientCA, "somebody"))()
		wantFault(t, err, 0, "(403)")
		if !errors.Is(err, ErrNoTrustBundle) || !got.IsZero() {
			t.Errorf("got %s, %v", got, err)
		}
	})
	t.Run("a certificate is not accepted any more", func(t *testing.T) {
		_, err := trustBundle(r.as(t, cp.ServingCA, "system:node:worker-1", "system:nodes"))()
		wantFault(t, err, 0, "(401)")
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrNoTrustBundle) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("everybody reads cluster-info", func(t *testing.T) {
		r.publishes(t, "cluster-info has the serving CA", serving, clusterInfoCA)
	})
	t.Run("a handshake asks for nothing", func(t *testing.T) {
		if got := Reach(t.Context(), r.cluster); len(got) != 1 || got[0].Err != nil {
			t.Errorf("got %+v", got)
		}
		other := *r.cluster
		other.CA = bundleOf(&authority{cert: cp.ClientCA.Cert})
		wantFault(t, Reach(t.Context(), &other)[0].Err, fault.Untrusted, "unknown authority")
	})
	t.Run("a rotation of the CA", func(t *testing.T) {
		next, old := newAuthority(t, "next"), newAuthority(t, "old", lasting(-48*time.Hour, -time.Hour))
		if err := cp.ControllerManager.Stop(); err != nil { // it lets no other object of that signer be
			t.Fatal(err)
		}
		both := serving.Union(bundleOf(next))
		_, err := cp.Client().CertificatesV1().ClusterTrustBundles().Create(t.Context(), &certificates.ClusterTrustBundle{
			ObjectMeta: meta.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:next"},
			Spec:       certificates.ClusterTrustBundleSpec{SignerName: trustSigner, TrustBundle: string(bundleOf(old, next).PEM())},
		}, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.publishes(t, "the trust bundle is both", both, trustBundle(node))
		if err := cp.PublishClusterInfo(t.Context(), cp.URL, both.Union(bundleOf(old)).PEM()); err != nil {
			t.Fatal(err)
		}
		r.publishes(t, "cluster-info has both", both, clusterInfoCA)
	})
	t.Run("no trust bundle", func(t *testing.T) {
		if err := cp.Client().CertificatesV1().ClusterTrustBundles().DeleteCollection(t.Context(), meta.DeleteOptions{}, meta.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := trustBundle(node)()
		wantFault(t, err, 0, "there is no ClusterTrustBundle of "+trustSigner)
		if !errors.Is(err, ErrNoTrustBundle) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("no cluster-info", func(t *testing.T) {
		if err := cp.Client().CoreV1().ConfigMaps(meta.NamespacePublic).Delete(t.Context(), "cluster-info", meta.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.wantNoClusterInfo(t, http.StatusNotFound)
	})
	t.Run("cluster-info is not for everybody", func(t *testing.T) {
		bindings := cp.Client().RbacV1().RoleBindings(meta.NamespacePublic)
		list, err := bindings.List(t.Context(), meta.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, binding := range list.Items {
			if !slices.ContainsFunc(binding.Subjects, func(s rbac.Subject) bool { return s.Name == "system:anonymous" }) {
				continue
			}
			if err := bindings.Delete(context.WithoutCancel(t.Context()), binding.Name, meta.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r.wantNoClusterInfo(t, http.StatusForbidden)
	})
}

// wantNoClusterInfo waits until cluster-info is answered with a status, and checks that it counts as none.
func (r *realCluster) wantNoClusterInfo(t *testing.T, status int) {
	t.Helper()
	expect.Eventually(t, "the API server answers "+http.StatusText(status), func() bool {
		got, err := FetchClusterInfoCA(t.Context(), r.cluster, time.Now())
		if !errors.Is(err, ErrNoTrustBundle) || !got.IsZero() {
			t.Fatalf("got %s, %v", got, err)
		}
		return strings.Contains(err.Error(), http.StatusText(status))
	})
}
