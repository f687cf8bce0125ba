package oidc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// The secrets of these tests: none of them may be in an error or a log.
const (
	firstRefresh  = "canary-refresh-1"
	secondRefresh = "canary-refresh-2"
	thirdRefresh  = "canary-refresh-3"
	clientSecret  = "canary-client-secret"
	accessToken   = "canary-access"
	signature     = "canary-signature"
)

// jwt returns what has the form of an id_token.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + signature
}

func lasting(d time.Duration) string { return fmt.Sprintf(`{"exp":%d}`, time.Now().Add(d).Unix()) }

// fakeProvider is an OpenID Connect provider that lies, breaks off or changes its mind, which a real one cannot be made to do.
type fakeProvider struct {
	*httptest.Server
	ca string // file

	mu        sync.Mutex // guards what follows
	discovery http.HandlerFunc
	token     http.HandlerFunc
	asked     []asked // of the token endpoint
	open      map[net.Conn]bool
}

// asked is a request for a token.
type asked struct {
	form             url.Values
	user, password   string // of the header
	hasAuthorization bool
}

func newProvider(t *testing.T) *fakeProvider {
	t.Helper()
	p := &fakeProvider{open: map[net.Conn]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) { p.handler(&p.discovery)(w, r) })
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		a := asked{form: r.PostForm}
		a.user, a.password, a.hasAuthorization = r.BasicAuth()
		p.mu.Lock()
		p.asked = append(p.asked, a)
		p.mu.Unlock()
		p.handler(&p.token)(w, r)
	})
	p.Server = httptest.NewUnstartedServer(mux)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open[conn] = state != http.StateClosed && state != http.StateHijacked
	}
	p.StartTLS()
	t.Cleanup(p.Close)
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	write(t, p.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
	p.discovery = p.describe(nil)
	p.token = answer(http.StatusOK, map[string]any{"access_token": accessToken, "token_type": "Bearer", "id_token": jwt(lasting(time.Hour))})
	return p
}

func (p *fakeProvider) handler(at *http.HandlerFunc) http.HandlerFunc {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *at
}

// set changes what the token endpoint answers.
func (p *fakeProvider) set(token http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
}

// requests returns what the token endpoint was asked, and forgets it.
func (p *fakeProvider) requests() []asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.asked
	p.asked = nil
	return all
}

// describe answers with the provider's own description, changed.
func (p *fakeProvider) describe(change func(map[string]any)) http.HandlerFunc {
	description := map[string]any{"issuer": p.URL, "token_endpoint": p.URL + "/token"}
	if change != nil {
		change(description)
	}
	return answer(http.StatusOK, description)
}

func answer(code int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func page(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "<html>\r\n"+clientSecret+"</html>")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are the secrets of a machine, and what was logged.
type files struct {
	refresh, secret string
	log             bytes.Buffer
	refused         error // of Save; nil for none
	saved           []string
}

// credential returns one that refreshes.
func (p *fakeProvider) credential(t *testing.T, change func(*Config)) (*Credential, *files) {
	t.Helper()
	dir := t.TempDir()
	f := &files{refresh: filepath.Join(dir, "refresh"), secret: filepath.Join(dir, "secret")}
	write(t, f.refresh, firstRefresh+"\n")
	write(t, f.secret, clientSecret+"\n")
	config := Config{
		Issuer: p.URL, ClientID: "machine", ClientSecretFile: f.secret, RefreshTokenFile: f.refresh, CertificateAuthority: p.ca, Scopes: []string{"openid"},
		Save: func(path string, token []byte) error {
			f.saved = append(f.saved, string(token))
			if f.refused != nil {
				return f.refused
			}
			return os.WriteFile(path, token, 0o600)
		},
	}
	if change != nil {
		change(&config)
	}
	c := New(config)
	c.LogTo(slog.New(slog.NewTextHandler(&f.log, nil)))
	return c, f
}

// byClient makes the grant the client's own.
func byClient(c *Config) { c.RefreshTokenFile = "" }

func wantSilence(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, "canary") {
		t.Errorf("a secret is in %q", text)
	}
}

