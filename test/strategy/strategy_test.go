package strategy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/oauth2"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// The bed of the tests in this package; the node that its static tokens are for.
const node = "node-1"

func startBed(t *testing.T) *Bed {
	t.Helper()
	expect.Able(t, "nginx", HaveNginx())
	b, err := Start(t.Context(), Options{Dir: t.TempDir(), Nodes: []string{node}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestStrategies shows who the API server takes the bearer of each credential for, what it may do, and that it is told
// from one that has expired.
func TestStrategies(t *testing.T) {
	b := startBed(t)
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			unbound := Request{Node: node, Root: t.TempDir()}
			wantUser(t, b, s, unbound, "nodeclient", true)
			bound := unbound
			bound.Bound = true
			if s.Unbindable == "" {
				wantUser(t, b, s, bound, "selfnodeclient", true)
				wantUser(t, b, s, bound, "nodeclient", false)
			} else if _, err := b.Credential(t.Context(), s, bound); err == nil {
				t.Error("it was bound to a name")
			}
			expired := unbound
			expired.Expired = true
			c, err := b.Credential(t.Context(), s, expired)
			if err != nil {
				t.Fatal(err)
			}
			if user, err := whoami(t.Context(), b, s, c, expired.Root); !errors.Is(err, errUnauthorized) {
				t.Errorf("an expired credential: %q, %v", user, err)
			}
			if len(b.Arguments(s)) == 0 {
				t.Error("it is about no argument of the API server's")
			}
		})
	}
	t.Run("what a client says it is", func(t *testing.T) { claimToBe(t, b) })
}

// wantUser makes a credential and asks who its bearer is, and whether he may have such requests approved.
func wantUser(t *testing.T, b *Bed, s Strategy, r Request, subresource string, allowed bool) {
	t.Helper()
	c, err := b.Credential(t.Context(), s, r)
	if err != nil {
		t.Fatal(err)
	}
	info, err := whoami(t.Context(), b, s, c, r.Root)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	if info.Username != c.User || r.Bound && info.Username != "system:node:"+node {
		t.Errorf("%+v: the API server takes it for %s instead of %s", r, info.Username, c.User)
	}
	review, err := b.ControlPlane(s).Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{User: info.Username, Groups: info.Groups, ResourceAttributes: &authorization.ResourceAttributes{
			Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: subresource,
		}},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if review.Status.Allowed != allowed {
		t.Errorf("%+v: may it have requests approved as %s: %v (%v)", r, subresource, review.Status.Allowed, info)
	}
	for _, secret := range c.Secrets {
		if len(secret) < 16 {
			t.Errorf("this is no secret: %q", secret)
		}
	}
}

var errUnauthorized = errors.New("not recognised")

// whoami shows a credential as a plain client does, and returns what the API server takes its bearer for.
func whoami(ctx context.Context, b *Bed, s Strategy, c *Credential, root string) (*authentication.UserInfo, error) {
	if err := c.Write(root); err != nil {
		return nil, err
	}
	request, transport, err := showing(ctx, b, s, c, root)
	if err != nil {
		return nil, err
	}
	return ask(request, transport)
}

