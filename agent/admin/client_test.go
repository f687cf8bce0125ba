//go:build linux

package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/testbed"
)

func connect(t *testing.T, kubeconfig string) *Client {
	t.Helper()
	client, err := Connect(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// user returns the client of a user who has a certificate of the cluster.
func user(t *testing.T, cp *testbed.ControlPlane, name string, groups ...string) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := cp.WriteKubeconfig(path, testbed.Certificate{CommonName: name, Organization: groups}); err != nil {
		t.Fatal(err)
	}
	return connect(t, path)
}

func refused(t *testing.T, err error, class fault.Class, cause, remedy string) {
	t.Helper()
	if fault.ClassOf(err) != class || !strings.Contains(err.Error(), cause) || !strings.Contains(fault.Remedy(err), remedy) {
		t.Errorf("class %d, %v, remedy: %s", fault.ClassOf(err), err, fault.Remedy(err))
	}
	if err != nil && strings.ContainsAny(err.Error()+fault.Remedy(err), "\n<") {
		t.Errorf("it is not on one line: %q", err)
	}
}

func TestRealCluster(t *testing.T) {
	cp := testbed.New(t, testbed.Options{})
	ctx := t.Context()
	c := connect(t, cp.Kubeconfig)
	if c.Server() != cp.URL || c.Kubeconfig() != cp.Kubeconfig {
		t.Errorf("%s of %s", c.Server(), c.Kubeconfig())
	}
	cluster, err := c.Cluster().ForNodes(time.Now())
	if err != nil || cluster.Endpoints[0].String() != cp.Endpoint || string(cluster.CA.PEM()) != string(cp.ServingCA.PEM) {
		t.Errorf("%+v, %v", cluster, err)
	}

	secret := func(value string) *core.Secret {
		return &core.Secret{ObjectMeta: meta.ObjectMeta{Namespace: "default", Name: "one", Labels: map[string]string{"test": value}}, StringData: map[string]string{"key": value}}
	}
	one := secret("1")
	if err := c.Create(ctx, one); err != nil || one.UID == "" || string(one.Data["key"]) != "1" || len(one.StringData) != 0 {
		t.Fatalf("%+v, %v", one, err)
	}
	if err := c.Create(ctx, secret("1")); !errors.Is(err, ErrExists) {
		t.Errorf("a second of the name: %v", err)
	}
	old := one.DeepCopy()
	one.Data["key"] = []byte("2")
	if err := c.Update(ctx, one); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(ctx, old); !errors.Is(err, ErrConflict) {
		t.Errorf("an update of what was: %v", err)
	}
	if err := c.Apply(ctx, secret("3")); err != nil {
		t.Fatal(err)
	}
	found := &core.Secret{ObjectMeta: meta.ObjectMeta{Namespace: "default", Name: "one"}, Data: map[string][]byte{"stale": nil}}
	if err := c.Get(ctx, found); err != nil || len(found.Data) != 1 || string(found.Data["key"]) != "3" || found.Kind != "Secret" {
		t.Errorf("%+v, %v", found, err)
	}
	role := &rbac.ClusterRole{ObjectMeta: meta.ObjectMeta{Name: "applied"}, Rules: []rbac.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}}
	for range 2 {
		again := role.DeepCopy()
		if err := c.Apply(ctx, again); err != nil || again.UID == "" {
			t.Errorf("%+v, %v", again, err)
		}
	}
	var list core.SecretList
	if err := c.List(ctx, &list, "default", "metadata.name=one"); err != nil || len(list.Items) != 1 {
		t.Errorf("%d, %v", len(list.Items), err)
	}
	if err := c.Delete(ctx, found); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, found); !errors.Is(err, ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
	if err := c.Get(ctx, found); !errors.Is(err, ErrNotFound) {
		t.Errorf("what is deleted: %v", err)
	}

	refused(t, c.Create(ctx, &core.Secret{ObjectMeta: meta.ObjectMeta{Namespace: "default", Name: "Wrong_Name"}}), fault.Usage, "cannot create the Secret default/Wrong_Name: ", "words")
	jane := user(t, cp, "jane")
	refused(t, jane.Create(ctx, secret("1")), fault.Refused, `your user may not create the Secret default/one: secrets is forbidden: User "jane" cannot create`,
		"kubectl auth can-i create secrets --namespace default")
	refused(t, jane.List(ctx, &core.SecretList{}, "default", ""), fault.Refused, "your user may not list secrets: ", "kubectl auth can-i list secrets")
	refused(t, jane.Get(ctx, &rbac.ClusterRole{ObjectMeta: meta.ObjectMeta{Name: "view"}}), fault.Refused, "your user may not get the ClusterRole view: ",
		"kubectl auth can-i get clusterroles.rbac.authorization.k8s.io")
	stranger := user(t, cp, "stranger")
	stranger.transport = http.DefaultTransport.(*http.Transport).Clone()
	err = stranger.Get(ctx, found)
	refused(t, err, fault.Untrusted, cp.Endpoint+" is not to be trusted", "ca.crt")

	path := filepath.Join(t.TempDir(), "token.conf")
	if err := cp.WriteTokenKubeconfig(path, "abcdef.0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	refused(t, connect(t, path).Get(ctx, found), fault.Refused, cp.Endpoint+" does not know the user of the kubeconfig "+path+" (401)", "log in anew")
}

// TestAnswers is of what no API server answers: something between here and there does.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name, body string
		status     int
		class      fault.Class
		cause      string
	}{
		{"a page of HTML", "<html>\n<h1>Bad gateway</h1>", 502, fault.Unexpected, "answered 502 Bad Gateway"},
		{"a page of HTML that forbids", "<html>\n<h1>No</h1>", 403, fault.Refused, "your user may not get the ConfigMap default/a"},
		{"a redirect", "", 302, fault.Unexpected, "answered 302 Found"},
		{"no object", "<html>", 200, fault.Unexpected, "is it an API server?"},
		{"a long message of many lines", `{"message":"` + strings.Repeat(`all\n`, 1000) + `"}`, 500, fault.Unexpected, "all all all"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			path := kubeconfig(t, strings.ReplaceAll(whole, "https://a:1", server.URL))
			err := connect(t, path).Get(t.Context(), &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Namespace: "default", Name: "a"}})
			refused(t, err, test.class, test.cause, "")
			if len(err.Error()) > 1000 {
				t.Errorf("it is %d bytes long", len(err.Error()))
			}
			server.Close()
			err = connect(t, path).Get(t.Context(), &core.ConfigMap{})
			refused(t, err, fault.Unexpected, "cannot reach "+strings.TrimPrefix(server.URL, "http://")+", the API server of the kubeconfig "+path, "")
		})
	}
}