// wantFault expects a fault without a secret.
func wantFault(t *testing.T, err error, class fault.Class, want string) {
	t.Helper()
	expect.Fault(t, err, class, want)
	wantSilence(t, fmt.Sprintf("%v %+v %#v %s", err, err, err, fault.Remedy(err)))
}

func TestProof(t *testing.T) {
	p := newProvider(t)
	idToken := jwt(lasting(time.Hour))
	for _, test := range []struct {
		name   string
		change func(*Config)
		answer map[string]any
		want   string // what is shown
		ask    url.Values
	}{
		{
			"a refresh token", nil,
			map[string]any{"access_token": accessToken, "id_token": idToken},
			idToken,
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {firstRefresh}},
		},
		{
			"the client's own", byClient,
			map[string]any{"access_token": accessToken},
			accessToken,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}},
		},
		{
			"the client's own, with an id_token", byClient,
			map[string]any{"access_token": accessToken, "id_token": idToken},
			idToken,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}},
		},
		{
			"for an audience", func(c *Config) { byClient(c); c.Audience, c.Scopes = "kubernetes", []string{"a", "b"} },
			map[string]any{"access_token": accessToken},
			accessToken,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"a b"}, "audience": {"kubernetes"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.set(answer(http.StatusOK, test.answer))
			c, f := p.credential(t, test.change)
			proof, err := c.Proof(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if proof.Token.Reveal() != test.want {
				t.Errorf("%s is shown, want %s", proof.Token.Reveal(), test.want)
			}
			got := p.requests()
			if len(got) != 1 {
				t.Fatalf("%d requests for a token, want one", len(got))
			}
			if got[0].form.Encode() != test.ask.Encode() || got[0].user != "machine" || got[0].password != clientSecret {
				t.Errorf("asked with %v as %s", got[0].form, got[0].user)
			}
			if len(f.saved) != 0 {
				t.Errorf("saved: %q", f.saved)
			}
			wantSilence(t, fmt.Sprintf("%s %s %v %+v %s", c, c.Remedy(), *proof, proof, f.log.String()))
		})
	}
	// Nothing is kept open until the next token is needed.
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		p.mu.Lock()
		isOpen := slices.Contains(slices.Collect(maps.Values(p.open)), true)
		p.mu.Unlock()
		if !isOpen {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("connections stay open")
		}
	}
}

// TestStyle sends the client's secret once, where the provider wants it.
func TestStyle(t *testing.T) {
	p := newProvider(t)
	for _, test := range []struct {
		name     string
		methods  any // of the provider's description
		public   bool
		inHeader bool
	}{
		{"not said", nil, false, true},
		{"the header", []string{"client_secret_basic"}, false, true},
		{"the body", []string{"client_secret_post"}, false, false},
		{"both", []string{"client_secret_post", "client_secret_basic"}, false, true},
		{"neither", []string{"private_key_jwt"}, false, true},
		{"a public client", []string{"client_secret_basic", "none"}, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.mu.Lock()
			p.discovery = p.describe(func(d map[string]any) {
				if test.methods != nil {
					d["token_endpoint_auth_methods_supported"] = test.methods
				}
			})
			p.mu.Unlock()
			c, _ := p.credential(t, func(c *Config) {
				if test.public {
					c.ClientSecretFile = ""
				}
			})
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			all := p.requests()
			if len(all) != 1 {
				t.Fatalf("%d requests for a token, want one", len(all))
			}
			got := all[0]
			inBody := got.form.Get("client_id") == "machine"
			if got.hasAuthorization != test.inHeader || inBody == test.inHeader {
				t.Errorf("in the header: %t, in the body: %t", got.hasAuthorization, inBody)
			}
			want := clientSecret
			if test.public {
				want = ""
			}
			if got.password+got.form.Get("client_secret") != want {
				t.Errorf("the secret is %q in the header, %q in the body", got.password, got.form.Get("client_secret"))
			}
		})
	}
}

