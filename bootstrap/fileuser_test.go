package bootstrap

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// TestDiscoveryFileCertificate is of the users with a client certificate, as kubectl and nodejoin bundle write them.
func TestDiscoveryFileCertificate(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.issueClient(t, "system:node:a")
	otherCert, otherKey := ca.issueClient(t, "system:node:b")
	dir := t.TempDir()
	writeFile(t, dir, "tls.crt", string(cert), 0o644)
	writeFile(t, dir, "tls.key", string(key), 0o600)
	writeFile(t, dir, "open.key", string(key), 0o644)
	writeFile(t, dir, "other.key", string(otherKey), 0o600)
	data := func(name string, pem []byte) string { return name + "-data: " + base64.StdEncoding.EncodeToString(pem) }
	good := kubeconfigOf(testServer, bundleOf(ca))
	for _, test := range []struct {
		name  string
		lines []string
		mode  os.FileMode
		node  string
		want  string // of the mistake; "" for none
	}{
		{"data", []string{data("client-certificate", cert), data("client-key", key)}, 0o600, "a", ""},
		{"files", []string{"client-certificate: tls.crt", "client-key: tls.key"}, 0o644, "a", ""},
		{"files by their whole paths", []string{"client-certificate: " + dir + "/tls.crt", "client-key: " + dir + "/tls.key"}, 0o600, "a", ""},
		{"the certificate's data and the key's file", []string{data("client-certificate", cert), "client-key: tls.key"}, 0o644, "a", ""},
		{"data over files", []string{data("client-certificate", otherCert), data("client-key", otherKey), "client-certificate: tls.crt", "client-key: tls.key"}, 0o600, "b", ""},
		{"the key's data, readable by all", []string{"client-certificate: tls.crt", data("client-key", key)}, 0o644, "", "holds a secret and is open to every user of this machine (mode 0644)"},
		{"the key's file, readable by all", []string{"client-certificate: tls.crt", "client-key: open.key"}, 0o600, "", "its client-key: the file " + dir + "/open.key holds a secret and is open to every user"},
		{"another's key", []string{"client-certificate: tls.crt", "client-key: other.key"}, 0o600, "", "its client certificate: the private key is not the certificate's"},
		{"an encrypted key", []string{data("client-certificate", cert), data("client-key", pemOf("ENCRYPTED PRIVATE KEY", []byte(testTokenSecret)))}, 0o600, "", "its client certificate: the private key is encrypted"},
		{"no key", []string{"client-certificate: tls.crt"}, 0o600, "", "its client certificate: there is no private key in PEM"},
		{"no certificate", []string{"client-key: tls.key"}, 0o600, "", "its client certificate: there is no certificate in PEM"},
		{"a token too", []string{data("client-certificate", cert), data("client-key", key), "token: " + testTokenText}, 0o600, "", "it has both a token and a client certificate: leave one of them out"},
		{"a token's file too", []string{"client-certificate: tls.crt", "client-key: tls.key", "tokenFile: token"}, 0o600, "", "it has both a token and a client certificate: leave one of them out"},
		{"a token, readable by all", []string{"token: " + testTokenText}, 0o644, "", "holds a secret and is open to every user of this machine (mode 0644)"},
		{"a plugin too", []string{"client-certificate: tls.crt", "client-key: tls.key", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/x, interactiveMode: Never}"}, 0o600, "", "it has an exec plugin, and only those are run that the configuration file names"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, dir, "bundle.conf", users(test.lines...)(good), test.mode)
			file, err := ReadDiscoveryFile(path, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			credential, err := file.Credential()
			leaf := file.Leaf()
			if test.want != "" {
				wantFault(t, err, fault.Usage, "the user of the discovery file "+path+" cannot be used: ")
				wantFault(t, err, fault.Usage, test.want)
				wantNoKey(t, err.Error()+fault.Remedy(err), key)
				if leaf != nil || credential != nil {
					t.Errorf("the leaf %v and the credential %v came with the error", leaf, credential)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			proof, err := credential.Proof(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if leaf == nil || NodeOf(leaf) != test.node || !proof.Certificate.Leaf.Equal(leaf) || !proof.Token.IsZero() {
				t.Errorf("the leaf is %v, the proof %+v", leaf, proof)
			}
			if got, want := credential.String(), "the client certificate in "+path; got != want {
				t.Errorf("String() = %q, want %q", got, want)
			}
			if !strings.Contains(credential.Remedy(), "nodejoin bundle NODE") {
				t.Errorf("the remedy is %q", credential.Remedy())
			}
			wantNoKey(t, fmt.Sprintf("%v %+v %#v", file, file, file), key)
		})
	}
}

// The remedy of an exec plugin is another than that of any other user.
func TestDiscoveryFileExecRemedy(t *testing.T) {
	path := writeFile(t, t.TempDir(), "c", users("exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/x, interactiveMode: Never}")(kubeconfigOf(testServer, bundleOf(machineCA))), 0o600)
	file, err := ReadDiscoveryFile(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Credential()
	if want := "name the program in nodejoin's configuration file, as credentials: [{exec: {command: [/PATH]}}]"; fault.Remedy(err) != want {
		t.Errorf("the remedy is %q, want %q", fault.Remedy(err), want)
	}
}

// TestDiscoveryFileIsReadAnew takes up what replaces the user, and says so where nothing does.
func TestDiscoveryFileIsReadAnew(t *testing.T) {
	dir := t.TempDir()
	good := kubeconfigOf(testServer, bundleOf(machineCA))
	path := writeFile(t, dir, "c", users("token: first")(good), 0o600)
	file, err := ReadDiscoveryFile(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	credential, err := file.Credential()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "c", users("token: "+testTokenText)(good), 0o600)
	if proof, err := credential.Proof(t.Context()); err != nil || proof.Token != NewSecret(testTokenText) {
		t.Errorf("%+v, %v", proof, err)
	}
	writeFile(t, dir, "c", good, 0o600)
	_, err = credential.Proof(t.Context())
	wantFault(t, err, fault.Usage, "the discovery file "+path+" has no user any more")
	writeFile(t, dir, "c", "", 0o600)
	_, err = credential.Proof(t.Context())
	wantFault(t, err, fault.Usage, "the discovery file "+path+" cannot be used")
}

// TestVia connects to an authenticating proxy: the credential goes there and nowhere else, under the proxy's own CA, and
// what is returned is the cluster, which goes on naming its own servers.
func TestVia(t *testing.T) {
	clusterCA, proxyCA := newAuthority(t, "cluster"), newAuthority(t, "proxy")
	cert, key := proxyCA.issueClient(t, "u")
	credential := &CertificateFile{CertificatePath: writeFile(t, t.TempDir(), "pair", string(cert)+string(key), 0o600)}
	for _, test := range []struct {
		name   string
		server *authority // that issued the proxy's certificate
		ca     *authority // that was given for it; nil for none
		want   string     // "" for success
	}{
		{"a CA of its own", proxyCA, proxyCA, ""},
		{"the cluster's CA", clusterCA, nil, ""},
		{"the CA of another", proxyCA, nil, "cannot connect to "},
		{"the cluster's, where it has its own", clusterCA, proxyCA, "(trusted is the CA of /ca.pem)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster := serve(t, serverOptions{certificate: clusterCA.issue(t)}, named("cluster"))
			proxy := serve(t, serverOptions{certificate: test.server.issue(t), clientAuth: tls.RequireAnyClientCert}, named("proxy"))
			via := &Via{Cluster{Endpoints: []Endpoint{proxy.Endpoint}, Source: "/ca.pem"}}
			if test.ca != nil {
				via.Server.CA = bundleOf(test.ca)
			}
			d := &Known{Cluster{Endpoints: []Endpoint{cluster.Endpoint}, CA: bundleOf(clusterCA)}}
			got, conn, err := via.Connect(t.Context(), d, credential, nil)
			if conn != nil {
				defer conn.Close()
			}
			if len(cluster.accepted()) != 0 {
				t.Error("the cluster's own server was called")
			}
			if test.want != "" {
				wantFault(t, err, fault.Untrusted, test.want)
				if len(proxy.received()) != 0 {
					t.Errorf("the proxy got %+v", proxy.received())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if answer := mustGet(t, conn, "/"); answer != "proxy" || conn.Endpoint() != proxy.Endpoint {
				t.Errorf("the connection leads to %s: %q", conn.Endpoint(), answer)
			}
			if !got.Named || got.Endpoints[0] != cluster.Endpoint || string(got.CA.PEM()) != string(clusterCA.pem()) {
				t.Errorf("the cluster is %+v", got)
			}
			if d.Cluster.Named || test.ca == nil && !via.Server.CA.IsZero() {
				t.Error("what was given is changed")
			}
		})
	}
}

// TestViaFindsNoCluster has the discovery fail: the proxy, which nothing would be done with, is not called.
func TestViaFindsNoCluster(t *testing.T) {
	ca := newAuthority(t, "ca")
	proxy := serve(t, serverOptions{certificate: ca.issue(t)}, named("proxy"))
	broken := serve(t, serverOptions{certificate: ca.issue(t)}, respond(http.StatusInternalServerError, nil))
	via := &Via{Cluster{Endpoints: []Endpoint{proxy.Endpoint}, CA: bundleOf(ca)}}
	_, conn, err := via.Connect(t.Context(), byToken(broken, ca.pin()), nil, nil)
	if conn != nil || err == nil {
		t.Errorf("%v, %v", conn, err)
	}
	if len(proxy.accepted()) != 0 {
		t.Error("the proxy was called")
	}
}
