package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodejoin/nodejoin/test/expect"
)

// Both layouts, side by side: the shared control plane runs while the other one does.
func TestLayouts(t *testing.T) {
	tests := []struct {
		name  string
		start func(t *testing.T) *ControlPlane
		two   bool
	}{
		{"one CA", shared, false},
		{"two CAs", func(t *testing.T) *ControlPlane { return New(t, Options{SeparateClientCA: true}) }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cp, ctx := test.start(t), within(t, time.Minute)
			if two := cp.ServingCA != cp.ClientCA; two != test.two {
				t.Fatalf("two CAs: %t, want %t", two, test.two)
			}
			token, err := cp.CreateToken(ctx, TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := cp.WaitSigned(ctx, token); err != nil {
				t.Fatal(err)
			}
			if got := discoveredCA(ctx, t, cp); got != string(cp.ServingCA.PEM) {
				t.Errorf("cluster-info carries the CA\n%s\nwant\n%s", got, cp.ServingCA.PEM)
			}
			leaf := referenceJoin(ctx, t, cp, token, "layout")
			_, err = leaf.Verify(x509.VerifyOptions{Roots: cp.ClientCA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			if err != nil {
				t.Errorf("the node's certificate is not the client CA's: %v", err)
			}
		})
	}
}

// discoveredCA reads cluster-info as a joining machine does: without a credential.
func discoveredCA(ctx context.Context, t *testing.T, cp *ControlPlane) string {
	t.Helper()
	anonymous := kubernetes.NewForConfigOrDie(&rest.Config{
		Host: cp.URL, TLSClientConfig: rest.TLSClientConfig{CAData: cp.ServingCA.PEM},
	})
	info, err := anonymous.CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.Load([]byte(info.Data["kubeconfig"]))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Clusters[""].Server; got != cp.URL {
		t.Errorf("cluster-info has the server %q, want %q", got, cp.URL)
	}
	return string(config.Clusters[""].CertificateAuthorityData)
}

// referenceJoin joins with the reference program and returns the node's certificate.
func referenceJoin(ctx context.Context, t *testing.T, cp *ControlPlane, token, node string, more ...string) *x509.Certificate {
	t.Helper()
	program := cp.Program("reference")
	if _, err := os.Stat(program); err != nil {
		t.Skipf("no reference program: %v", err)
	}
	dir := t.TempDir()
	args := append([]string{
		"--server", cp.Endpoint, "--token", token, "--node-name", node,
		"--kubeconfig", filepath.Join(dir, "kubelet.conf"), "--cert-dir", filepath.Join(dir, "pki"),
		"--bootstrap-kubeconfig", filepath.Join(dir, "bootstrap-kubelet.conf"),
	}, more...)
	if len(more) == 0 {
		args = append(args, "--pin", cp.ServingCA.Pin())
	}
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		t.Fatalf("reference: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pki", "kubelet-client-current.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate in the file")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if want := "system:node:" + node; leaf.Subject.CommonName != want {
		t.Errorf("the certificate is %s's, want %s", leaf.Subject.CommonName, want)
	}
	return leaf
}

func TestReferenceWithKnownCA(t *testing.T) {
	cp, ctx := shared(t), within(t, time.Minute)
	token, err := cp.CreateToken(ctx, TokenOptions{NoSigning: true})
	if err != nil {
		t.Fatal(err)
	}
	referenceJoin(ctx, t, cp, token, "known-ca", "--ca-file", cp.ServingCA.CertFile)
}

func TestKubeadmJoinCommand(t *testing.T) {
	cp, ctx := shared(t), within(t, time.Minute)
	line, err := cp.Kubeadm(ctx, "token", "create", "--print-join-command", "--kubeconfig", cp.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(line)
	want := []string{"kubeadm", "join", cp.Endpoint, "--token", words[4], "--discovery-token-ca-cert-hash", cp.ServingCA.Pin()}
	if !slices.Equal(words, want) {
		t.Errorf("kubeadm prints\n%q, want\n%q", words, want)
	}
	if err := cp.WaitSigned(ctx, words[4]); err != nil {
		t.Error(err)
	}
}

func TestKubectlAndApply(t *testing.T) {
	cp, ctx := shared(t), within(t, time.Minute)
	err := cp.Apply(ctx, "{apiVersion: v1, kind: Namespace, metadata: {name: applied-1}}\n---\n"+
		"{apiVersion: v1, kind: Namespace, metadata: {name: applied-2}}\n")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cp.Kubectl(ctx, "get", "namespaces", "applied-1", "applied-2", "--output=name")
	if want := "namespace/applied-1\nnamespace/applied-2\n"; err != nil || out != want {
		t.Errorf("kubectl prints %q (%v), want %q", out, err, want)
	}
	if _, err := cp.Kubectl(ctx, "get", "namespace", "missing"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("the error does not hold what kubectl says: %v", err)
	}
}

func TestTokens(t *testing.T) {
	tests := []struct {
		name    string
		options TokenOptions
		user    bool // the token authenticates
		group   string
		signed  bool
	}{
		{"default", TokenOptions{}, true, DefaultTokenGroup, true},
		{"forever", TokenOptions{Forever: true}, true, DefaultTokenGroup, true},
		{"other groups", TokenOptions{Groups: []string{"system:bootstrappers:other"}}, true, "system:bootstrappers:other", true},
		{"no further group", TokenOptions{Groups: []string{}}, true, "system:bootstrappers", true},
		{"no signing", TokenOptions{NoSigning: true}, true, DefaultTokenGroup, false},
		{"no authentication", TokenOptions{NoAuth: true}, false, "", true},
		{"expired", TokenOptions{TTL: -time.Minute}, false, "", false},
	}
	cp, ctx := shared(t), within(t, time.Minute)
	tokens := make([]string, len(tests))
	for i, test := range tests {
		var err error
		if tokens[i], err = cp.CreateToken(ctx, test.options); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
	}
	last, err := cp.CreateToken(ctx, TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.WaitSigned(ctx, last); err != nil { // what is signed at all is signed by now
		t.Fatal(err)
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			groups, err := whoAmI(ctx, cp, tokens[i])
			if test.user != (err == nil) || test.user && !slices.Contains(groups, test.group) {
				t.Errorf("the token is in the groups %q (%v), want %q", groups, err, test.group)
			}
			id, _, _ := strings.Cut(tokens[i], ".")
			info, err := cp.Client().CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if signed := info.Data["jws-kubeconfig-"+id] != ""; signed != test.signed {
				t.Errorf("signed: %t, want %t", signed, test.signed)
			}
		})
	}
	if err := cp.DeleteToken(ctx, last); err != nil {
		t.Fatal(err)
	}
	if err := cp.DeleteToken(ctx, last); !apierrors.IsNotFound(err) {
		t.Errorf("the second deletion: %v", err)
	}
}

// whoAmI returns the groups that the API server sees a token's owner in.
func whoAmI(ctx context.Context, cp *ControlPlane, token string) ([]string, error) {
	config := cp.Config()
	config.TLSClientConfig = rest.TLSClientConfig{CAData: cp.ServingCA.PEM}
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return review.Status.UserInfo.Groups, nil
}

func TestAuditEvents(t *testing.T) {
	cp, ctx := shared(t), within(t, time.Minute)
	config := cp.Config()
	config.UserAgent = "audited"
	client := kubernetes.NewForConfigOrDie(config)
	for range 3 {
		if _, err := client.CoreV1().ConfigMaps("default").Get(ctx, "missing", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	err := poll(ctx, func(ctx context.Context) error {
		answered, err := cp.AuditEvents(ctx, func(e AuditEvent) bool {
			return e.UserAgent == "audited" && e.Stage == "ResponseComplete" && e.ResponseStatus.Code == 404
		})
		if err == nil && len(answered) != 3 {
			err = errors.New("not all are complete")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	received, err := cp.AuditEvents(ctx, func(e AuditEvent) bool { return e.UserAgent == "audited" && e.Stage == "RequestReceived" })
	if err != nil || len(received) != 3 {
		t.Fatalf("%d requests, want 3 (%v)", len(received), err)
	}
	event := received[0]
	if event.User.Username != "kubernetes-admin" || event.Verb != "get" || event.AuditID == "" ||
		event.RequestURI != "/api/v1/namespaces/default/configmaps/missing" {
		t.Errorf("the event is %+v", event)
	}
}

// An API server that was killed while it wrote leaves half a line, which must not swallow the first event of the next one.
func TestAuditEventsAfterAKill(t *testing.T) {
	cp, ctx := shared(t), within(t, time.Minute)
	cp.APIServer.Kill()
	before, err := os.ReadFile(cp.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	whole := before[:bytes.LastIndexByte(before, '\n')+1]
	if err := os.WriteFile(cp.AuditLog, append(before, `{"kind":"Event","requestURI":"/api`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cp.APIServer.Start(ctx); err != nil {
		t.Fatal(err)
	}
	events, err := cp.AuditEvents(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kept := bytes.Count(whole, []byte("\n")); len(events) <= kept {
		t.Errorf("%d events, were %d before the kill", len(events), kept)
	}
}

func TestNeitherBindingsNorClusterInfo(t *testing.T) {
	cp := New(t, Options{
		NoBindings: true, NoClusterInfo: true, CertSANs: []string{"api.example"},
		APIServerArgs:         []string{"--anonymous-auth=false", "--authorization-mode=RBAC"},
		ControllerManagerArgs: []string{"--controllers=*"},
	})
	ctx := within(t, time.Minute)
	_, err := cp.Client().CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("cluster-info: %v", err)
	}
	review, err := cp.Client().AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", DefaultTokenGroup},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil || review.Status.Allowed {
		t.Errorf("a bootstrap token may request a certificate: %+v (%v)", review.Status, err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cp.ServingCA.Pool(), ServerName: "api.example"}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.URL+"/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("an anonymous request gets %s; the extra argument does not count", response.Status)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
}

// Every component ends and comes back in every way, and the cluster remembers.
func TestProcesses(t *testing.T) {
	cp, ctx := shared(t), within(t, 3*time.Minute)
	maps := cp.Client().CoreV1().ConfigMaps("default")
	kept, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "kept-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range []*Process{cp.ControllerManager, cp.APIServer, cp.Etcd} {
		t.Run(process.Name, func(t *testing.T) {
			first := process.PID()
			pauseAndResume(ctx, t, process)
			if process.PID() != first {
				t.Fatalf("the process is %d after a pause, was %d", process.PID(), first)
			}
			if process == cp.Etcd {
				process.Kill() // Restart, below, ends it cleanly
			} else if err := process.Stop(); err != nil {
				t.Fatal(err)
			}
			if process.PID() != 0 || process.Ready(ctx) == nil {
				t.Error("it still runs")
			}
			if err := process.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := process.Start(ctx); err == nil {
				t.Error("a second start succeeds")
			}
			process.Kill()
			if err := process.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if second := process.PID(); second == 0 || second == first {
				t.Errorf("the process is %d, was %d", second, first)
			}
		})
	}
	if err := cp.Etcd.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	err = poll(ctx, func(ctx context.Context) error { // the API server finds etcd again in a moment
		_, err := maps.Get(ctx, kept.Name, metav1.GetOptions{})
		return err
	})
	if err != nil {
		t.Errorf("the data is gone: %v", err)
	}
	token, err := cp.CreateToken(ctx, TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.WaitSigned(ctx, token); err != nil {
		t.Errorf("the controllers do not work: %v", err)
	}
}

func pauseAndResume(ctx context.Context, t *testing.T, process *Process) {
	t.Helper()
	if err := process.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if process.Ready(short) == nil {
		t.Error("it answers while it is paused")
	}
	if err := process.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := poll(ctx, process.Ready); err != nil {
		t.Errorf("it does not answer after a pause: %v", err)
	}
}

func TestKubeletRegistersItsNode(t *testing.T) {
	expect.Able(t, "containerd", HaveContainerd())
	cp, ctx := shared(t), within(t, time.Minute)
	containerd, err := StartContainerd(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cp.Adopt(containerd.Process)
	defer containerd.Kill()
	kubelet, err := cp.Kubelet(ctx, KubeletOptions{NodeName: "worker-1", ContainerRuntimeEndpoint: containerd.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	defer kubelet.Kill()
	begin := time.Now()
	node, err := cp.WaitNode(ctx, "worker-1")
	if err != nil {
		t.Fatalf("%v; the kubelet's log %s ends:\n%s", err, kubelet.Log, kubelet.Tail(30))
	}
	kubelet.Kill()
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), cp.Dir) {
		t.Errorf("the kubelet leaves mounts (%v):\n%s", err, mounts)
	}
	t.Logf("registered after %s: kubelet %s, %s", time.Since(begin).Round(time.Millisecond),
		node.Status.NodeInfo.KubeletVersion, node.Status.NodeInfo.ContainerRuntimeVersion)
}