func TestDiscovery(t *testing.T) {
	p := newProvider(t)
	elsewhere := newProvider(t)
	for _, test := range []struct {
		name      string
		discovery http.HandlerFunc
		class     fault.Class
		want      string
	}{
		{"another issuer", p.describe(func(d map[string]any) { d["issuer"] = "https://rogue.example.com" }), fault.Usage, `calls itself "https://rogue.example.com"`},
		{"a slash more", p.describe(func(d map[string]any) { d["issuer"] = p.URL + "/" }), fault.Usage, `calls itself "` + p.URL + `/"`},
		{"no issuer", p.describe(func(d map[string]any) { delete(d, "issuer") }), fault.Usage, `calls itself ""`},
		{"a token endpoint over http", p.describe(func(d map[string]any) { d["token_endpoint"] = "http://127.0.0.1:1/token" }), fault.Usage, `has the token endpoint "http://127.0.0.1:1/token"`},
		{"no token endpoint", p.describe(func(d map[string]any) { delete(d, "token_endpoint") }), fault.Usage, `has the token endpoint ""`},
		{"a token endpoint that is no URL", p.describe(func(d map[string]any) { d["token_endpoint"] = "https://%zz" }), fault.Usage, `has the token endpoint "https://%zz"`},
		{"404", page(http.StatusNotFound), fault.Usage, "it answered 404 Not Found"},
		{"403", page(http.StatusForbidden), fault.Usage, "it answered 403 Forbidden"},
		{"429", page(http.StatusTooManyRequests), 0, "it answered 429 Too Many Requests"},
		{"500", page(http.StatusInternalServerError), 0, "it answered 500 Internal Server Error"},
		{"a page", page(http.StatusOK), fault.Usage, "its answer is no JSON"},
		{"a list", answer(http.StatusOK, []string{"a"}), fault.Usage, "its answer is no JSON"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
		}, 0, "cannot get a token from " + p.URL},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/.well-known/openid-configuration", http.StatusFound)
		}, fault.Usage, "it answered 302 Found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.mu.Lock()
			p.discovery = test.discovery
			p.mu.Unlock()
			c, _ := p.credential(t, nil)
			proof, err := c.Proof(t.Context())
			wantFault(t, err, test.class, test.want)
			if proof != nil || len(p.requests()) != 0 {
				t.Error("a token was asked for")
			}
		})
	}
	if len(elsewhere.open) != 0 {
		t.Error("the redirect was followed")
	}
}

func TestTokenEndpoint(t *testing.T) {
	p := newProvider(t)
	elsewhere := newProvider(t)
	refusal := func(code int, name, description string) http.HandlerFunc {
		return answer(code, map[string]string{"error": name, "error_description": description})
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		answer http.HandlerFunc
		class  fault.Class
		want   string
		remedy string
	}{
		{"a refresh token that is not good", nil, refusal(400, "invalid_grant", "Token is not active"), fault.Refused, `refuses to issue a token: "invalid_grant" ("Token is not active")`, "have a new refresh token issued"},
		{"a client that it does not know", nil, refusal(401, "invalid_client", ""), fault.Refused, `refuses to issue a token: "invalid_client"`, "look whether the provider knows the client machine"},
		{"a grant that the client may not use", byClient, refusal(400, "unauthorized_client", ""), fault.Refused, `"unauthorized_client"`, "look whether the provider knows the client machine"},
		{"a scope", nil, refusal(400, "invalid_scope", "openid"), fault.Refused, `"invalid_scope" ("openid")`, "change oidc in the configuration"},
		{"with 200", nil, refusal(200, "invalid_grant", ""), fault.Refused, `"invalid_grant"`, "have a new refresh token issued"},
		{"words with a secret in them", nil, refusal(400, "invalid_grant", "the token "+firstRefresh+" of "+clientSecret+" was used"), fault.Refused, `the token [redacted] of [redacted] was used`, ""},
		{"a name with a secret in it", nil, refusal(400, "bad "+firstRefresh, ""), fault.Refused, `"bad [redacted]"`, ""},
		{"words on lines", nil, refusal(400, "invalid_grant", "a\r\nb\x1b[2J"), fault.Refused, `"invalid_grant" ("a\r\nb\x1b[2J")`, ""},
		{"a page with 400", nil, page(400), fault.Refused, "it answered 400 Bad Request", "look whether the provider knows the client machine"},
		{"a page with 429", nil, page(429), 0, "it answered 429 Too Many Requests", ""},
		{"a page with 503", nil, page(503), 0, "it answered 503 Service Unavailable", ""},
		{"too many, in JSON", nil, refusal(429, "too_many_requests", ""), 0, "it answered 429 Too Many Requests", ""},
		{"an error of its own, in JSON", nil, refusal(500, "server_error", clientSecret), 0, "it answered 500 Internal Server Error", ""},
		{"a page with 200", nil, page(200), 0, "cannot get a token from ", ""},
		{"no token", nil, answer(200, map[string]string{}), 0, "cannot get a token from ", ""},
		{"no id_token", nil, answer(200, map[string]string{"access_token": accessToken}), fault.Refused, "answered without an id_token", "let the client have the scope openid"},
		{"a redirect", nil, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/token", http.StatusTemporaryRedirect)
		}, 0, "it answered 307 Temporary Redirect", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.set(test.answer)
			c, f := p.credential(t, test.change)
			proof, err := c.Proof(t.Context())
			wantFault(t, err, test.class, test.want)
			if !strings.Contains(fault.Remedy(err), test.remedy) {
				t.Errorf("the remedy is %q, want one that says %q", fault.Remedy(err), test.remedy)
			}
			if n := len(p.requests()); n != 1 || proof != nil {
				t.Errorf("%d requests, the proof %v", n, proof)
			}
			wantSilence(t, f.log.String())
		})
	}
	if len(elsewhere.open) != 0 {
		t.Error("the redirect was followed")
	}
}

