package bootstrap

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

func TestParseDiscoveryURL(t *testing.T) {
	if f, err := ParseDiscoveryURL("https://join.example.com/discovery.conf?cluster=a", Cluster{}); err != nil || f.String() != "https://join.example.com/discovery.conf" {
		t.Errorf("got %v, %v", f, err)
	}
	for _, test := range []struct{ name, text, want string }{
		{"http", "http://join.example.com/discovery.conf", "would come over http, where anyone on the way can change it"},
		{"a file", "file:///etc/kubernetes/discovery.conf", "is not one"},
		{"ftp", "ftp://join.example.com/discovery.conf", "would come over ftp"},
		{"user information", "https://u:" + testTokenSecret + "@join.example.com/", "user information"},
		{"user information over http", "http://u:" + testTokenSecret + "@join.example.com/", "would come over http"},
		{"user information, malformed", "https://u:" + testTokenSecret + "%zz@join.example.com/", "is not one"},
		{"no host", "https:///discovery.conf", "is not one"},
		{"not a URL", "https://[", "is not one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseDiscoveryURL(test.text, Cluster{})
			wantFault(t, err, fault.Usage, test.want)
		})
	}
}

func TestIsURL(t *testing.T) {
	for text, want := range map[string]bool{"https://a/b": true, "http://a": true, "/etc/discovery.conf": false, "discovery.conf": false, "": false} {
		if got := IsURL(text); got != want {
			t.Errorf("IsURL(%q) = %t", text, got)
		}
	}
}

