package bootstrap

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// otherToken is one that the machine does not have.
var otherToken = Token{ID: "ot4er5", Secret: NewSecret("aaaabbbbccccdddd")}

// detached makes a detached JWS with a header of the sender's choice.
func detached(header, payload, key string) string {
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s", encode([]byte(header)), encode([]byte(payload)))
	return encode([]byte(header)) + ".." + encode(mac.Sum(nil))
}

func TestDetachedAgreesWithKubernetes(t *testing.T) {
	header := `{"alg":"HS256","kid":"` + testTokenID + `"}`
	want := dataOf(t, "text", testToken)["jws-kubeconfig-"+testTokenID]
	if got := detached(header, "text", testTokenSecret); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// byToken returns the discovery that these tests make.
func byToken(s *server, pins ...Pin) *ByToken {
	return &ByToken{Site: Cluster{Endpoints: []Endpoint{s.Endpoint}}, Token: testToken, Pins: pins, SkipPins: len(pins) == 0}
}

func TestByToken(t *testing.T) {
	ca, other, rogue := newAuthority(t, "ca"), newAuthority(t, "other"), newAuthority(t, "rogue")
	for _, test := range []struct {
		name   string
		bundle Bundle
		pins   []Pin
		want   Bundle
	}{
		{"one pin", bundleOf(ca), []Pin{ca.pin()}, bundleOf(ca)},
		{"two pins", bundleOf(other, ca), []Pin{ca.pin(), other.pin()}, bundleOf(other, ca)},
		{"a pin of a CA that is gone", bundleOf(ca), []Pin{rogue.pin(), ca.pin()}, bundleOf(ca)},
		{"a rogue CA in front", bundleOf(rogue, ca), []Pin{ca.pin()}, bundleOf(ca)},
		{"a rogue CA behind", bundleOf(ca, rogue), []Pin{ca.pin()}, bundleOf(ca)},
		{"no pins, by the operator's choice", bundleOf(ca, other), nil, bundleOf(ca, other)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serveCluster(t, serverOptions{certificate: ca.issue(t)}, test.bundle)
			cluster, err := byToken(s, test.pins...).Discover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(test.want.PEM()), string(cluster.CA.PEM())); diff != "" {
				t.Errorf("the cluster's CA (-want +got):\n%s", diff)
			}
			if len(cluster.Endpoints) != 1 || cluster.Endpoints[0] != s.Endpoint || !cluster.Named {
				t.Errorf("the endpoints are %v, want %s; named: %t", cluster.Endpoints, s.Endpoint, cluster.Named)
			}
			s.drain(t)
			if diff := cmp.Diff([]request{{path: clusterInfoPath}}, s.received(), cmp.AllowUnexported(request{})); diff != "" {
				t.Errorf("the requests (-want +got):\n%s", diff)
			}
			if len(s.accepted()) != 1 {
				t.Errorf("%d connections, want 1", len(s.accepted()))
			}
		})
	}
}

func TestByTokenKeepsWhatTheOperatorGave(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serveCluster(t, serverOptions{certificate: ca.issue(t, nameOnly)}, bundleOf(ca))
	d := byToken(s, ca.pin())
	_, err := d.Discover(t.Context())
	wantFault(t, err, fault.Untrusted, "does not hold a certificate of the pinned CA")
	if !strings.Contains(fault.Remedy(err), "--tls-server-name") {
		t.Errorf("the remedy is %q", fault.Remedy(err))
	}

	d.Site.TLSServerName = "api.example.com"
	cluster, err := d.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cluster.TLSServerName != d.Site.TLSServerName {
		t.Errorf("the server name is %q, want %q", cluster.TLSServerName, d.Site.TLSServerName)
	}
}

func TestByTokenNamesAnotherServer(t *testing.T) {
	ca := newAuthority(t, "ca")
	named := mustEndpoint(t, "api.example.com:8443")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, clusterInfo(t, dataOf(t, kubeconfigOf(named.URL(), bundleOf(ca)), testToken)))
	dead := deadEndpoint(t)
	d := byToken(s, ca.pin())
	d.Site.Endpoints = []Endpoint{dead, s.Endpoint}
	var out bytes.Buffer
	d.Log = slog.New(slog.NewTextHandler(&out, nil))
	cluster, err := d.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Endpoint{named, s.Endpoint, dead}, cluster.Endpoints, cmp.AllowUnexported(Endpoint{})); diff != "" {
		t.Errorf("the endpoints: the named one, the one that answered, the others (-want +got):\n%s", diff)
	}
	if !strings.Contains(out.String(), "endpoint="+dead.String()) {
		t.Errorf("the dead server is not in the log: %q", out.String())
	}
}