func TestUntrusted(t *testing.T) {
	p := newProvider(t)
	c, _ := p.credential(t, func(c *Config) { c.CertificateAuthority = "" }) // this machine's, which does not know it
	_, err := c.Proof(t.Context())
	wantFault(t, err, fault.Usage, "is not to be trusted")
	if got := fault.Remedy(err); got != "give the CA that issued its certificate under oidc.certificateAuthority" {
		t.Errorf("the remedy is %q", got)
	}
	if len(p.requests()) != 0 {
		t.Error("it was asked for a token")
	}
	c, _ = p.credential(t, func(c *Config) { c.CertificateAuthority = filepath.Join(t.TempDir(), "absent") })
	_, err = c.Proof(t.Context())
	wantFault(t, err, fault.Usage, "cannot read the CA file")
	p.Close()
	c, _ = p.credential(t, nil)
	_, err = c.Proof(t.Context())
	wantFault(t, err, 0, "cannot get a token from "+p.URL)
}

// TestHangingProvider gives up a provider that says nothing when the caller does.
func TestHangingProvider(t *testing.T) {
	p := newProvider(t)
	enough := errors.New("the operator had enough")
	for _, endpoint := range []*http.HandlerFunc{&p.token, &p.discovery} {
		ctx, cancel := context.WithCancelCause(t.Context())
		p.mu.Lock()
		*endpoint = func(_ http.ResponseWriter, r *http.Request) {
			cancel(enough)
			<-r.Context().Done()
		}
		p.mu.Unlock()
		c, _ := p.credential(t, nil)
		if _, err := c.Proof(ctx); !errors.Is(err, enough) {
			t.Errorf("%v", err)
		} else {
			wantFault(t, err, 0, "cannot get a token from "+p.URL)
		}
		cancel(nil)
	}
}

func TestSecretsInFiles(t *testing.T) {
	p := newProvider(t)
	for _, test := range []struct{ name, content, want string }{
		{"empty", "", "is not one line with the refresh token on it"},
		{"a newline alone", "\n", "is not one line with the refresh token on it"},
		{"two lines", firstRefresh + "\n" + secondRefresh + "\n", "is not one line with the refresh token on it"},
		{"too large", strings.Repeat("x", maxSecret+1), "is larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, f := p.credential(t, nil)
			write(t, f.refresh, test.content)
			_, err := c.Proof(t.Context())
			wantFault(t, err, fault.Usage, test.want)
		})
	}
	for _, which := range []func(*files) string{func(f *files) string { return f.refresh }, func(f *files) string { return f.secret }} {
		c, f := p.credential(t, nil)
		path := which(f)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := c.Proof(t.Context())
		wantFault(t, err, fault.Usage, path+" holds a secret and is open to every user")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err = c.Proof(t.Context())
		wantFault(t, err, fault.Usage, path)
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
	if len(p.requests()) != 0 {
		t.Error("the provider was asked")
	}
}
