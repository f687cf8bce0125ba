package bootstrap

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// attack is a token holder's: cluster-info carries the real, pinned CA and a rogue one, correctly signed, and a server
// holds a certificate of the rogue CA.
type attack struct {
	name string
	// main is the server that the operator named.
	main func(ours, rogue *tls.Certificate) serverOptions
	// named is the server that cluster-info names; nil for the same.
	named func(ours, rogue *tls.Certificate) serverOptions
	// joins says that the way to an honest server is found.
	joins bool
}

func honest(ours, _ *tls.Certificate) serverOptions { return serverOptions{certificate: ours} }

func lying(_, rogue *tls.Certificate) serverOptions { return serverOptions{certificate: rogue} }

// lyingLater is honest where cluster-info is asked for, and lies where the credential would be sent.
func lyingLater(ours, rogue *tls.Certificate) serverOptions {
	return serverOptions{choose: func(hello *tls.ClientHelloInfo) *tls.Certificate {
		if forCredential(hello) {
			return rogue
		}
		return ours
	}}
}

// lyingFirst lies where cluster-info is asked for: somebody stands in the way of that connection alone.
func lyingFirst(ours, rogue *tls.Certificate) serverOptions {
	return serverOptions{choose: func(hello *tls.ClientHelloInfo) *tls.Certificate {
		if forCredential(hello) {
			return ours
		}
		return rogue
	}}
}

// chained presents the rogue certificate with the rogue CA and the real one behind it.
func chained(ours, rogue *tls.Certificate) serverOptions {
	certificate := *rogue
	certificate.Certificate = append(certificate.Certificate[:1:1], ours.Certificate[1:]...)
	return serverOptions{certificate: &certificate}
}

func TestAttackOfATokenHolder(t *testing.T) {
	ca, rogue := newAuthority(t, "kubernetes"), newAuthority(t, "kubernetes")
	realCert, rogueCert := ca.issue(t), rogue.issue(t)
	realCert.Certificate = append(realCert.Certificate, ca.cert.Raw)
	rogueCert.Certificate = append(rogueCert.Certificate, rogue.cert.Raw)
	bundles := map[string]Bundle{"the pinned CA first": bundleOf(ca, rogue), "the rogue CA first": bundleOf(rogue, ca)}
	versions := map[string]serverOptions{
		"TLS 1.2, HTTP 1.1": {maxVersion: tls.VersionTLS12, protocols: []string{"http/1.1"}},
		"TLS 1.3, HTTP 2":   {},
	}
	for _, attack := range []attack{
		{name: "none", main: honest, joins: true}, // shows that the credential would be seen
		{name: "on both connections", main: lying},
		{name: "on the connection for the credential", main: lyingLater},
		{name: "on the connection for discovery", main: lyingFirst},
		{name: "with the real CA in the chain", main: chained},
		{name: "by another server that cluster-info names", main: honest, named: lying, joins: true},
		{name: "by another server, and on the connection for the credential", main: lyingLater, named: lying},
		{name: "by another server, with the real CA in the chain", main: honest, named: chained, joins: true},
	} {
		for order, bundle := range bundles {
			for version, common := range versions {
				t.Run(strings.Join([]string{attack.name, order, version}, "/"), func(t *testing.T) {
					start := func(options serverOptions, handler http.Handler) *server {
						options.maxVersion, options.protocols = common.maxVersion, common.protocols
						return serve(t, options, handler)
					}
					handler := new(late)
					s := start(attack.main(realCert, rogueCert), handler)
					named := s
					if attack.named != nil {
						named = start(attack.named(realCert, rogueCert), http.NotFoundHandler())
					}
					handler.Handler = clusterInfo(t, dataOf(t, kubeconfigOf(named.Endpoint.URL(), bundle), testToken))
					attack.check(t, s, named, ca.pin())
				})
			}
		}
	}
}

// check joins and looks at what the servers got.
func (a *attack) check(t *testing.T, s, named *server, pin Pin) {
	t.Helper()
	if err := useCredential(t, byToken(s, pin)); a.joins {
		if err != nil {
			t.Errorf("the honest server was not reached: %v", err)
		}
	} else {
		wantFault(t, err, fault.Untrusted, "certificate")
	}
	s.drain(t)
	named.drain(t)

	if !a.joins {
		wantSilence(t, s.bytes())
	} else if got := s.received(); len(got) == 0 || got[len(got)-1].bearer != "Bearer "+testTokenText || !strings.Contains(s.bytes(), testTokenText) {
		t.Errorf("the credential did not reach the honest server: %+v", got)
	}
	for _, server := range []*server{s, named} {
		if a.joins && server == s {
			continue // honest
		}
		for _, conn := range server.accepted() {
			discovery := conn.session.ConnectionState().NegotiatedProtocol == "" // none was offered, see forCredential
			if heard, completed := conn.state(); !discovery && (completed || heard != "") {
				t.Errorf("a connection for the credential was completed with a liar, who was told %q", heard)
			}
		}
	}
	if named != s {
		if len(named.accepted()) == 0 {
			t.Error("the server that cluster-info names was not even called: nothing is shown")
		}
		if got := named.received(); len(got) != 0 {
			t.Errorf("the lying server got requests: %+v", got)
		}
		wantSilence(t, named.bytes())
	}
	for _, r := range s.received() {
		if r.path == clusterInfoPath && r.bearer != "" {
			t.Error("cluster-info was asked for with a credential")
		}
	}
}

// useCredential connects as a join does, and sends one request with the token.
func useCredential(t *testing.T, d Discovery) error {
	t.Helper()
	_, conn, err := Connect(t.Context(), d, nil, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := roundTrip(t, Authenticate(testToken.Credential(), conn), "/apis")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// roundTrip makes one request through rt.
func roundTrip(tb testing.TB, rt http.RoundTripper, path string) (*http.Response, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "https://kubernetes"+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return rt.RoundTrip(req)
}
