//go:build linux

package doctor

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
)

func TestNetwork(t *testing.T) {
	day := 24 * time.Hour
	examineEach(t, []trial{
		{"a name that does not exist", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.invalid:6443")}
		}, []wanted{
			{"dns", Failure, "the name of api.invalid:6443 cannot be resolved", "getent hosts api.invalid"},
			{"connect", Skipped, "not checked: the name of api.invalid:6443 cannot be resolved", ""},
			{"tls", Skipped, "no API server that can be connected to", ""},
			{"rotation", Skipped, "no API server that is reached and verified", ""},
			{"trust", Skipped, "no API server that is reached and verified", ""},
			{"credential", Skipped, "what the cluster lets it do", ""},
			{"clock", Skipped, "no API server told its time", ""},
		}},
		{"a name that does", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, strings.Replace(p.server.name, "127.0.0.1", "localhost", 1))}
		}, []wanted{{"dns", OK, "has the address 127.0.0.1", ""}}},
		{"nobody listens", func(t *testing.T, p *patient) { p.Cluster.Endpoints = []bootstrap.Endpoint{deadEndpoint(t)} }, []wanted{
			{"connect", Failure, ": connection refused", "ss -ltn"}, {"tls", Skipped, "no API server that can be connected to", ""},
		}},
		{"one of two does not listen", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = append([]bootstrap.Endpoint{deadEndpoint(t)}, p.Cluster.Endpoints...)
		}, []wanted{
			{"connect", Warning, ": connection refused", "ss -ltn"},
			{"connect", OK, "accepts connections", ""},
			{"tls", OK, "is verified", ""},
			{"rotation", OK, "have it approved", ""},
			{"discovery", OK, "cluster-info is signed with the bootstrap token " + tokenID, ""},
		}},
		{"another CA", func(t *testing.T, p *patient) { p.Cluster.CA = newAuthority(t, "kubernetes").bundle(t) }, []wanted{
			{"tls", Failure, "certificate signed by unknown authority", "its CA was rotated"},
			{"rotation", Skipped, "verified", ""},
			{"credential", Skipped, "verified", ""},
			{"discovery", Warning, "none of its CA certificates is among those that this machine trusts", "nodejoin join --force"},
			{"ca", Warning, "none of these CA certificates has a pinned key", "caCertHashes"},
			{"clock", OK, "agrees", ""},
		}},
		{"one of two has another CA", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = append([]bootstrap.Endpoint{endpoint(t, newAPIServer(t).name)}, p.Cluster.Endpoints...)
		}, []wanted{{"tls", Warning, "certificate signed by unknown authority", "its CA was rotated"}, {"tls", OK, "is verified", ""}, {"rotation", OK, "authenticates", ""}}},
		{"another name", func(_ *testing.T, p *patient) { p.Cluster.TLSServerName = "api.example.com" }, []wanted{{"tls", Failure, "api.example.com", "--tls-server-name"}}},
		{"the server's certificate expired", func(t *testing.T, p *patient) { p.server.certificate = p.server.ca.serving(t, expiring(-time.Minute)) }, []wanted{
			{"tls", Failure, "expired", "timedatectl"}, {"discovery", Warning, "expired", "timedatectl"}, {"clock", OK, "agrees", ""},
		}},
		{"the server's certificate is about to expire", func(t *testing.T, p *patient) { p.server.certificate = p.server.ca.serving(t, expiring(day)) }, []wanted{
			{"tls", Warning, "is verified, but its certificate expires at", "kubeadm certs renew apiserver"},
		}},
		{"the CA is about to expire", func(t *testing.T, p *patient) {
			old := newAuthority(t, "old", expiring(day)).bundle(t)
			p.Cluster.CA = p.Cluster.CA.Union(old)
		}, []wanted{{"ca", Warning, `the CA certificate "CN=old" expires at`, "manual-rotation"}, {"ca", OK, `the CA certificate "CN=kubernetes" is valid until`, ""}}},
		{"the CA has expired by now", func(_ *testing.T, p *patient) {
			p.Now = func() time.Time { return time.Now().Add(1001 * day) }
		}, []wanted{{"ca", Failure, "expired at", "timedatectl"}, {"certificate", Failure, "the certificate expired at", "kubeadm token create"}}},
		{"a clock ahead", func(_ *testing.T, p *patient) { p.server.ahead = -10 * time.Minute }, []wanted{{"clock", Failure, "this machine's clock is 10m0s ahead of that of", "timedatectl set-ntp true"}}},
		{"a clock a little behind", func(_ *testing.T, p *patient) { p.server.ahead = time.Minute }, []wanted{{"clock", Warning, "this machine's clock is 1m0s behind that of", "timedatectl"}}},
		{"a clock that is not synchronised", func(_ *testing.T, p *patient) { p.host.clock = func() (bool, bool) { return false, true } }, []wanted{{"clock", Warning, "nothing tells the kernel", "timedatectl"}}},
		{"a clock of which nothing is known", func(_ *testing.T, p *patient) {
			p.host.clock = func() (bool, bool) { return false, false }
			p.server.undated = true
		}, []wanted{{"clock", Skipped, "cannot be found out", ""}, {"clock", Skipped, "no API server told its time", ""}}},
		{"a clock that was never set", func(_ *testing.T, p *patient) { p.Now = func() time.Time { return time.Unix(7, 0) } }, []wanted{
			{"clock", Failure, "says 1970-01-01T00:00:07Z: it was never set", "timedatectl"}, {"certificate", Failure, "becomes valid only at", "timedatectl"},
		}},
		{"no API server", func(_ *testing.T, p *patient) { p.Cluster, p.Accesses = nil, nil }, []wanted{
			{"dns", Skipped, "no API server is known", ""},
			{"connect", Skipped, "no API server is known", ""},
			{"ca", Skipped, "no CA is known", ""},
			{"discovery", Skipped, "no way is configured", ""},
			{"credential", Warning, "there is no credential", "kubeadm token create"},
		}},
	})
}