func TestByTokenRefuses(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	text := kubeconfigOf(testServer, bundleOf(ca))
	good := serverOptions{certificate: ca.issue(t)}
	signature := func(value string) map[string]string {
		return map[string]string{"kubeconfig": text, "jws-kubeconfig-" + testTokenID: value}
	}
	without := func(data map[string]string, key string) map[string]string {
		delete(data, key)
		return data
	}
	const wrongSignature = "is not signed with the secret of the token " + testTokenID
	header := `{"alg":"HS256","kid":"` + testTokenID + `"}`
	for _, test := range []struct {
		name    string
		options serverOptions
		handler http.Handler
		class   fault.Class
		want    string
	}{
		// signature
		{"signed with another secret", good, clusterInfo(t, dataOf(t, text, Token{testTokenID, otherToken.Secret})), fault.Untrusted, wrongSignature},
		{"signature of another text", good, clusterInfo(t, signature(detached(header, text+" ", testTokenSecret))), fault.Untrusted, wrongSignature},
		{"alg none, no signature", good, clusterInfo(t, signature(jwsOf(`{"alg":"none","kid":"`+testTokenID+`"}`)+"..")), fault.Untrusted, wrongSignature},
		{"alg none, our MAC", good, clusterInfo(t, signature(detached(`{"alg":"none","kid":"`+testTokenID+`"}`, text, testTokenSecret))), fault.Untrusted, wrongSignature},
		{"alg none, signed with an empty key", good, clusterInfo(t, signature(detached(`{"alg":"none"}`, text, ""))), fault.Untrusted, wrongSignature},
		{"an empty key", good, clusterInfo(t, signature(detached(header, text, ""))), fault.Untrusted, wrongSignature},
		{"an empty signature", good, clusterInfo(t, signature("")), fault.Untrusted, wrongSignature},
		{"the signature of another token", good, clusterInfo(t, signature(dataOf(t, text, otherToken)["jws-kubeconfig-"+otherToken.ID])), fault.Untrusted, wrongSignature},
		{"half of the signature", good, clusterInfo(t, signature(detached(header, text, testTokenSecret)[:40])), fault.Untrusted, wrongSignature},
		{"the signature and more", good, clusterInfo(t, signature(detached(header, text, testTokenSecret)+"A")), fault.Untrusted, wrongSignature},
		{"not detached", good, clusterInfo(t, signature(strings.Replace(detached(header, text, testTokenSecret), "..", "."+jwsOf(text)+".", 1))), fault.Untrusted, wrongSignature},
		{"signed for nobody", good, clusterInfo(t, dataOf(t, text)), 0, "is not signed for the token " + testTokenID + ", nor for any other: the cluster has no live bootstrap token"},
		{"signed for others", good, clusterInfo(t, dataOf(t, text, otherToken)), 0, "is not signed for the token " + testTokenID + " yet"},

		// trust
		{"pin mismatch", serverOptions{certificate: rogue.issue(t)}, clusterInfo(t, dataOf(t, kubeconfigOf(testServer, bundleOf(rogue)), testToken)), fault.Untrusted, `has a pinned key: it offers "CN=rogue" (` + rogue.pin().String()},
		{"pinned CA, server of a rogue CA", serverOptions{certificate: rogue.issue(t)}, clusterInfo(t, dataOf(t, text, testToken)), fault.Untrusted, "does not hold a certificate of the pinned CA"},
		{"pinned and rogue CA, server of the rogue CA", serverOptions{certificate: rogue.issue(t)}, clusterInfo(t, dataOf(t, kubeconfigOf(testServer, bundleOf(ca, rogue)), testToken)), fault.Untrusted, "does not hold a certificate of the pinned CA"},
		{"certificate for another name", serverOptions{certificate: ca.issue(t, nameOnly)}, clusterInfo(t, dataOf(t, text, testToken)), fault.Untrusted, "doesn't contain any IP SANs"},
		{"certificate for clients", serverOptions{certificate: ca.issue(t, clientsOnly)}, clusterInfo(t, dataOf(t, text, testToken)), fault.Untrusted, "incompatible key usage"},
		{"expired certificate", serverOptions{certificate: ca.issue(t, lasting(-3*time.Hour, -2*time.Hour))}, clusterInfo(t, dataOf(t, text, testToken)), fault.Untrusted, "(by this machine's clock it expired 2h0m"},
		{"certificate not yet valid", serverOptions{certificate: ca.issue(t, lasting(2*time.Hour, 3*time.Hour))}, clusterInfo(t, dataOf(t, text, testToken)), fault.Untrusted, "(by this machine's clock it becomes valid in "},
		{"the server's clock behind", serverOptions{certificate: rogue.issue(t)}, dated(-2*time.Hour, clusterInfo(t, dataOf(t, text, testToken))), fault.Untrusted, "ahead of the server's"},
		{"the server's clock ahead", serverOptions{certificate: ca.issue(t, lasting(2*time.Hour, 3*time.Hour))}, dated(150*time.Minute, clusterInfo(t, dataOf(t, text, testToken))), fault.Untrusted, "behind the server's"},

		// content
		{"a rogue kubeconfig, signed", good, clusterInfo(t, dataOf(t, users("exec: {command: /bin/sh}")(text), testToken)), fault.Untrusted, "must not bring credentials"},
		{"a kubeconfig that is not YAML, signed", good, clusterInfo(t, dataOf(t, "{", testToken)), fault.Untrusted, "is not a kubeconfig"},
		{"no kubeconfig", good, clusterInfo(t, without(dataOf(t, text, testToken), "kubeconfig")), 0, "has no kubeconfig in it yet"},
		{"an empty ConfigMap", good, clusterInfo(t, nil), 0, "has no kubeconfig in it yet"},
		{"not JSON", good, respond(http.StatusOK, []byte("<html>")), 0, "is no ConfigMap"},
		{"another object", good, respond(http.StatusOK, []byte(`{"kind":"Status"}`)), 0, "is no ConfigMap"},
		{"a list for data", good, respond(http.StatusOK, []byte(`{"kind":"ConfigMap","data":[]}`)), 0, "is no ConfigMap"},
		{"nothing", good, respond(http.StatusOK, nil), 0, "is no ConfigMap"},
		{"a huge answer", good, respond(http.StatusOK, bytes.Repeat([]byte(" "), maxKubeconfig+1)), 0, "larger than 1048576 bytes"},
		{"an answer without an end", good, http.HandlerFunc(flood), 0, "larger than 1048576 bytes"},
		{"an answer that breaks off", good, http.HandlerFunc(breakOff), 0, "broke off"},

		// status
		{"401", good, respond(http.StatusUnauthorized, nil), 0, "401 Unauthorized"},
		{"403", good, respond(http.StatusForbidden, nil), 0, "forbids anonymous users"},
		{"404", good, respond(http.StatusNotFound, nil), 0, "no ConfigMap kube-public/cluster-info (404)"},
		{"429", good, respond(http.StatusTooManyRequests, nil), 0, "429 Too Many Requests"},
		{"503 of a balancer", good, respond(http.StatusServiceUnavailable, []byte("<html>")), 0, "503 Service Unavailable"},
		{"a redirect", good, http.RedirectHandler("https://127.0.0.1:1/", http.StatusFound), 0, "302 Found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, test.options, test.handler)
			cluster, err := byToken(s, ca.pin()).Discover(t.Context())
			wantFault(t, err, test.class, test.want)
			if !strings.Contains(err.Error(), s.Endpoint.String()) {
				t.Errorf("the error does not name the server: %v", err)
			}
			if cluster != nil {
				t.Error("a cluster came with the error")
			}
			s.drain(t)
			if n := len(s.received()); n != 1 {
				t.Errorf("%d requests, want one", n)
			}
			wantSilence(t, s.bytes())
		})
	}
}