func TestFromURL(t *testing.T) {
	ca := newAuthority(t, "ca")
	text := []byte(kubeconfigOf(testServer, bundleOf(ca)))
	page := func(body string) http.Handler { return respond(http.StatusOK, []byte(body)) }
	target := httptest.NewUnstartedServer(page(string(text)))
	target.StartTLS()
	defer target.Close()
	for _, test := range []struct {
		name    string
		issuer  *authority
		handler http.Handler
		class   fault.Class
		want    string // "" for success
	}{
		{"good", machineCA, page(string(text)), 0, ""},
		{"a server that this machine does not trust", ca, page(string(text)), fault.Untrusted, "the server of the discovery file is not to be trusted"},
		{"a redirect", machineCA, http.RedirectHandler(target.URL, http.StatusFound), fault.Untrusted, "302 Found"},
		{"a redirect to http", machineCA, http.RedirectHandler("http://127.0.0.1:1/", http.StatusMovedPermanently), fault.Untrusted, "301 Moved"},
		{"too large", machineCA, respond(http.StatusOK, bytes.Repeat([]byte("#"), maxKubeconfig+1)), 0, "larger than 1048576 bytes"},
		{"without an end", machineCA, http.HandlerFunc(flood), 0, "larger than 1048576 bytes"},
		{"broken off", machineCA, http.HandlerFunc(breakOff), 0, "broke off"},
		{"503", machineCA, respond(http.StatusServiceUnavailable, text), 0, "503 Service Unavailable"},
		{"429", machineCA, respond(http.StatusTooManyRequests, text), 0, "429 Too Many Requests"},
		{"404", machineCA, respond(http.StatusNotFound, text), fault.Untrusted, "404 Not Found"},
		{"401", machineCA, respond(http.StatusUnauthorized, text), fault.Untrusted, "401 Unauthorized"},
		{"206", machineCA, respond(http.StatusPartialContent, text), fault.Untrusted, "206 Partial Content"},
		{"users", machineCA, page(users("token: " + testTokenText)(string(text))), fault.Untrusted, "must not bring credentials"},
		{"a path", machineCA, page(replace("certificate-authority-data", "    certificate-authority: /etc/passwd")(string(text))), fault.Untrusted, "must not make this machine read its files"},
		{"insecure", machineCA, page(insert("server:", "    insecure-skip-tls-verify: true")(string(text))), fault.Untrusted, "insecure-skip-tls-verify"},
		{"not a kubeconfig", machineCA, page("<html>"), fault.Untrusted, "is not a kubeconfig"},
		{"empty", machineCA, page(""), fault.Untrusted, "it has 0 clusters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, serverOptions{certificate: test.issuer.issue(t)}, test.handler)
			f, err := ParseDiscoveryURL(s.Endpoint.URL()+"/discovery.conf", Cluster{})
			if err != nil {
				t.Fatal(err)
			}
			if f.Candidate() != nil {
				t.Error("it has candidates, though nothing tells where the cluster is")
			}
			cluster, err := f.Discover(t.Context())
			s.drain(t)
			if test.issuer != machineCA && len(s.received()) != 0 {
				t.Errorf("a server that is not trusted got %+v", s.received())
			} else if test.issuer == machineCA && len(s.received()) != 1 {
				t.Errorf("the requests are %+v, want one", s.received())
			}
			if test.want != "" {
				wantFault(t, err, test.class, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if cluster.Endpoints[0].URL() != testServer || !bytes.Equal(cluster.CA.PEM(), ca.pem()) || !cluster.Named {
				t.Errorf("the cluster is %v", cluster)
			}
		})
	}
}

func TestFromURLProxy(t *testing.T) {
	// As in TestProxy: an address that the environment's proxy would be for.
	s := serve(t, serverOptions{certificate: machineCA.issue(t)}, respond(http.StatusOK, []byte(kubeconfigOf(testServer, bundleOf(machineCA)))))
	address := strings.Replace(s.Endpoint.URL(), "127.0.0.1", "0.0.0.0", 1)
	discover := func(site Cluster) error {
		d, err := ParseDiscoveryURL(address, site)
		if err != nil {
			return err
		}
		_, err = d.Discover(t.Context())
		return err
	}
	if err := discover(Cluster{}); err != nil {
		t.Errorf("without a proxy: %v", err)
	}
	proxy, tunnels := connectProxy(t)
	if err := discover(Cluster{ProxyURL: proxy}); err != nil || tunnels.Load() != 1 {
		t.Errorf("%d tunnels through the given proxy: %v", tunnels.Load(), err)
	}
}

func TestByTokenDoesNotFollowRedirects(t *testing.T) {
	ca := newAuthority(t, "ca")
	honest := serveCluster(t, serverOptions{certificate: ca.issue(t)}, bundleOf(ca))
	s := serve(t, serverOptions{certificate: ca.issue(t)}, http.RedirectHandler(honest.Endpoint.URL()+clusterInfoPath, http.StatusTemporaryRedirect))
	_, err := byToken(s, ca.pin()).Discover(t.Context())
	wantFault(t, err, 0, "307 Temporary Redirect")
	if got := len(honest.accepted()); got != 0 {
		t.Error("the redirect was followed")
	}
}

func TestDiscoveryFileSecrecy(t *testing.T) {
	bare := kubeconfigOf(testServer, bundleOf(newAuthority(t, "kubernetes")))
	for _, test := range []struct {
		name      string
		text      string
		mode      os.FileMode
		tokenMode os.FileMode
		open      string // the file that must not be open; "" for success
	}{
		{"a token, for its owner alone", users("token: " + testTokenText)(bare), 0o600, 0o600, ""},
		{"a token, for everybody", users("token: " + testTokenText)(bare), 0o644, 0o600, "discovery.conf"},
		{"no token, for everybody", bare, 0o644, 0o600, ""},
		{"a token file, for its owner alone", users("tokenFile: token")(bare), 0o644, 0o600, ""},
		{"a token file, for everybody", users("tokenFile: token")(bare), 0o600, 0o644, "token"},
		{"a token for everybody beside a token file", users("tokenFile: token", "token: "+testTokenText)(bare), 0o644, 0o600, "discovery.conf"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "token", testTokenText, test.tokenMode)
			file, err := ReadDiscoveryFile(writeFile(t, dir, "discovery.conf", test.text, test.mode), time.Now())
			if err != nil {
				t.Fatalf("the user was looked at: %v", err)
			}
			_, err = file.Credential()
			if test.open == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, err, fault.Usage, "the file "+filepath.Join(dir, test.open)+" holds a secret and is open to every user")
			if !strings.HasPrefix(fault.Remedy(err), "chmod 0600 ") {
				t.Errorf("the remedy is %q", fault.Remedy(err))
			}
		})
	}
}