// whole is a kubeconfig with nothing wrong in it.
const whole = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://a:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func kubeconfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConnectRefuses(t *testing.T) {
	for _, test := range []struct{ name, content, cause, remedy string }{
		{"empty", "", "has no current context", "kubectl config"},
		{"not YAML", "clusters: [", "cannot be read", "--kubeconfig"},
		{"no context", strings.Replace(whole, "current-context: x", "", 1), "has no current context", "kubectl config use-context"},
		{"dangling context", strings.Replace(whole, "current-context: x", "current-context: z", 1), `the current context "z" of the kubeconfig`, "kubectl config get-contexts"},
		{"dangling cluster", strings.Replace(whole, "cluster: c,", "cluster: d,", 1), `names the cluster "d", which is not there`, "kubectl config"},
		{"dangling user", strings.Replace(whole, "user: u}", "user: v}", 1), `names the user "v", who is not there`, "kubectl config"},
		{"missing CA file", strings.Replace(whole, "server:", "certificate-authority: /no/such/ca.crt, server:", 1), "/no/such/ca.crt", "--kubeconfig"},
		{"no server", strings.Replace(whole, "https://a:1", "", 1), "no server found", "--kubeconfig"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Connect(kubeconfig(t, test.content))
			refused(t, err, fault.Usage, test.cause, test.remedy)
		})
	}
	_, err := Connect("/no/such/config")
	refused(t, err, fault.Usage, "there is no kubeconfig: /no/such/config is not there", "KUBECONFIG")
}

func TestWhereTheKubeconfigIs(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("KUBECONFIG", "")
	look := func() string { return strings.Join(candidates(""), " ") }
	if got := look(); got != "/etc/kubernetes/admin.conf" {
		t.Errorf("without any: %s", got)
	}
	if err := os.Mkdir(filepath.Join(home, ".kube"), 0o700); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(home, ".kube", "config")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != own {
		t.Errorf("with one's own: %s", got)
	}
	// The current context is in one file, what it names in another, and a third is missing.
	first, second := kubeconfig(t, "current-context: x\n"), kubeconfig(t, strings.Replace(whole, "current-context: x", "current-context: z", 1))
	t.Setenv("KUBECONFIG", first+":/no/such/file::"+second)
	if got := connect(t, ""); got.Server() != "https://a:1" {
		t.Errorf("with KUBECONFIG: %+v", got)
	}
	if got := candidates("/the/flag"); len(got) != 1 || got[0] != "/the/flag" {
		t.Errorf("with a flag: %s", got)
	}
}

func TestForNodes(t *testing.T) {
	for _, test := range []struct {
		name    string
		cluster Cluster
		cause   string
	}{
		{"no CA", Cluster{Server: "https://a:1"}, "nothing would vouch for it"},
		{"a path", Cluster{Server: "https://a:1/k8s/clusters/c", CA: []byte("x")}, "has a path"},
		{"no https", Cluster{Server: "http://a:1", CA: []byte("x")}, "is not an https URL"},
		{"no certificate", Cluster{Server: "https://a:1", CA: []byte("x")}, "there is no PEM-encoded certificate"},
	} {
		_, err := test.cluster.ForNodes(time.Now())
		refused(t, err, fault.Usage, test.cause, "")
	}
}

func TestExecPlugin(t *testing.T) {
	path := kubeconfig(t, strings.Replace(whole, "user: {}", "user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /no/such/plugin, interactiveMode: Never}}", 1))
	err := connect(t, path).Get(t.Context(), &core.ConfigMap{})
	refused(t, err, fault.Refused, "has no credential to show: getting credentials: exec: ", "kubectl auth whoami")
}