// clientsOnly makes a certificate that no server may present.
func clientsOnly(cert *x509.Certificate) {
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// answerOf returns the answer of an API server whose cluster-info has this data.
func answerOf(tb testing.TB, data map[string]string) *answer {
	tb.Helper()
	w := httptest.NewRecorder()
	clusterInfo(tb, data).ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, clusterInfoPath, nil))
	return &answer{status: w.Code, body: w.Body.Bytes()}
}

func TestSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for offset, want := range map[time.Duration]string{
			0: "", time.Minute: "", -time.Minute: "",
			-2 * time.Hour: "; this machine's clock is 2h0m0s ahead of the server's",
			+2 * time.Hour: "; this machine's clock is 2h0m0s behind the server's",
		} {
			if got := (&answer{date: time.Now().Add(offset)}).skew(); got != want {
				t.Errorf("%s: got %q, want %q", offset, got, want)
			}
		}
		if got := (&answer{}).skew(); got != "" {
			t.Errorf("a server without a clock: got %q", got)
		}
	})
}

func jwsOf(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// dated gives the answers a date so far from now.
func dated(offset time.Duration, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(offset).UTC().Format(http.TimeFormat))
		handler.ServeHTTP(w, r)
	})
}

func flood(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(bytes.Repeat([]byte("a"), 1<<16)); err != nil {
			return
		}
	}
}

