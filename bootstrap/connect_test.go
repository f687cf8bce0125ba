package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestConnectOpensTwoConnections(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			s := serveCluster(t, serverOptions{certificate: ca.issue(t), protocols: []string{protocol}}, bundleOf(ca))
			log := slog.New(slog.DiscardHandler)
			cluster, conn, err := Connect(t.Context(), byToken(s, ca.pin()), nil, log)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if cluster.Endpoints[0] != s.Endpoint || conn.Endpoint() != s.Endpoint || conn.Log != log {
				t.Errorf("the cluster is %v, the connection to %s", cluster, conn.Endpoint())
			}
			resp, err := roundTrip(t, Authenticate(testToken.Credential(), conn), "/apis")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := len(s.accepted()); got != 2 {
				t.Errorf("%d connections, want 2: one for discovery, one for everything else", got)
			}
			want := []request{{path: clusterInfoPath}, {path: "/apis", protocol: protocol, bearer: "Bearer " + testTokenText}}
			if diff := cmp.Diff(want, s.received(), cmp.AllowUnexported(request{})); diff != "" {
				t.Errorf("the requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConnectOpensTheSecondMeanwhile(t *testing.T) {
	// cluster-info is not answered before the other connection is there: a client that opened it later would wait for ever.
	ca := newAuthority(t, "ca")
	handler := new(late)
	s := serve(t, serverOptions{certificate: ca.issue(t)}, handler)
	honest := clusterInfo(t, dataOf(t, kubeconfigOf(s.Endpoint.URL(), bundleOf(ca)), testToken))
	handler.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		expect.Eventually(t, "the other connection is opened", func() bool { return len(s.accepted()) == 2 })
		honest.ServeHTTP(w, r)
	})
	_, conn, err := Connect(t.Context(), byToken(s, ca.pin()), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.drain(t)
	if got := len(s.accepted()); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}

func TestConnectToAKnownCluster(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
	known := &Known{Cluster{Endpoints: []Endpoint{s.Endpoint}, CA: bundleOf(ca)}}
	cluster, conn, err := Connect(t.Context(), known, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if cluster != &known.Cluster {
		t.Error("another cluster was returned")
	}
	mustGet(t, conn, "/apis")
	if got := len(s.accepted()); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	if got := s.received(); len(got) != 1 {
		t.Errorf("the requests are %+v, want the one", got)
	}
}

func TestConnectFollowsClusterInfo(t *testing.T) {
	ca := newAuthority(t, "ca")
	another := serve(t, serverOptions{certificate: ca.issue(t)}, named("another"))
	byName := serve(t, serverOptions{certificate: ca.issue(t, nameOnly)}, named("by name"))
	balancer := func(kubeconfig string) *server {
		return serve(t, serverOptions{certificate: ca.issue(t)}, clusterInfo(t, dataOf(t, kubeconfig, testToken)))
	}
	for _, test := range []struct {
		name       string
		kubeconfig string
		want       *server
	}{
		{"to another server", kubeconfigOf(another.Endpoint.URL(), bundleOf(ca)), another},
		{"to another server by another name", insert("server:", "    tls-server-name: api.example.com")(kubeconfigOf(byName.Endpoint.URL(), bundleOf(ca))), byName},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := balancer(test.kubeconfig)
			cluster, conn, err := Connect(t.Context(), byToken(s, ca.pin()), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := conn.Endpoint(); got != test.want.Endpoint {
				t.Errorf("connected to %s, want %s", got, test.want.Endpoint)
			}
			if diff := cmp.Diff([]Endpoint{test.want.Endpoint, s.Endpoint}, cluster.Endpoints, cmp.AllowUnexported(Endpoint{})); diff != "" {
				t.Errorf("the endpoints (-want +got):\n%s", diff)
			}
			mustGet(t, conn, "/apis")
			s.drain(t) // the early connection was closed
			if got := s.received(); len(got) != 1 || got[0].path != clusterInfoPath {
				t.Errorf("the server that was named first got %+v", got)
			}
		})
	}
	t.Run("by another name for the same server", func(t *testing.T) {
		handler := new(late)
		s := serve(t, serverOptions{certificate: ca.issue(t)}, handler)
		handler.Handler = clusterInfo(t, dataOf(t, insert("server:", "    tls-server-name: nobody.example.com")(kubeconfigOf(s.Endpoint.URL(), bundleOf(ca))), testToken))
		_, conn, err := Connect(t.Context(), byToken(s, ca.pin()), nil, nil)
		if err == nil {
			conn.Close()
		}
		wantFault(t, err, fault.Untrusted, "not nobody.example.com")
	})
}

func TestConnectFallsBackToAnotherServer(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, nil)
	s.http.Handler = clusterInfo(t, dataOf(t, kubeconfigOf(s.Endpoint.URL(), bundleOf(ca)), testToken))
	dead := deadEndpoint(t)
	var out bytes.Buffer
	d := &ByToken{Site: Cluster{Endpoints: []Endpoint{dead, s.Endpoint}}, Token: testToken, Pins: []Pin{ca.pin()}}
	cluster, conn, err := Connect(t.Context(), d, nil, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustGet(t, conn, "/apis")
	if got := conn.Endpoint(); got != s.Endpoint || len(cluster.Endpoints) != 2 {
		t.Errorf("connected to %s of %v, want %s", got, cluster.Endpoints, s.Endpoint)
	}
	conn.Next()
	if got := conn.Endpoint(); got != dead {
		t.Errorf("the next endpoint is %s, want %s", got, dead)
	}
}

func TestConnectFails(t *testing.T) {
	ca := newAuthority(t, "ca")
	unavailable := serve(t, serverOptions{certificate: ca.issue(t)}, respond(http.StatusServiceUnavailable, nil))
	wrong := serveCluster(t, serverOptions{certificate: ca.issue(t)}, bundleOf(ca))
	rogue := serve(t, serverOptions{certificate: newAuthority(t, "rogue").issue(t)}, named("rogue"))
	for _, test := range []struct {
		name      string
		discovery Discovery
		server    *server
		class     fault.Class
		want      string
	}{
		{"discovery, for now", byToken(unavailable, ca.pin()), unavailable, 0, "503"},
		{"discovery, for good", byToken(wrong, Pin{}), wrong, fault.Untrusted, "pinned key"},
		{"a known cluster", &Known{Cluster{Endpoints: []Endpoint{rogue.Endpoint}, CA: bundleOf(ca)}}, rogue, fault.Untrusted, "not to be trusted"},
		{"a dead server", &Known{Cluster{Endpoints: []Endpoint{deadEndpoint(t)}, CA: bundleOf(ca)}}, rogue, 0, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster, conn, err := Connect(t.Context(), test.discovery, nil, nil)
			wantFault(t, err, test.class, test.want)
			if cluster != nil || conn != nil {
				t.Error("something came with the error")
			}
			test.server.drain(t)
			wantSilence(t, test.server.bytes())
		})
	}
}

