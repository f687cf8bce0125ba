package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// silentEndpoint returns an endpoint that accepts connections and says nothing.
func silentEndpoint(tb testing.TB) Endpoint {
	tb.Helper()
	tcp, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = tcp.Close() })
	return mustEndpoint(tb, tcp.Addr().String())
}

func TestReach(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	requests := func(issuer *authority, changes ...func(*x509.Certificate)) *server {
		return serve(t, serverOptions{certificate: issuer.issue(t, changes...), clientAuth: tls.RequestClientCert}, named("s"))
	}
	good, wrong, nameless, again := requests(ca), requests(rogue), requests(ca, nameOnly), requests(ca)
	dead, silent := deadEndpoint(t), silentEndpoint(t)
	cluster := &Cluster{Endpoints: []Endpoint{dead, good.Endpoint, wrong.Endpoint, silent, nameless.Endpoint, again.Endpoint}, CA: bundleOf(ca)}
	got := reach(t.Context(), cluster, 2*time.Second)
	want := []struct {
		class fault.Class
		text  string // "" for success
	}{
		{0, "cannot connect to " + dead.String() + ": "},
		{},
		{fault.Untrusted, "unknown authority"},
		{0, "cannot connect to " + silent.String() + ": no TLS handshake within 2s"},
		{fault.Untrusted, "IP SANs"},
		{},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, reached := range got {
		if reached.Endpoint != cluster.Endpoints[i] {
			t.Errorf("the endpoint %d is %s, want %s", i, reached.Endpoint, cluster.Endpoints[i])
		}
		if want[i].text == "" {
			if reached.Err != nil {
				t.Errorf("%s: %v", reached.Endpoint, reached.Err)
			}
			continue
		}
		wantFault(t, reached.Err, want[i].class, want[i].text)
	}
	for _, s := range []*server{good, wrong, nameless, again} {
		s.drain(t) // the connections were closed
		conns := s.accepted()
		if len(conns) != 1 {
			t.Fatalf("%s: %d connections, want 1", s.Endpoint, len(conns))
		}
		heard, completed := conns[0].state()
		if trusted := s == good || s == again; heard != "" || completed != trusted || len(s.received()) != 0 {
			t.Errorf("%s: the handshake was completed: %t; then it was told %q", s.Endpoint, completed, heard)
		}
		if presented := conns[0].session.ConnectionState().PeerCertificates; len(presented) != 0 {
			t.Errorf("%s: a certificate was presented", s.Endpoint)
		}
	}
}

// What Reach is for: a bundle is about to take another's place.
func TestReachTellsWhatABundleCutsOff(t *testing.T) {
	old, next := newAuthority(t, "old"), newAuthority(t, "next")
	first := serve(t, serverOptions{certificate: old.issue(t)}, named("first"))
	second := serve(t, serverOptions{certificate: next.issue(t)}, named("second"))
	for _, test := range []struct {
		name          string
		bundle        Bundle
		first, second bool
	}{
		{"the old one", bundleOf(old), true, false},
		{"both", bundleOf(old, next), true, true},
		{"the next one", bundleOf(next), false, true},
		{"another", bundleOf(newAuthority(t, "another")), false, false},
		{"none", Bundle{}, false, false},
	} {
		got := Reach(t.Context(), &Cluster{Endpoints: []Endpoint{first.Endpoint, second.Endpoint}, CA: test.bundle})
		for i, want := range []bool{test.first, test.second} {
			if (got[i].Err == nil) != want || !want && fault.ClassOf(got[i].Err) != fault.Untrusted {
				t.Errorf("%s: server %d: %v", test.name, i, got[i].Err)
			}
		}
	}
}

func TestReachAsksAllAtOnce(t *testing.T) {
	ca := newAuthority(t, "ca")
	certificate := ca.issue(t)
	var called sync.WaitGroup // no server answers before all are called
	cluster := &Cluster{CA: bundleOf(ca)}
	for range 5 {
		called.Add(1)
		s := serve(t, serverOptions{choose: func(*tls.ClientHelloInfo) *tls.Certificate {
			called.Done()
			called.Wait()
			return certificate
		}}, http.NotFoundHandler())
		cluster.Endpoints = append(cluster.Endpoints, s.Endpoint)
	}
	for _, reached := range Reach(t.Context(), cluster) {
		if reached.Err != nil {
			t.Error(reached.Err)
		}
	}
}

func TestReachGoesTheClustersWay(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t, nameOnly)}, named("s"))
	proxy, tunnels := connectProxy(t)
	got := Reach(t.Context(), &Cluster{Endpoints: []Endpoint{s.Endpoint}, CA: bundleOf(ca), TLSServerName: "api.example.com", ProxyURL: proxy})
	if got[0].Err != nil || tunnels.Load() != 1 {
		t.Errorf("got %v over %d tunnels", got[0].Err, tunnels.Load())
	}
}

func TestReachEndsWithTheContext(t *testing.T) {
	enough := errors.New("the operator had enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	for _, reached := range Reach(ctx, &Cluster{Endpoints: []Endpoint{silentEndpoint(t), silentEndpoint(t)}, CA: bundleOf(machineCA)}) {
		if !errors.Is(reached.Err, enough) {
			t.Errorf("the error is %v, want the cause of the cancellation", reached.Err)
		}
	}
	if reachTimeout != 10*time.Second {
		t.Errorf("an endpoint is given %s", reachTimeout)
	}
}