func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(`{"kind":`))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestByTokenWithoutPins(t *testing.T) {
	s := serve(t, serverOptions{certificate: machineCA.issue(t)}, http.NotFoundHandler())
	d := &ByToken{Site: Cluster{Endpoints: []Endpoint{s.Endpoint}}, Token: testToken}
	_, err := d.Discover(t.Context())
	const want = "nothing tells which CA is the cluster's"
	wantFault(t, err, fault.Usage, want)
	wantFault(t, d.Check(), fault.Usage, want)
	for _, will := range []*ByToken{{Pins: []Pin{{}}}, {SkipPins: true}} {
		if err := will.Check(); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(fault.Remedy(err), "--discovery-token-ca-cert-hash") {
		t.Errorf("the remedy is %q", fault.Remedy(err))
	}
	if len(s.accepted()) != 0 {
		t.Error("the server was asked nevertheless")
	}
}

func TestByTokenGivesUpAfterThree401(t *testing.T) {
	ca := newAuthority(t, "ca")
	statuses := []int{401, 401, 503, 401, 401, 401, 401}
	final := []bool{false, false, false, false, false, true, true}
	var answers atomic.Int32
	s := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(statuses[answers.Add(1)-1])
	}))
	d := byToken(s, ca.pin())
	for i := range statuses {
		if _, err := d.Discover(t.Context()); fault.IsFinal(err) != final[i] {
			t.Errorf("answer %d (%d): final is %t, want %t: %v", i, statuses[i], fault.IsFinal(err), final[i], err)
		}
	}
	_, err := d.Discover(t.Context())
	wantFault(t, err, 0, "") // the handler has no answer left and ends the connection
}

func TestByTokenGraceOfTheSigner(t *testing.T) {
	// In a bubble, where two seconds pass in no time.
	synctest.Test(t, func(t *testing.T) {
		text := kubeconfigOf(testServer, bundleOf(machineCA))
		d := &ByToken{Token: testToken}
		try := func(data map[string]string) error {
			t.Helper()
			_, err := d.verifiedText(Endpoint{host: "cp1", port: "6443"}, answerOf(t, data))
			return err
		}
		others, nobody := dataOf(t, text, otherToken), dataOf(t, text)
		const pass = "is not signed for the token " + testTokenID + " yet"
		wantFault(t, try(others), 0, pass)
		time.Sleep(signingGrace - time.Millisecond)
		wantFault(t, try(others), 0, pass)
		time.Sleep(time.Millisecond)
		wantFault(t, try(others), fault.Untrusted, "does not know the bootstrap token "+testTokenID)

		// A signer that has signed nothing may need as long as it likes, and then the grace begins anew.
		wantFault(t, try(nobody), 0, "nor for any other: the cluster has no live bootstrap token")
		time.Sleep(time.Hour)
		wantFault(t, try(nobody), 0, "nor for any other: the cluster has no live bootstrap token")
		wantFault(t, try(others), 0, pass)
		if err := try(dataOf(t, text, otherToken, testToken)); err != nil {
			t.Errorf("refused once it is signed: %v", err)
		}
		time.Sleep(signingGrace)
		wantFault(t, try(others), 0, pass)
	})
}

// Where nobody signs, the token may be dead: that passes, and says what to do for whoever waits no longer, of several
// servers, too.
func TestByTokenSignedForNobody(t *testing.T) {
	ca := newAuthority(t, "ca")
	unsigned := clusterInfo(t, dataOf(t, kubeconfigOf(testServer, bundleOf(ca))))
	one, other := serve(t, serverOptions{certificate: ca.issue(t)}, unsigned), serve(t, serverOptions{certificate: ca.issue(t)}, unsigned)
	busy := serve(t, serverOptions{certificate: ca.issue(t)}, respond(http.StatusServiceUnavailable, nil))
	for _, servers := range [][]Endpoint{{one.Endpoint}, {one.Endpoint, other.Endpoint}, {busy.Endpoint, other.Endpoint}} {
		d := &ByToken{Site: Cluster{Endpoints: servers}, Token: testToken, Pins: []Pin{ca.pin()}}
		_, err := d.Discover(t.Context())
		wantFault(t, err, 0, "is not signed for the token "+testTokenID+", nor for any other")
		if class, remedy := fault.ClassOf(err), fault.Remedy(err); class != fault.Untrusted || !strings.Contains(remedy, "nodejoin token create") {
			t.Errorf("%d servers: class %d, and the remedy is %q", len(servers), class, remedy)
		}
	}
}