func TestConnectEndsWithTheContext(t *testing.T) {
	ca := newAuthority(t, "ca")
	enough := errors.New("the operator had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel(enough)
		<-r.Context().Done()
	}))
	_, _, err := Connect(ctx, byToken(s, ca.pin()), nil, nil)
	if !errors.Is(err, enough) {
		t.Errorf("the error is %v, want the cause of the cancellation", err)
	}
	s.drain(t)
}

func TestConnectLeavesNoGoroutines(t *testing.T) {
	ca := newAuthority(t, "ca")
	good := serveCluster(t, serverOptions{certificate: ca.issue(t)}, bundleOf(ca))
	moved := serve(t, serverOptions{certificate: ca.issue(t)}, clusterInfo(t, dataOf(t, kubeconfigOf(good.Endpoint.URL(), bundleOf(ca)), testToken)))
	for name, s := range map[string]*server{"reused": good, "moved": moved} {
		for outcome, pin := range map[string]Pin{"succeeds": ca.pin(), "fails": {}} {
			t.Run(strings.Join([]string{name, outcome}, "/"), func(t *testing.T) {
				once := func() {
					_, conn, err := Connect(t.Context(), byToken(s, pin), nil, nil)
					if err == nil {
						mustGet(t, conn, "/apis")
						conn.Close()
					}
					if (err == nil) != (pin == ca.pin()) {
						t.Fatal(err)
					}
					good.drain(t)
					moved.drain(t)
				}
				once() // what is started once for a process
				before := runtime.NumGoroutine()
				for range 10 {
					once()
				}
				expect.Eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before })
			})
		}
	}
}
