package bootstrap

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	trustPathV1      = "/apis/certificates.k8s.io/v1/clustertrustbundles"
	trustPathV1beta1 = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
)

// object is a ClusterTrustBundle.
type object struct{ name, signer, bundle string }

// published returns what the cluster publishes of its own CA.
func published(authorities ...*authority) object {
	return object{"kubernetes.io:kube-apiserver-serving:a", trustSigner, string(bundleOf(authorities...).PEM())}
}

// trustList returns an API server's answer.
func trustList(tb testing.TB, objects ...object) []byte {
	tb.Helper()
	items := []any{}
	for _, o := range objects {
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": o.name, "uid": "4c1a", "creationTimestamp": "2026-01-01T00:00:00Z"},
			"spec":     map[string]any{"signerName": o.signer, "trustBundle": o.bundle},
		})
	}
	body, err := json.Marshal(map[string]any{
		"kind": "ClusterTrustBundleList", "apiVersion": "certificates.k8s.io/v1", "metadata": map[string]any{"resourceVersion": "7"}, "items": items,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// statusBody is what an API server says beside an error.
const statusBody = `{"kind":"Status","apiVersion":"v1","status":"Failure"}`

// reply is an answer and what FetchTrustBundle makes of it.
type reply struct {
	name   string
	status int
	body   []byte
	want   Bundle
	is     error       // what the error wraps
	class  fault.Class // of the error; 0 for a passing one
	text   string      // what the error says; "" for success
}

func trustReplies(tb testing.TB) []reply {
	tb.Helper()
	a, b, c := newAuthority(tb, "a"), newAuthority(tb, "b"), newAuthority(tb, "c")
	old, older := newAuthority(tb, "old", lasting(-48*time.Hour, -time.Hour)), newAuthority(tb, "older", lasting(-48*time.Hour, -2*time.Hour))
	future := newAuthority(tb, "future", lasting(time.Hour, 2*time.Hour))
	good := published(a)
	key := object{"kubernetes.io:kube-apiserver-serving:k", trustSigner, string(pemOf("PRIVATE KEY", []byte(testTokenSecret)))}
	leaf := object{"kubernetes.io:kube-apiserver-serving:l", trustSigner, string(pemOf("CERTIFICATE", a.issue(tb).Leaf.Raw))}
	cut := object{"kubernetes.io:kube-apiserver-serving:c", trustSigner, good.bundle + good.bundle[:200]}
	var many []*authority
	for i := range 101 {
		many = append(many, newAuthority(tb, fmt.Sprint("ca", i)))
	}
	ok := func(name string, want Bundle, objects ...object) reply {
		return reply{name: name, status: 200, body: trustList(tb, objects...), want: want}
	}
	none := func(name string, objects ...object) reply {
		return reply{name: name, status: 200, body: trustList(tb, objects...), is: ErrNoTrustBundle, text: "there is no ClusterTrustBundle of " + trustSigner}
	}
	useless := func(name, text string, objects ...object) reply {
		return reply{name: name, status: 200, body: trustList(tb, objects...), class: fault.Untrusted, text: text}
	}
	strange := func(name, body string) reply {
		return reply{name: name, status: 200, body: []byte(body), text: "is no list of ClusterTrustBundles: is it an API server's?"}
	}
	return []reply{
		ok("one CA", bundleOf(a), good),
		ok("two in one object, in order", bundleOf(b, a), published(b, a)),
		ok("two objects", bundleOf(a, c, b), published(a, c), published(b)),
		ok("a CA in both objects", bundleOf(a, b, c), published(a, b), published(c, a)),
		ok("an expired CA beside a good one", bundleOf(a), published(old, a)),
		ok("an object of expired ones beside a good one", bundleOf(a), published(old, older), good),
		ok("not yet valid", bundleOf(future), published(future)), // the clock may be behind; the handshake decides
		ok("objects of others too", bundleOf(a), object{"rogue", "", published(b).bundle}, good, object{"example.com:a", "example.com/a", published(c).bundle}),
		ok("a key in an object of others", bundleOf(a), object{"rogue", "", key.bundle}, good),
		ok("a hundred", bundleOf(many[:100]...), published(many[:60]...), published(many[60:100]...)),
		ok("a hundred beside an expired one", bundleOf(many[:100]...), published(many[:60]...), published(many[60:100]...), published(old)),
		none("an empty list"),
		none("objects of others alone", object{"rogue", "", good.bundle}, object{"example.com:a", "example.com/a", good.bundle},
			object{"kubernetes.io:kube-apiserver-serving:a", "", good.bundle}, object{"a", trustSigner + "/", good.bundle}, object{"a", strings.ToUpper(trustSigner), good.bundle}),
		{name: "no list of items", status: 200, body: []byte(`{"kind":"ClusterTrustBundleList","items":null}`), is: ErrNoTrustBundle, text: "there is no ClusterTrustBundle"},
		useless("expired ones alone", `the CA certificate "CN=older" expired at `, published(old), published(older)),
		useless("a leaf beside a CA", `the ClusterTrustBundle "kubernetes.io:kube-apiserver-serving:l" cannot be used: entry 1 of the CA bundle: the certificate "CN=kube-apiserver" is not a CA`, good, leaf),
		useless("a leaf beside a CA, in front", "is not a CA certificate", leaf, good),
		useless("a key", "it is a private key", key),
		useless("cut off", "damaged or cut off", cut),
		useless("an empty object", "no PEM-encoded certificate", good, object{"a", trustSigner, ""}),
		useless("a hundred and one in all", "101 certificates: more than 100", published(many[:60]...), published(many[60:]...)),
		useless("a hundred and one in one", "101 entries: more than 100", published(many...)),
		{name: "a part of a list", status: 200, body: []byte(strings.Replace(string(trustList(tb, good)), `{"resourceVersion"`, `{"continue":"abc","resourceVersion"`, 1)), text: "is not whole"},
		strange("nothing", ""), strange("HTML", "<html>"), strange("a Status", statusBody), strange("null", "null"), strange("a list", "[]"),
		strange("cut off", string(trustList(tb, good)[:300])),
		strange("more behind it", string(trustList(tb, good))+"{}"),
		strange("another list", strings.Replace(string(trustList(tb, good)), "ClusterTrustBundleList", "SecretList", 1)),
		strange("a number for a bundle", `{"kind":"ClusterTrustBundleList","items":[{"spec":{"signerName":"`+trustSigner+`","trustBundle":1}}]}`),
		{name: "401", status: 401, body: []byte(statusBody), is: ErrRefused, text: "the API server does not know the credential (401)"},
		{name: "403", status: 403, body: []byte(statusBody), is: ErrNoTrustBundle, text: "may not list ClusterTrustBundles (403)"},
		{name: "404", status: 404, body: []byte("404 page not found\n"), is: ErrNoTrustBundle, text: "does not know ClusterTrustBundles (404)"},
		{name: "500", status: 500, body: []byte(statusBody), text: "answered 500 Internal Server Error"},
		{name: "503 in HTML", status: 503, body: []byte("<html>\n"), text: "answered 503 Service Unavailable"},
		{name: "429", status: 429, body: []byte(statusBody), text: "answered 429 Too Many Requests"},
		{name: "a redirect", status: 302, text: "answered 302 Found"},
		{name: "204", status: 204, text: "answered 204 No Content"},
	}
}

func TestFetchTrustBundle(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, test := range trustReplies(t) {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: ca.issue(t)}, respond(test.status, test.body))
			got, err := FetchTrustBundle(t.Context(), connect(t, ca, s.Endpoint), "nodejoin/test", time.Now())
			if test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				wantFault(t, err, test.class, test.text)
			}
			if string(got.PEM()) != string(test.want.PEM()) {
				t.Errorf("got %s, want %s", got, test.want)
			}
			for _, sentinel := range []error{ErrNoTrustBundle, ErrRefused} {
				if is := errors.Is(err, sentinel); is != errors.Is(test.is, sentinel) {
					t.Errorf("the error is %q: %t", sentinel, is)
				}
			}
			if _, err := ParseBundle(got.PEM(), time.Now()); !got.IsZero() && err != nil {
				t.Errorf("nobody would read it again: %v", err)
			}
			requests := 1
			if test.status == http.StatusNotFound {
				requests = len(trustVersions)
			}
			if got := s.received(); len(got) != requests {
				t.Errorf("the requests are %+v, want %d", got, requests)
			}
		})
	}
}