const selfReview = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`

// review returns a question to a server, and what verifies that.
func review(ctx context.Context, server string, ca []byte) (*http.Request, *http.Transport, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+server+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader(selfReview))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return request, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}, nil
}

func showing(ctx context.Context, b *Bed, s Strategy, c *Credential, root string) (*http.Request, *http.Transport, error) {
	cp := b.ControlPlane(s)
	server, ca := cp.Endpoint, cp.ServingCA.PEM
	if s.proxy {
		ca = b.Proxy.CA.PEM
		server = map[string]string{"proxy": b.Proxy.ByCertificate, "proxy-basic": b.Proxy.ByPassword, "proxy-bearer": b.Proxy.ByToken}[s.Name]
	}
	request, transport, err := review(ctx, server, ca)
	if err != nil {
		return nil, nil, err
	}
	secret := strings.TrimSpace(c.Files[secretFile])
	switch s.Name {
	case "client-certificate", "proxy":
		pair, err := tls.X509KeyPair([]byte(c.Files[certificateFile]), []byte(c.Files[keyFile]))
		transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
		return request, transport, err
	case "proxy-basic":
		_, user, _ := strings.Cut(c.YAML, "username: ")
		user, _, _ = strings.Cut(user, "\n")
		request.SetBasicAuth(user, secret)
		return request, transport, nil
	case "exec":
		cmd := exec.CommandContext(ctx, root+pluginFile)
		cmd.Env = []string{"IDENTITY_TOKEN=" + root + secretFile}
		out, err := cmd.Output()
		if err != nil {
			return nil, nil, err
		}
		var printed struct{ Status struct{ Token string } }
		if err := json.Unmarshal(out, &printed); err != nil {
			return nil, nil, err
		}
		secret = printed.Status.Token
	case "oidc-refresh", "oidc-client-credentials":
		if secret, err = fetch(ctx, b, c); err != nil {
			return nil, nil, err
		}
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	return request, transport, nil
}

// fetch gets a token from the provider.
func fetch(ctx context.Context, b *Bed, c *Credential) (string, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.Provider.CA.Pool()}, DisableKeepAlives: true}}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	_, id, _ := strings.Cut(c.YAML, "clientID: ")
	id, _, _ = strings.Cut(id, "\n")
	config := oauth2.Config{
		ClientID: id, ClientSecret: strings.TrimSpace(c.Files["/etc/nodejoin/client-secret"]),
		Endpoint: oauth2.Endpoint{TokenURL: b.Provider.Issuer + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
	refresh, grant := strings.TrimSpace(c.Files[secretFile]), "invalid_grant"
	var token *oauth2.Token
	var err error
	if refresh != "" {
		token, err = config.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
	} else {
		token, err = config.Exchange(ctx, "", oauth2.SetAuthURLParam("grant_type", "client_credentials"))
		grant = "invalid_client"
	}
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.ErrorCode == grant {
		return "", fmt.Errorf("%w: %w", errUnauthorized, err)
	}
	if err != nil {
		return "", err
	}
	if refresh == "" {
		return token.AccessToken, nil
	}
	if token.RefreshToken == "" || token.RefreshToken == refresh {
		return "", errors.New("the provider gave no other refresh token")
	}
	idToken, _ := token.Extra("id_token").(string)
	return idToken, nil
}

func ask(request *http.Request, transport *http.Transport) (*authentication.UserInfo, error) {
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusUnauthorized:
		return nil, errUnauthorized
	case http.StatusCreated:
		var self authentication.SelfSubjectReview
		err := json.NewDecoder(bytes.NewReader(body)).Decode(&self)
		return &self.Status.UserInfo, err
	}
	return nil, fmt.Errorf("%s: %s", response.Status, body)
}

// claimToBe shows that headers in which a client says who it is are believed neither by the proxy nor by the API server.
func claimToBe(t *testing.T, b *Bed) {
	claims := http.Header{
		"X-Remote-User": {"system:node:other"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-Scopes": {"all"},
		"Impersonate-User": {"system:node:other"}, "X-Remote-Uid": {"1"},
	}
	s, err := Find("proxy-basic")
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Credential(t.Context(), s, Request{Node: node, Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	request, transport, err := showing(t.Context(), b, s, c, "")
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(request.Header, claims)
	info, err := ask(request, transport)
	if err != nil {
		t.Fatal(err)
	}
	extra, _ := json.Marshal(info.Extra)
	if got, want := fmt.Sprint(info.Username, info.UID, info.Groups, string(extra)), fmt.Sprint("system:node:"+node, "", []string{Joiners, "system:authenticated"}, `{"proxied":["password"]}`); got != want {
		t.Errorf("by the proxy it is taken for %s instead of %s", got, want)
	}

	// Without the proxy, and with a certificate that the proxy's CA did not sign.
	request, transport, err = review(t.Context(), b.Flags.Endpoint, b.Flags.ServingCA.PEM)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := b.Factory.Issue(testbed.Certificate{CommonName: proxyName, Organization: []string{"nobody"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	for _, name := range []string{"X-Remote-User", "X-Remote-Group", "X-Remote-Extra-Scopes"} {
		request.Header[name] = claims[name]
	}
	if info, err = ask(request, transport); err != nil || info.Username != proxyName {
		t.Errorf("the API server takes it for %v: %v", info, err)
	}
}
