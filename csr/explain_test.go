package csr

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// answer is what an API server, or a balancer before it, says.
type answer struct {
	code       int
	retryAfter string
	location   string
	body       string // empty: none; one that begins with '{' is JSON, else HTML
}

func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	if a.body != "" && a.body[0] == '{' {
		w.Header().Set("Content-Type", "application/json")
	}
	if a.retryAfter != "" {
		w.Header().Set("Retry-After", a.retryAfter)
	}
	if a.location != "" {
		w.Header().Set("Location", a.location)
	}
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.body)
}

// status is the body of an API server's refusal.
func status(reason, message string) string {
	return `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + reason + `","message":"` + message + `","code":0}`
}

// statusDelay is one that says after how many seconds to come back, as the API server does beside its Retry-After.
func statusDelay(reason, message string, seconds int) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":%q,"details":{"retryAfterSeconds":%d},"code":0}`, reason, message, seconds)
}

// serve lets a client talk to a handler without a network.
func serve(handler http.Handler) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, req)
		response := recorder.Result()
		response.Request = req
		return response, nil
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func newClient(tb testing.TB, transport http.RoundTripper) *Client {
	tb.Helper()
	client, err := NewClient("https://api.example.com:6443", transport, "test")
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

const html = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n<h1>\"Sorry\"</h1>\r\n</body></html>\r\n"

func TestAnswers(t *testing.T) {
	broken := errors.New("connection reset by peer")
	for _, test := range []struct {
		name    string
		answer  http.RoundTripper
		class   fault.Class // 0: it passes
		is      error
		delay   int // seconds that the server asks to wait for
		want    string
		wantGet string // where reading says it in other words
	}{
		{
			name: "no connection", answer: roundTrip(func(*http.Request) (*http.Response, error) { return nil, broken }),
			is: broken, want: "certificate signing request: connection reset by peer",
		},
		{
			name: "unauthorized", answer: serve(answer{code: 401, body: status("Unauthorized", "Unauthorized")}),
			is: ErrUnauthorized, want: "the API server does not know the credential (401): Unauthorized",
		},
		{name: "unauthorized, by a balancer", answer: serve(answer{code: 401, body: html}), is: ErrUnauthorized, want: "does not know the credential (401)"},
		{
			name: "forbidden", answer: serve(answer{code: 403, body: status("Forbidden", `certificatesigningrequests is forbidden: User \"system:bootstrap:abcdef\" cannot`)}),
			class: fault.Refused, want: `may not create certificate signing requests: certificatesigningrequests is forbidden: User "system:bootstrap:abcdef" cannot`, wantGet: "may not get",
		},
		{
			name: "forbidden by an admission rule", answer: serve(answer{code: 403, body: status("Forbidden", `certificatesigningrequests \"x\" is forbidden: can only create a node CSR with CN=system:node:x`)}),
			class: fault.Refused, want: "is forbidden, and not for want of a right to create it: certificatesigningrequests", wantGet: "a right to get it",
		},
		{name: "forbidden by a proxy", answer: serve(answer{code: 403, body: html}), class: fault.Refused, want: "not for want of a right to create it", wantGet: "a right to get it"},
		{
			name: "invalid", answer: serve(answer{code: 422, body: status("Invalid", "spec.expirationSeconds: Invalid value: 1")}),
			class: fault.Denied, want: "does not accept the request: spec.expirationSeconds",
		},
		{name: "a bad request", answer: serve(answer{code: 400, body: status("BadRequest", "no kind")}), class: fault.Denied, want: "does not accept the request: no kind"},
		{name: "not found", answer: serve(answer{code: 404, body: status("NotFound", "no such thing")}), want: "no such thing", wantGet: "the request is gone: NAME was deleted"},
		{name: "a conflict", answer: serve(answer{code: 409, body: status("Conflict", "try again")}), want: "try again"},
		{name: "too many requests", answer: serve(answer{code: 429, retryAfter: "7", body: statusDelay("TooManyRequests", "slow down", 7)}), delay: 7, want: "slow down"},
		{name: "too many requests, by a balancer", answer: serve(answer{code: 429, retryAfter: "7", body: html}), delay: 7, want: "cannot create", wantGet: "cannot get"},
		{name: "an internal error", answer: serve(answer{code: 500, body: status("InternalError", "etcd: no leader")}), want: "etcd: no leader"},
		{name: "a bad gateway", answer: serve(answer{code: 502, body: html}), want: "cannot create", wantGet: "cannot get"},
		{name: "unavailable", answer: serve(answer{code: 503, body: status("ServiceUnavailable", "apiserver is shutting down")}), want: "apiserver is shutting down"},
		{name: "unavailable, come back", answer: serve(answer{code: 503, retryAfter: "30", body: statusDelay("ServiceUnavailable", "shutting down", 30)}), delay: 30, want: "shutting down"},
		{name: "unavailable, in HTML", answer: serve(answer{code: 503, body: html}), want: "the server is currently unable to handle the request"},
		{name: "a gateway's time-out", answer: serve(answer{code: 504, body: html}), want: "cannot create", wantGet: "cannot get"},
		{name: "a time-out", answer: serve(answer{code: 504, body: status("Timeout", "too slow")}), want: "too slow"},
		{name: "a redirect", answer: serve(answer{code: 307, location: "https://rogue.example.com/", body: html}), want: "cannot create", wantGet: "cannot get"},
		{name: "HTML in the place of an object", answer: serve(answer{code: 200, body: html}), want: "cannot create", wantGet: "cannot get"},
		{name: "another kind", answer: serve(answer{code: 200, body: `{"kind":"Pod","apiVersion":"v1"}`}), want: `no kind "Pod"`},
		{name: "another version", answer: serve(answer{code: 200, body: `{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v2"}`}), want: "no kind"},
		{name: "half an object", answer: serve(answer{code: 201, body: `{"kind":"CertificateSigningRequest",`}), want: "cannot create", wantGet: "cannot get"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, test.answer)
				_, created := client.create(t.Context(), newRequest(t, testTemplate).object())
				_, got := client.get(t.Context(), "NAME")
				if test.wantGet == "" {
					test.wantGet = test.want
				}
				for _, check := range []struct {
					err  error
					want string
				}{{created, test.want}, {got, test.wantGet}} {
					expect.Fault(t, check.err, test.class, check.want)
					if test.is != nil && !errors.Is(check.err, test.is) {
						t.Errorf("not %v: %v", test.is, check.err)
					}
					delay, asked := apierrors.SuggestsClientDelay(check.err)
					if asked != (test.delay != 0) || delay != test.delay {
						t.Errorf("a delay of %d s (%t) in %v", delay, asked, check.err)
					}
				}
			})
		})
	}
}

// TestAlreadyExists is of the one refusal that is good news.
func TestAlreadyExists(t *testing.T) {
	client := newClient(t, serve(answer{code: 409, body: status("AlreadyExists", "it is there")}))
	if _, err := client.create(t.Context(), newRequest(t, testTemplate).object()); !apierrors.IsAlreadyExists(err) || fault.IsFinal(err) {
		t.Errorf("got %v", err)
	}
}

func TestUserAgent(t *testing.T) {
	var got []string
	client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		got = append(got, req.Header.Get("User-Agent"))
		return nil, io.EOF
	}))
	_, _ = client.create(t.Context(), newRequest(t, testTemplate).object())
	_, _ = client.get(t.Context(), "NAME")
	_, _ = client.watch(t.Context(), "NAME", "")
	if len(got) != 3 || got[0] != "test" || got[1] != "test" || got[2] != "test" {
		t.Errorf("got %q, want three times %q", got, "test")
	}
}