func TestFetchTrustBundleTakesTheNewestVersion(t *testing.T) {
	ca, beta := newAuthority(t, "ca"), newAuthority(t, "beta")
	absent := respond(http.StatusNotFound, nil)
	for _, test := range []struct {
		name     string
		v1, beta http.Handler
		want     Bundle
		paths    []string
	}{
		{"both", respond(200, trustList(t, published(ca))), respond(200, trustList(t, published(beta))), bundleOf(ca), []string{trustPathV1}},
		{"v1beta1 alone", absent, respond(200, trustList(t, published(beta))), bundleOf(beta), []string{trustPathV1, trustPathV1beta1}},
		// What v1 has none of, v1beta1 does not have either.
		{"an empty v1", respond(200, trustList(t)), respond(200, trustList(t, published(beta))), Bundle{}, []string{trustPathV1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.Handle(trustPathV1, test.v1)
			mux.Handle(trustPathV1beta1, test.beta)
			s := serve(t, serverOptions{certificate: ca.issue(t)}, mux)
			got, err := FetchTrustBundle(t.Context(), connect(t, ca, s.Endpoint), "nodejoin/test", time.Now())
			if !got.Equal(test.want) || (err == nil) == test.want.IsZero() {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
			var paths []string
			for _, r := range s.received() {
				paths = append(paths, r.path)
			}
			if diff := cmp.Diff(test.paths, paths); diff != "" {
				t.Errorf("the paths (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFetchTrustBundleAsks(t *testing.T) {
	ca := newAuthority(t, "ca")
	requests := make(chan *http.Request, 1)
	s := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		respond(200, trustList(t, published(ca))).ServeHTTP(w, r)
	}))
	rt := Authenticate(testToken.Credential(), connect(t, ca, s.Endpoint))
	if _, err := FetchTrustBundle(t.Context(), rt, "nodejoin/test (unit)", time.Now()); err != nil {
		t.Fatal(err)
	}
	r := <-requests
	if got, want := r.Method+" "+r.Host+r.RequestURI, "GET "+s.Endpoint.String()+trustPathV1+"?fieldSelector=spec.signerName%3Dkubernetes.io%2Fkube-apiserver-serving"; got != want {
		t.Errorf("the request is %s, want %s", got, want)
	}
	for name, want := range map[string]string{"User-Agent": "nodejoin/test (unit)", "Accept": "application/json", "Authorization": "Bearer " + testTokenText} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestFetchTrustBundleBreaksOff(t *testing.T) {
	ca := newAuthority(t, "ca")
	rogue := serve(t, serverOptions{certificate: newAuthority(t, "rogue").issue(t)}, respond(200, trustList(t, published(ca))))
	flooded := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(flood))
	broken := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(breakOff))
	for _, test := range []struct {
		name   string
		server Endpoint
		class  fault.Class
		want   string
	}{
		{"no end", flooded.Endpoint, 0, "cannot read the cluster's trust bundles: the answer is larger than 1048576 bytes"},
		{"in the middle", broken.Endpoint, 0, "the answer broke off"},
		{"before it began", deadEndpoint(t), 0, "connection refused"},
		{"at a server that is not the cluster's", rogue.Endpoint, fault.Untrusted, "unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := FetchTrustBundle(t.Context(), connect(t, ca, test.server), "nodejoin/test", time.Now())
			wantFault(t, err, test.class, test.want)
			if errors.Is(err, ErrNoTrustBundle) || errors.Is(err, ErrRefused) || !got.IsZero() {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	if got := rogue.received(); len(got) != 0 {
		t.Errorf("the server of another CA got %+v", got)
	}
}

// stalled is a RoundTripper that waits for the end of its request's context.
type stalled struct{}

func (stalled) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

func TestFetchTrustBundleEnds(t *testing.T) {
	enough := errors.New("the operator had enough")
	for _, test := range []struct {
		name  string
		after time.Duration // until the caller ends it
		want  error
		took  time.Duration
	}{
		{"by itself", time.Hour, context.DeadlineExceeded, 30 * time.Second},
		{"by the caller", time.Second, enough, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), test.after, enough)
				defer cancel()
				began := time.Now()
				_, err := FetchTrustBundle(ctx, stalled{}, "nodejoin/test", began)
				if !errors.Is(err, test.want) || fault.IsFinal(err) {
					t.Errorf("the error is %v, want %v", err, test.want)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
			})
		})
	}
}

func TestFetchClusterInfoCA(t *testing.T) {
	ca, next := newAuthority(t, "ca"), newAuthority(t, "next")
	old := newAuthority(t, "old", lasting(-48*time.Hour, -time.Hour))
	elsewhere := "https://elsewhere.example.com:6443" // the servers at hand are asked, not those in it
	unsigned := func(kubeconfig string) []byte { return infoOf(t, map[string]string{"kubeconfig": kubeconfig}) }
	good := kubeconfigOf(elsewhere, bundleOf(ca))
	for _, test := range []struct {
		name   string
		status int
		body   []byte
		want   Bundle
		is     error
		class  fault.Class
		text   string // of the error; "" for success
	}{
		{name: "one CA", status: 200, body: unsigned(good), want: bundleOf(ca)},
		{name: "two, in order", status: 200, body: unsigned(kubeconfigOf(elsewhere, bundleOf(next, ca))), want: bundleOf(next, ca)},
		{name: "another CA", status: 200, body: unsigned(kubeconfigOf(elsewhere, bundleOf(next))), want: bundleOf(next)},
		{name: "an expired CA beside a good one", status: 200, body: unsigned(kubeconfigOf(elsewhere, bundleOf(old, next))), want: bundleOf(next)},
		{name: "signed for some token", status: 200, body: infoOf(t, dataOf(t, good, otherToken)), want: bundleOf(ca)},
		{name: "401", status: 401, body: []byte(statusBody), is: ErrNoTrustBundle, text: "answered 401 Unauthorized"},
		{name: "403", status: 403, body: []byte(statusBody), is: ErrNoTrustBundle, text: "answered 403 Forbidden"},
		{name: "404", status: 404, body: []byte(statusBody), is: ErrNoTrustBundle, text: "answered 404 Not Found"},
		{name: "no kubeconfig", status: 200, body: infoOf(t, nil), is: ErrNoTrustBundle, text: "has no kubeconfig in it"},
		{name: "503", status: 503, body: []byte("<html>"), text: "answered 503 Service Unavailable"},
		{name: "a redirect", status: 302, text: "answered 302 Found"},
		{name: "HTML", status: 200, body: []byte("<html>"), text: "no ConfigMap"},
		{name: "a Status", status: 200, body: []byte(statusBody), text: "no ConfigMap"},
		{name: "expired alone", status: 200, body: unsigned(kubeconfigOf(elsewhere, bundleOf(old))), class: fault.Untrusted, text: `"CN=old" expired`},
		{name: "no kubeconfig in it", status: 200, body: unsigned("{"), class: fault.Untrusted, text: "is not a kubeconfig"},
		{name: "users", status: 200, body: unsigned(users("token: a")(good)), class: fault.Untrusted, text: "must not bring credentials"},
		{name: "a path", status: 200, body: unsigned(replace("certificate-authority-data", "    certificate-authority: /etc/passwd")(good)), class: fault.Untrusted, text: "must not make this machine read its files"},
		{name: "no verification", status: 200, body: unsigned(insert("server:", "    insecure-skip-tls-verify: true")(good)), class: fault.Untrusted, text: "insecure-skip-tls-verify"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: ca.issue(t), clientAuth: tls.RequestClientCert}, at(clusterInfoPath, respond(test.status, test.body)))
			got, err := FetchClusterInfoCA(t.Context(), &Cluster{Endpoints: []Endpoint{s.Endpoint}, CA: bundleOf(ca)}, time.Now())
			if test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				wantFault(t, err, test.class, test.text)
			}
			if string(got.PEM()) != string(test.want.PEM()) {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if errors.Is(err, ErrNoTrustBundle) != (test.is != nil) {
				t.Errorf("the error is %v", err)
			}
			s.drain(t) // nothing is left open
			// HTTP/1.1, and nobody says who he is.
			if diff := cmp.Diff([]request{{path: clusterInfoPath}}, s.received(), cmp.AllowUnexported(request{})); diff != "" {
				t.Errorf("the requests (-want +got):\n%s", diff)
			}
			if presented := s.accepted()[0].session.ConnectionState().PeerCertificates; len(presented) != 0 {
				t.Errorf("a certificate was presented: %s", presented[0].Subject)
			}
		})
	}
}

