package rotate

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodejoin/nodejoin/test/expect"
)

const golden = `apiVersion: v1
clusters:
- cluster:
    certificate-authority: /etc/kubernetes/pki/ca.crt
    proxy-url: http://proxy:3128
    server: https://api.example.com:6443
    tls-server-name: kubernetes
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
`

// TestKubeconfigText: what is written holds the paths that the machine will have, whatever the root.
func TestKubeconfigText(t *testing.T) {
	store, root := newStore(t)
	commit(t, store, pairNo(t, 0), testTime)
	path := filepath.Join(root, "etc/kubernetes/kubelet.conf")
	if got := read(t, path); got != golden {
		t.Errorf("got:\n%s", got)
	}
	plain := kubeconfigOf(pairNo(t, 0))
	plain.TLSServerName, plain.ProxyURL = "", ""
	if err := store.CommitKubeconfig(plain); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, path), strings.NewReplacer("    proxy-url: http://proxy:3128\n", "", "    tls-server-name: kubernetes\n", "").Replace(golden); got != want {
		t.Errorf("got:\n%s", got)
	}
}

// TestKubeconfigLoads has the library that the kubelet loads it with load it.
func TestKubeconfigLoads(t *testing.T) {
	paths := testPaths("")
	root := t.TempDir()
	for _, path := range []*string{&paths.Kubeconfig, &paths.CertDir, &paths.CAFile, &paths.StateDir} {
		*path = filepath.Join(root, *path)
	}
	store := NewStore(paths)
	commit(t, store, pairNo(t, 0), testTime)
	config, err := clientcmd.BuildConfigFromFlags("", paths.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	want := rest.TLSClientConfig{ServerName: "kubernetes", CAFile: paths.CAFile, CertFile: store.Client.CurrentPath(), KeyFile: store.Client.CurrentPath()}
	if config.Host != "https://api.example.com:6443" || config.Proxy == nil || config.TLSClientConfig.String() != want.String() {
		t.Errorf("got %+v", config)
	}
	if !mustLoad(t, store).Whole() {
		t.Error("the store does not think it whole")
	}
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// config makes a kubeconfig out of the fields of its cluster and its user.
func config(cluster, user string) string {
	return "{apiVersion: v1, kind: Config, current-context: c,\n" +
		"clusters: [{name: k, cluster: {server: 'https://api:6443'" + cluster + "}}],\n" +
		"users: [{name: u, user: {" + user + "}}],\n" +
		"contexts: [{name: c, context: {cluster: k, user: u}}]}\n"
}

// TestReadKubeconfig reads what others write: the kubelet (the CA inline, the rest by path), kubeadm (all inline), and
// what no program should write.
func TestReadKubeconfig(t *testing.T) {
	root := t.TempDir()
	pair := pairNo(t, 0)
	chain, key := parts(t, pair)
	encode := base64.StdEncoding.EncodeToString
	inline := "client-certificate-data: " + encode(chain) + ", client-key-data: " + encode(key)
	write(t, filepath.Join(root, "etc/kubernetes/pair.pem"), string(pair.pem), 0o600)
	write(t, filepath.Join(root, "etc/kubernetes/pki/ca.crt"), string(testCA), 0o600)
	write(t, filepath.Join(root, "etc/kubernetes/chain.pem"), string(chain), 0o600)
	write(t, filepath.Join(root, "etc/kubernetes/key.pem"), string(key), 0o600)
	write(t, filepath.Join(root, "etc/kubernetes/empty.pem"), "", 0o600)
	inlineCA := ", certificate-authority-data: " + encode(testCA)
	for _, test := range []struct {
		name, text string
		want       string // what the error says; "": it is good
	}{
		{"the kubelet's", config(inlineCA, "client-certificate: /etc/kubernetes/pair.pem, client-key: /etc/kubernetes/pair.pem"), ""},
		{"kubeadm's", config(inlineCA, inline), ""},
		{"ours", config(", certificate-authority: /etc/kubernetes/pki/ca.crt", "client-certificate: /etc/kubernetes/pair.pem, client-key: /etc/kubernetes/pair.pem"), ""},
		{"relative paths", config(", certificate-authority: pki/ca.crt", "client-certificate: ../kubernetes/chain.pem, client-key: key.pem"), ""},
		{"two files", config(inlineCA, "client-certificate: /etc/kubernetes/chain.pem, client-key: /etc/kubernetes/key.pem"), ""},
		{"inline goes before paths", config(inlineCA+", certificate-authority: /nowhere", inline+", client-certificate: /nowhere, client-key: /nowhere"), ""},
		{"several contexts", strings.Replace(config(inlineCA, inline), "contexts: [", "contexts: [{name: other, context: {cluster: x, user: y}}, ", 1), ""},
		{"JSON", `{"current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://api:6443","certificate-authority-data":"` + encode(testCA) +
			`"}}],"users":[{"name":"u","user":{"client-certificate-data":"` + encode(chain) + `","client-key-data":"` + encode(key) + `"}}],"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}]}`, ""},
		{"empty", "", "no usable current context"},
		{"zeros", string(make([]byte, 300)), "is damaged"},
		{"torn", golden[:strings.Index(golden, "users:")], "no usable current context"},
		{"torn in a word", golden[:20], "is damaged"},
		{"no YAML", "{[", "is damaged"},
		{"a list", "[]", "is damaged"},
		{"a list for the server", strings.Replace(config("", inline), "'https://api:6443'", "[x]", 1), "is damaged"},
		{"no current context", strings.Replace(config("", inline), "current-context: c", "current-context: ''", 1), "no usable current context"},
		{"a dangling context", strings.Replace(config("", inline), "current-context: c", "current-context: d", 1), "no usable current context"},
		{"a dangling cluster", strings.Replace(config("", inline), "cluster: k", "cluster: l", 1), "no usable current context"},
		{"a dangling user", strings.Replace(config("", inline), "user: u", "user: v", 1), "no usable current context"},
		{"a token", config("", "token: abcdef.0123456789abcdef"), "its user has something else than a client certificate"},
		{"an exec plugin", config("", "exec: {apiVersion: client.authentication.k8s.io/v1, command: plugin}"), "its user has something else than a client certificate"},
		{"no key", config("", "client-certificate: /etc/kubernetes/pair.pem"), "its user has no client certificate"},
		{"a missing CA", config(", certificate-authority: /nowhere", inline), "no such file"},
		{"a missing certificate", config("", "client-certificate: /nowhere, client-key: /etc/kubernetes/key.pem"), "no such file"},
		{"a missing key", config("", "client-certificate: /etc/kubernetes/chain.pem, client-key: /nowhere"), "no such file"},
		{"an empty key", config("", "client-certificate: /etc/kubernetes/chain.pem, client-key: /etc/kubernetes/empty.pem"), "its user has no client certificate"},
		{"a key that does not match", config("", "client-certificate: /etc/kubernetes/chain.pem, client-key-data: "+encode(chain)), "no usable key and certificate"},
		{"inline data that is no base64", config("", "client-certificate-data: '%', client-key-data: '%'"), "is damaged"},
		{"an alias bomb", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n", "is damaged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(root, "etc/kubernetes/kubelet.conf")
			write(t, path, test.text, 0o600)
			got, err := readKubeconfig(path, root)
			if test.want != "" {
				expect.Fault(t, err, 0, test.want)
				if strings.Contains(err.Error(), "0123456789abcdef") || strings.Contains(err.Error(), encode(key)[:40]) {
					t.Errorf("a secret is in %q", err)
				}
				disk, err := NewStore(testPaths(root)).Load()
				if err != nil || disk.KubeconfigErr == nil || disk.Whole() {
					t.Errorf("loaded: %+v, %v", disk, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Server != "https://api:6443" || string(got.CA) != string(testCA) || got.Pair.Fingerprint() != pair.Fingerprint() {
				t.Errorf("got %+v", got)
			}
			if n := len(got.Pair.TLS().Certificate); n != 1 {
				t.Errorf("a chain of %d certificates", n)
			}
		})
	}
}

// TestReadKubeconfigSwapped reads a kubeconfig whose key and certificate are in one file that is replaced all the time.
func TestReadKubeconfigSwapped(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kubelet.conf")
	write(t, path, config("", "client-certificate: current.pem, client-key: current.pem"), 0o600)
	swap := func(n int) {
		target := strconv.Itoa(n%2) + ".pem"
		if err := errors.Join(os.Symlink(target, filepath.Join(dir, "next")), os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current.pem"))); err != nil {
			t.Error(err)
		}
	}
	for n := range 2 {
		write(t, filepath.Join(dir, strconv.Itoa(n)+".pem"), string(pairNo(t, n).pem), 0o600)
		swap(n)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 5000 {
			swap(n)
		}
	}()
	for {
		k, err := readKubeconfig(path, "")
		if err == nil && len(k.Pair.TLS().Certificate) != 1 {
			err = errors.New("the chain is of two files")
		}
		if err != nil {
			<-done
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func FuzzKubeconfig(f *testing.F) {
	pair := pairNo(f, 0)
	chain, key := parts(f, pair)
	encode := base64.StdEncoding.EncodeToString
	inline := "client-certificate-data: " + encode(chain) + ", client-key-data: " + encode(key)
	root := f.TempDir()
	write(f, filepath.Join(root, "etc/kubernetes/pair.pem"), string(pair.pem), 0o600)
	write(f, filepath.Join(root, "etc/kubernetes/pki/ca.crt"), string(testCA), 0o600)
	for _, seed := range []string{
		golden, "", config("", inline), config("", "token: x"), config(", certificate-authority: pki/ca.crt", "client-certificate: pair.pem, client-key: pair.pem"),
		config(", certificate-authority: ..", "client-certificate: /, client-key: ''"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "/dev") || strings.Contains(string(data), "/proc") || strings.Contains(string(data), "/sys") {
			t.Skip("devices do not end")
		}
		path := filepath.Join(root, "etc/kubernetes/kubelet.conf")
		write(t, path, string(data), 0o600)
		got, err := readKubeconfig(path, root)
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v, %v", got, err)
		}
		if err == nil && got.Pair.Leaf == nil {
			t.Error("no leaf")
		}
		disk := mustLoad(t, NewStore(testPaths(root)))
		if (disk.Kubeconfig == nil) == (disk.KubeconfigErr == nil) {
			t.Errorf("got %v, %v", disk.Kubeconfig, disk.KubeconfigErr)
		}
	})
}