func TestByTokenAsksTheServersInTurn(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	good := serveCluster(t, serverOptions{certificate: ca.issue(t)}, bundleOf(ca))
	wrong := serveCluster(t, serverOptions{certificate: rogue.issue(t)}, bundleOf(ca))
	busy := serve(t, serverOptions{certificate: ca.issue(t)}, respond(http.StatusServiceUnavailable, nil))
	for _, test := range []struct {
		name    string
		servers []Endpoint
		class   fault.Class
		want    string // "" for success
	}{
		{"the last one is good", []Endpoint{deadEndpoint(t), wrong.Endpoint, busy.Endpoint, good.Endpoint}, 0, ""},
		{"all final", []Endpoint{wrong.Endpoint, wrong.Endpoint}, fault.Untrusted, "none of the API servers will do"},
		{"one may come back", []Endpoint{wrong.Endpoint, busy.Endpoint}, 0, "none of the API servers can be used now"},
		{"the only one is down", []Endpoint{deadEndpoint(t)}, 0, "cannot ask 127.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := &ByToken{Site: Cluster{Endpoints: test.servers}, Token: testToken, Pins: []Pin{ca.pin()}}
			cluster, err := d.Discover(t.Context())
			if test.want != "" {
				wantFault(t, err, test.class, test.want)
				return
			}
			if err != nil || cluster.Endpoints[0] != good.Endpoint || len(cluster.Endpoints) != len(test.servers) {
				t.Errorf("got %v, %v", cluster, err)
			}
		})
	}
}

func TestByTokenGivesUpWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("cannot ask cp1:6443: refused")
		wrong := fault.New(fault.Untrusted, "make a new one", "cp2:6443 does not know the token")
		d := new(ByToken)
		stuck, allDown := []error{down, wrong}, []error{down, down}
		const text = "none of the API servers can be used now: cannot ask cp1:6443: refused; cp2:6443 does not know the token"
		wantFault(t, d.verdict(stuck), 0, text)
		time.Sleep(stuckGrace - time.Millisecond)
		wantFault(t, d.verdict(stuck), 0, text)
		time.Sleep(time.Millisecond)
		err := d.verdict(stuck)
		wantFault(t, err, fault.Untrusted, "after 10s, "+text)
		if got := fault.Remedy(err); got != "make a new one" {
			t.Errorf("the remedy is %q", got)
		}

		// That nobody says anything for good may last as long as it likes, and then the grace begins anew.
		wantFault(t, d.verdict(allDown), 0, "")
		time.Sleep(time.Hour)
		wantFault(t, d.verdict(allDown), 0, "")
		wantFault(t, d.verdict(stuck), 0, text)
		time.Sleep(stuckGrace)
		wantFault(t, d.verdict([]error{down}), 0, down.Error())
		wantFault(t, d.verdict(stuck), 0, text)
		wantFault(t, d.verdict([]error{wrong, wrong}), fault.Untrusted, "none of the API servers will do")
	})
	t.Run("the servers' part", func(t *testing.T) {
		good := serveCluster(t, serverOptions{certificate: machineCA.issue(t)}, bundleOf(machineCA))
		wrong := serveCluster(t, serverOptions{certificate: newAuthority(t, "rogue").issue(t)}, bundleOf(machineCA))
		dead := deadEndpoint(t)
		since := time.Now().Add(-stuckGrace)
		d := &ByToken{Site: Cluster{Endpoints: []Endpoint{dead, wrong.Endpoint}}, Token: testToken, Pins: []Pin{machineCA.pin()}, stuckSince: since}
		_, err := d.Discover(t.Context())
		for _, server := range d.Site.Endpoints {
			wantFault(t, err, fault.Untrusted, server.String())
		}
		d.Site.Endpoints = []Endpoint{dead, wrong.Endpoint, good.Endpoint}
		if _, err := d.Discover(t.Context()); err != nil || !d.stuckSince.IsZero() {
			t.Errorf("once a server is good: stuck since %s, %v", d.stuckSince, err)
		}
	})
}