func TestFetchClusterInfoCAAsksInTurn(t *testing.T) {
	ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
	info := infoOf(t, dataOf(t, kubeconfigOf(testServer, bundleOf(ca))))
	lie := infoOf(t, dataOf(t, kubeconfigOf(testServer, bundleOf(rogue))))
	start := func(issuer *authority, status int, body []byte) *server {
		return serve(t, serverOptions{certificate: issuer.issue(t)}, respond(status, body))
	}
	good, absent, lying := start(ca, 200, info), start(ca, 404, nil), start(rogue, 200, lie)
	ill, mad := start(ca, 503, nil), start(ca, 200, infoOf(t, map[string]string{"kubeconfig": "{"}))
	dead := deadEndpoint(t)
	for _, test := range []struct {
		name      string
		endpoints []Endpoint
		none      bool
		class     fault.Class
		text      string // "" for success
	}{
		{"the first is dead", []Endpoint{dead, good.Endpoint}, false, 0, ""},
		{"the first lies", []Endpoint{lying.Endpoint, good.Endpoint}, false, 0, ""},
		{"the first has none", []Endpoint{absent.Endpoint, good.Endpoint}, false, 0, ""},
		{"the first is ill, the second mad", []Endpoint{ill.Endpoint, mad.Endpoint, good.Endpoint}, false, 0, ""},
		{"one has none", []Endpoint{dead, absent.Endpoint, ill.Endpoint, lying.Endpoint}, true, 0, "answered 404"},
		{"dead", []Endpoint{dead}, false, 0, "connection refused"},
		{"dead or lying", []Endpoint{lying.Endpoint, dead}, false, 0, "none of the API servers can be used now"},
		{"lying", []Endpoint{lying.Endpoint}, false, fault.Untrusted, "unknown authority"},
		{"lying or mad", []Endpoint{lying.Endpoint, mad.Endpoint}, false, fault.Untrusted, "none of the API servers will do"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := FetchClusterInfoCA(t.Context(), &Cluster{Endpoints: test.endpoints, CA: bundleOf(ca)}, time.Now())
			if test.text == "" {
				if err != nil || !got.Equal(bundleOf(ca)) {
					t.Errorf("got %s, %v", got, err)
				}
				return
			}
			wantFault(t, err, test.class, test.text)
			if errors.Is(err, ErrNoTrustBundle) != test.none || !got.IsZero() {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	if got := lying.received(); len(got) != 0 {
		t.Errorf("the server of another CA got %+v", got)
	}
}

func TestFetchClusterInfoCAGoesTheClustersWay(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t, nameOnly)}, clusterInfo(t, dataOf(t, kubeconfigOf(testServer, bundleOf(ca)))))
	proxy, tunnels := connectProxy(t)
	cluster := &Cluster{Endpoints: []Endpoint{s.Endpoint}, CA: bundleOf(ca), TLSServerName: "api.example.com", ProxyURL: proxy}
	if _, err := FetchClusterInfoCA(t.Context(), cluster, time.Now()); err != nil {
		t.Error(err)
	}
	if got := tunnels.Load(); got != 1 {
		t.Errorf("%d tunnels, want 1", got)
	}
	cluster.TLSServerName = ""
	_, err := FetchClusterInfoCA(t.Context(), cluster, time.Now())
	wantFault(t, err, fault.Untrusted, "IP SANs")
}

