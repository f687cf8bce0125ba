package agent

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
)

// TestNodeByCredential has a credential name the node; one that should and does not is an error: under its host name the
// machine would become another node.
func TestNodeByCredential(t *testing.T) {
	const file = "/etc/nodejoin/credential"
	cluster := newCluster(t)
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	nodeKey := newKey(t)
	leaf := cluster.signer.sign(t, nodeTemplate("by-certificate", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)), nodeKey.Public())
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host := strings.ToLower(name)
	byClaim := config.Credential{BearerToken: &config.BearerToken{File: file, NodeNameClaim: "node"}}
	byCertificate := config.Credential{ClientCertificate: &config.ClientCertificate{CertificateFile: file, PrivateKeyFile: file}}
	for _, test := range []struct {
		name, nodeName, content string
		credential              config.Credential
		want                    string // "": an error
	}{
		{"a claim", "", jwt(`{"node":"by-claim"}`), byClaim, "by-claim"},
		{"a claim with the user's name", "", jwt(`{"node":"system:node:by-claim"}`), byClaim, "by-claim"},
		{"a claim that is no name", "", jwt(`{"node":"a/b"}`), byClaim, ""},
		{"no such claim", "", jwt(`{"sub":"a"}`), byClaim, ""},
		{"no JWT", "", "opaque", byClaim, ""},
		{"no file", "", "", byClaim, ""},
		{"--node-name over a claim", "by-flag", jwt(`{"node":"by-claim"}`), byClaim, "by-flag"},
		{"a certificate", "", string(certPEM(leaf)) + string(keyPEM(t, nodeKey)), byCertificate, "by-certificate"},
		{"a damaged certificate", "", "damaged", byCertificate, host}, // which is nobody's explicit wish
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, cluster)
			h.change = func(o *Options) { o.NodeName, o.Credentials = test.nodeName, []config.Credential{test.credential} }
			if test.content != "" {
				h.write(file, test.content, 0o600)
			}
			a := h.agent()
			_, err := a.nameByCredential(t.Context())
			if test.want == "" {
				wantFault(t, err, fault.Usage, file)
				return
			}
			if err != nil || a.node() != test.want {
				t.Errorf("the node %q, %v, want %q", a.node(), err, test.want)
			}
		})
	}
}

// TestBundleWithoutCertificate refuses a kubeconfig that is no bundle, and says what it is for.
func TestBundleWithoutCertificate(t *testing.T) {
	cluster := newCluster(t)
	path := filepath.Join(t.TempDir(), "bundle")
	h := newHost(t, cluster)
	h.root = filepath.Dir(path)
	h.write("bundle", "clusters: [{name: c, cluster: {server: https://api.example.com, certificate-authority-data: "+
		base64.StdEncoding.EncodeToString(cluster.signer.pem())+"}}]\nusers: [{name: u, user: {token: a}}]\n", 0o600)
	checked, err := options(t, func(o *Options) { o.Bundle = path }).Config()
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, checked.accesses()[0].missing(), fault.Usage, path+" is no bundle: there is no client certificate for one node in it")
}