// Where nothing answers, the whole comes to an end all the same.
func TestNothingAnswers(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *patient)
		want  []wanted
	}{
		{"servers that accept and say nothing", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t), silentEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
			write(t, p.host.systemctl, "#!/bin/sh\nsleep 60\n", 0o755)
		}, []wanted{{"connect", OK, "accepts connections", ""}, {"tls", Failure, ": no TLS handshake within 5s", "openssl s_client"}, {"service", Warning, "no answer within 5s", "systemctl"}, {"discovery", Warning, "the cluster is not found: no answer within 6s", "kubectl"}}},
		{"packets are dropped", func(t *testing.T, p *patient) {
			p.Cluster.Endpoints = []bootstrap.Endpoint{fullEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
		}, []wanted{{"connect", Failure, ": no answer within 3s", "firewall"}, {"discovery", Skipped, "no API server that can be connected to", ""}}},
		{"the same before the join", func(t *testing.T, p *patient) {
			p.unjoin()
			p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t), silentEndpoint(t)}
			p.Accesses[0].Discovery.(*bootstrap.ByToken).Site.Endpoints = p.Cluster.Endpoints
		}, []wanted{{"discovery", Failure, "the cluster is not found: no answer within 6s", "kubectl"}, {"tls", Skipped, "no CA is known", ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			started := time.Now()
			p.examineFor(t, test.want...)
			if took := time.Since(started); took > Limit-5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// A name server that says nothing.
func TestSilentNameServer(t *testing.T) {
	p := newPatient(t)
	p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.example.com:6443")}
	p.host.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	p.examineFor(t, wanted{"dns", Failure, "cannot be resolved: no answer within 3s", "getent hosts"}, wanted{"connect", Skipped, "cannot be resolved", ""})
}

// Through a proxy, the way ends at the proxy, which resolves the names behind it.
func TestProxy(t *testing.T) {
	p := newPatient(t)
	proxy := connectProxy(t, p.server.name)
	p.Cluster.ProxyURL = &url.URL{Scheme: "http", Host: proxy}
	p.Cluster.Endpoints = []bootstrap.Endpoint{endpoint(t, "api.invalid:6443")}
	p.Cluster.TLSServerName = "localhost"
	p.Accesses = nil
	p.examineFor(t, wanted{"dns", OK, "the proxy " + proxy + " is an address", ""}, wanted{"connect", OK, "the proxy " + proxy + " accepts connections", ""},
		wanted{"tls", OK, "api.invalid:6443 is verified", ""}, wanted{"rotation", OK, "approved", ""}, wanted{"clock", OK, "agrees", ""})

	p.Cluster.ProxyURL = &url.URL{Scheme: "http", Host: deadEndpoint(t).String()}
	p.examineFor(t, wanted{"connect", Failure, "cannot connect to the proxy", "ss -ltn"}, wanted{"tls", Skipped, "no API server that can be connected to", ""})
}

// connectProxy is an HTTP proxy that leads everything to one server.
func connectProxy(tb testing.TB, to string) string {
	tb.Helper()
	l := listenOn(tb, "tcp", "127.0.0.1:0")
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		behind, err := new(net.Dialer).DialContext(r.Context(), "tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = behind.Close()
			return
		}
		_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		go relay(behind, client)
		go relay(client, behind)
	})}
	go func() { _ = server.Serve(l) }()
	tb.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}