func TestFetchClusterInfoCAEndsWithTheContext(t *testing.T) {
	ca := newAuthority(t, "ca")
	enough := errors.New("the operator had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s := serve(t, serverOptions{certificate: ca.issue(t)}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel(enough)
		<-r.Context().Done()
	}))
	_, err := FetchClusterInfoCA(ctx, &Cluster{Endpoints: []Endpoint{s.Endpoint, s.Endpoint}, CA: bundleOf(ca)}, time.Now())
	if !errors.Is(err, enough) {
		t.Errorf("the error is %v, want the cause of the cancellation", err)
	}
	if got := len(s.accepted()); got != 1 {
		t.Errorf("%d servers were called, want 1", got)
	}
}

// checkTrust checks what came of an answer: certificates of the signer's objects and no other.
func checkTrust(t *testing.T, body []byte, got Bundle, err error, now time.Time) {
	t.Helper()
	if err != nil {
		if !got.IsZero() || strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("refused with %s, %q", got, err)
		}
		return
	}
	checkBundle(t, got, now)
	var list trustBundleList
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("accepted what is no JSON: %v", err)
	}
	var all Bundle
	for _, item := range list.Items {
		if item.Spec.SignerName != "kubernetes.io/kube-apiserver-serving" {
			continue
		}
		bundle, err := parseCAs([]byte(item.Spec.TrustBundle))
		if err != nil {
			t.Errorf("accepted with an object that is damaged: %v", err)
		}
		all.certs = append(all.certs, bundle.certs...)
	}
	if !all.Contains(got) {
		t.Errorf("%s is of no object", got.Without(all))
	}
	for _, cert := range all.Without(got).certs {
		if !now.After(cert.NotAfter) {
			t.Errorf("%q was left out", cert.Subject)
		}
	}
	if unique := (Bundle{}).Union(got); len(unique.certs) != len(got.certs) || !slices.Equal(unique.certs, got.certs) {
		t.Error("a certificate is in it twice")
	}
}

func FuzzTrustBundles(f *testing.F) {
	for _, test := range trustReplies(f) {
		if len(test.body) < 20_000 { // the largest are for the table alone
			f.Add(test.body)
		}
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseTrustBundles(body, now)
		checkTrust(t, body, got, err, now)
	})
}
