package machine

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const configHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func write(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

var ignoreSources = cmpopts.IgnoreUnexported(Kubelet{}, Process{})

func TestKubeletConfig(t *testing.T) {
	root := t.TempDir()
	const path = "/var/lib/kubelet/config.yaml"
	for _, test := range []struct {
		name, content string
		want          Kubelet
		mistake       string
	}{
		{name: "defaults", content: configHead},
		{name: "everything", content: configHead + "rotateCertificates: true\nserverTLSBootstrap: true\ntlsCertFile: /a/cert.pem\ntlsPrivateKeyFile: /a/key.pem\n", want: Kubelet{
			RotateCertificates: true, ServerTLSBootstrap: true, TLSCertFile: "/a/cert.pem", TLSPrivateKeyFile: "/a/key.pem",
		}},
		{name: "fields that are not known", content: configHead + "rotateCertificates: true\nauthentication: {x509: {clientCAFile: /x}}\nfuture: [1, 2]\n", want: Kubelet{RotateCertificates: true}},
		{name: "JSON", content: `{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","rotateCertificates":true}`, want: Kubelet{RotateCertificates: true}},
		{name: "a later version", content: "apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\nrotateCertificates: true\n", want: Kubelet{RotateCertificates: true}},
		{name: "null", content: configHead + "rotateCertificates: null\ntlsCertFile: null\n"},
		{name: "relative to the file", content: configHead + "tlsCertFile: pki/cert.pem\n", want: Kubelet{TLSCertFile: "/var/lib/kubelet/pki/cert.pem"}},
		{name: "another case is another field", content: configHead + "RotateCertificates: true\nrotatecertificates: true\n"},
		{name: "not a boolean", content: configHead + "rotateCertificates: \"yes\"\n", mistake: path + " is damaged: rotateCertificates is no boolean"},
		{name: "not a string", content: configHead + "tlsCertFile: 7\n", mistake: path + " is damaged: tlsCertFile is no string"},
		{name: "empty", mistake: path + " is no KubeletConfiguration"},
		{name: "not YAML", content: "{", mistake: path + " is damaged"},
		{name: "a list", content: "- a", mistake: path + " is damaged"},
		{name: "another kind", content: "apiVersion: v1\nkind: Config\n", mistake: path + " is no KubeletConfiguration"},
		{name: "another kind of the group", content: "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: CredentialProviderConfig\n", mistake: path + " is no KubeletConfiguration"},
		{name: "another group", content: "apiVersion: example.com/v1\nkind: KubeletConfiguration\n", mistake: path + " is no KubeletConfiguration"},
		{name: "too large", content: configHead + "#" + strings.Repeat("x", maxConfig), mistake: path + " is larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, filepath.Join(root, path), test.content)
			k, err := KubeletConfig(path, root)
			if test.mistake != "" {
				if err == nil || !strings.Contains(err.Error(), test.mistake) || k != nil {
					t.Fatalf("%+v, %v", k, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			test.want.Config = path
			if diff := cmp.Diff(&test.want, k, ignoreSources); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := KubeletConfig("/nowhere.yaml", root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestRotatesItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	for _, test := range []struct {
		content string
		rotates bool
		why     string
	}{
		{configHead + "rotateCertificates: true\n", true, path + " has rotateCertificates: true"},
		{configHead + "rotateCertificates: false\n", false, path + " has rotateCertificates: false"},
		{configHead, false, path + " does not set rotateCertificates, which is then false"},
	} {
		write(t, path, test.content)
		k, err := KubeletConfig(path, "")
		if err != nil {
			t.Fatal(err)
		}
		if rotates, why := k.RotatesItself(); rotates != test.rotates || why != test.why {
			t.Errorf("%t, %q instead of %t, %q", rotates, why, test.rotates, test.why)
		}
		if _, why := k.RotatesServing(); why != path+" does not set serverTLSBootstrap, which is then false" {
			t.Errorf("serving: %q", why)
		}
	}
	if rotates, why := new(Kubelet).RotatesItself(); rotates || why != "nothing sets the kubelet's rotateCertificates, which is then false" {
		t.Errorf("%t, %q", rotates, why)
	}
}

// fakeProcess is a process as /proc shows it.
type fakeProcess struct {
	pid          int
	comm, status string
	args         []string
	cwd          string
}

func fakeProc(tb testing.TB, processes ...fakeProcess) string {
	tb.Helper()
	dir := tb.TempDir()
	write(tb, filepath.Join(dir, "uptime"), "1 1\n")
	for _, p := range processes {
		own := filepath.Join(dir, strconv.Itoa(p.pid))
		write(tb, filepath.Join(own, "comm"), p.comm+"\n")
		commandLine := ""
		for _, arg := range p.args {
			commandLine += arg + "\x00"
		}
		write(tb, filepath.Join(own, "cmdline"), commandLine)
		if p.status != "" {
			write(tb, filepath.Join(own, "status"), p.status)
		}
		if p.cwd != "" {
			if err := os.Symlink(p.cwd, filepath.Join(own, "cwd")); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return dir
}

func TestFindKubelet(t *testing.T) {
	kubelet := func(pid int, args ...string) fakeProcess {
		return fakeProcess{pid: pid, comm: "kubelet", status: "Name:\tkubelet\nNSpid:\t" + strconv.Itoa(pid) + "\n", args: append([]string{"/usr/bin/kubelet"}, args...)}
	}
	container := kubelet(100, "--config=/var/lib/kubelet/config.yaml")
	container.status = "Name:\tkubelet\nNSpid:\t100\t42\n"
	script := fakeProcess{pid: 50, comm: "kubelet", args: []string{"/bin/sh", "/usr/local/bin/kubelet", "--config=/x"}}
	old := kubelet(100, "--config=/x")
	old.status = "Name:\tkubelet\n"
	for _, test := range []struct {
		name      string
		processes []fakeProcess
		want      int
	}{
		{"none", []fakeProcess{{pid: 1, comm: "systemd", args: []string{"/sbin/init"}}}, 0},
		{"one", []fakeProcess{{pid: 1, comm: "systemd", args: []string{"/sbin/init"}}, kubelet(812, "--config=/x")}, 812},
		{"one that is told nothing", []fakeProcess{kubelet(812)}, 812},
		{"another one is asked for its version", []fakeProcess{kubelet(700, "--version"), kubelet(812, "--kubeconfig", "/x"), kubelet(900, "--version")}, 812},
		{"a script has started it", []fakeProcess{script, kubelet(812, "--kubeconfig", "/x")}, 812},
		{"in a container", []fakeProcess{container}, 0},
		{"in a container, and here", []fakeProcess{container, kubelet(812, "--config=/x")}, 812},
		{"a kernel that tells nothing of namespaces", []fakeProcess{old}, 100},
		{"it has ended", []fakeProcess{{pid: 100, comm: "kubelet"}}, 0},
		{"a name that begins like it", []fakeProcess{{pid: 100, comm: "kubelet-wrapper", args: []string{"kubelet", "--config=/x"}}}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := 0
			if p := FindKubelet(fakeProc(t, test.processes...), ""); p != nil {
				got = p.PID
			}
			if got != test.want {
				t.Errorf("PID %d instead of %d", got, test.want)
			}
		})
	}
	if p := FindKubelet(filepath.Join(t.TempDir(), "none"), ""); p != nil {
		t.Errorf("found %+v where there are no processes", p)
	}
}

// asKubelet tells this program, started under the name of the kubelet, that it is to stay a moment.
const asKubelet = "NODEJOIN_TEST_KUBELET"

func TestProcessOfThisMachine(t *testing.T) {
	if os.Getenv(asKubelet) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the other end is closed
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("/proc is Linux's")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kubelet := filepath.Join(t.TempDir(), "kubelet")
	if err := os.Symlink(self, kubelet); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), kubelet, "-test.run=^TestProcessOfThisMachine$")
	cmd.Env = append(os.Environ(), asKubelet+"=1")
	cmd.Dir = t.TempDir()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil { // has waited for the exec
		t.Fatal(err)
	}
	p := readProcess(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid)), cmd.Process.Pid)
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	want := &Process{PID: cmd.Process.Pid, Args: cmd.Args, dir: cmd.Dir}
	if diff := cmp.Diff(want, p, cmp.AllowUnexported(Process{})); diff != "" {
		t.Error(diff)
	}
}

func TestFlag(t *testing.T) {
	p := &Process{Args: strings.Fields("kubelet --config /a/b --cert-dir=/c -v 2 --kubeconfig=/first --kubeconfig /second --rotate-certificates --empty= --hostname_override=Node-1 --last")}
	p.Args = append(p.Args, "--", "--config=/after")
	for name, want := range map[string]struct {
		value string
		given bool
	}{
		"config": {"/a/b", true}, "cert-dir": {"/c", true}, "kubeconfig": {"/second", true}, "empty": {"", true}, "hostname-override": {"Node-1", true},
		"missing": {"", false}, "v": {"", false}, "conf": {"", false},
	} {
		if value, given := p.Flag(name); value != want.value || given != want.given {
			t.Errorf("--%s is %q, %t instead of %q, %t", name, value, given, want.value, want.given)
		}
	}
	if p.NodeName() != "node-1" {
		t.Errorf("the node's name is %q", p.NodeName())
	}
	for args, want := range map[string][2]bool{
		"": {}, "--rotate-certificates": {true, true}, "--rotate-certificates -v 2": {true, true}, "--rotate-certificates=false": {false, true}, "--rotate-certificates=T": {true, true},
		"--rotate-certificates --rotate-certificates=false": {false, true}, "--rotate-certificates=nonsense": {}, "--config --rotate-certificates": {true, true},
	} {
		p := &Process{Args: append([]string{"kubelet"}, strings.Fields(args)...)}
		if on, given := p.isOn("rotate-certificates"); on != want[0] || given != want[1] {
			t.Errorf("%q: %t, given: %t", args, on, given)
		}
	}
}

func TestReadKubelet(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		write(t, path, configHead+content)
		return path
	}
	usual := file("usual.yaml", "rotateCertificates: true\n")
	other := file("work/other.yaml", "serverTLSBootstrap: true\ntlsCertFile: cert.pem\n")
	file("drop/10-a.conf", "rotateCertificates: true\nserverTLSBootstrap: null\n")
	file("drop/20-b.conf", "tlsCertFile: /b.pem\n")
	file("drop/20-b.yaml", "tlsCertFile: /not-this.pem\n")
	file("drop/sub/30-c.conf", "tlsPrivateKeyFile: /c.pem\n")
	write(t, filepath.Join(dir, "bad/x.conf"), "kind: x")
	process := func(args ...string) fakeProcess {
		return fakeProcess{pid: 7, comm: "kubelet", args: append([]string{"kubelet"}, args...), cwd: filepath.Join(dir, "work")}
	}
	for _, test := range []struct {
		name      string
		path      string
		processes []fakeProcess
		want      Kubelet
		why       string
	}{
		{"none runs", usual, nil, Kubelet{Config: usual, RotateCertificates: true}, usual + " has rotateCertificates: true"},
		{"one runs with another file", usual, []fakeProcess{process("--config=" + other)}, Kubelet{Config: other, ServerTLSBootstrap: true, TLSCertFile: filepath.Join(dir, "work/cert.pem")}, other + " does not set rotateCertificates, which is then false"},
		{"its path is relative", usual, []fakeProcess{process("--config", "other.yaml")}, Kubelet{Config: other, ServerTLSBootstrap: true, TLSCertFile: filepath.Join(dir, "work/cert.pem")}, other + " does not set rotateCertificates, which is then false"},
		{"one runs without a file", usual, []fakeProcess{process("--kubeconfig=/k")}, Kubelet{}, "nothing sets the kubelet's rotateCertificates, which is then false"},
		{"drop-ins", usual, []fakeProcess{process("--config="+other, "--config-dir="+filepath.Join(dir, "drop"))}, Kubelet{
			Config: other, RotateCertificates: true, TLSCertFile: "/b.pem", TLSPrivateKeyFile: "/c.pem",
		}, filepath.Join(dir, "drop/10-a.conf") + " has rotateCertificates: true"},
		{"flags come last", usual, []fakeProcess{process("--config="+usual, "--rotate-certificates=false", "--rotate-server-certificates", "--tls-cert-file=own.pem", "--tls-private-key-file=/own.key")}, Kubelet{
			Config: usual, ServerTLSBootstrap: true, TLSCertFile: filepath.Join(dir, "work/own.pem"), TLSPrivateKeyFile: "/own.key",
		}, "the kubelet that runs (PID 7) has --rotate-certificates=false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, err := ReadKubelet(test.path, "", fakeProc(t, test.processes...), "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, k, ignoreSources, cmpopts.IgnoreFields(Kubelet{}, "Process")); diff != "" {
				t.Error(diff)
			}
			if (k.Process != nil) != (test.processes != nil) {
				t.Errorf("process: %+v", k.Process)
			}
			if _, why := k.RotatesItself(); why != test.why {
				t.Errorf("%q instead of %q", why, test.why)
			}
		})
	}
	t.Run("below a root no process counts", func(t *testing.T) {
		k, err := ReadKubelet("/usual.yaml", dir, fakeProc(t, process("--rotate-certificates=false")), "")
		if err != nil || !k.RotateCertificates || k.Process != nil || k.Config != "/usual.yaml" {
			t.Errorf("%+v, %v", k, err)
		}
	})
	t.Run("none runs and the file is missing", func(t *testing.T) {
		if _, err := ReadKubelet(filepath.Join(dir, "missing.yaml"), "/", fakeProc(t), ""); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("a drop-in that the kubelet refuses too", func(t *testing.T) {
		if _, err := ReadKubelet(usual, "", fakeProc(t, process("--config-dir="+filepath.Join(dir, "bad"))), ""); err == nil || !strings.Contains(err.Error(), "bad/x.conf") {
			t.Error(err)
		}
	})
	p := FindKubelet(fakeProc(t, process("--kubeconfig=k.conf")), "")
	if p.Kubeconfig() != filepath.Join(dir, "work/k.conf") || p.CertDir() != "/var/lib/kubelet/pki" || p.NodeName() != "" {
		t.Errorf("%q, %q, %q", p.Kubeconfig(), p.CertDir(), p.NodeName())
	}
}
