//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestKubelet(t *testing.T) {
	examineEach(t, []trial{
		{"both rotate", func(t *testing.T, p *patient) { p.kubelet(t, "rotateCertificates: true\n") }, []wanted{
			{"kubelet", Warning, "both the agent and the kubelet are to rotate the client certificate", "rotateCertificates: false"},
			{"kubelet", Warning, "keeps its certificates in /var/lib/kubelet/pki", "--cert-dir=/var/lib/kubelet/pki"},
		}},
		{"the kubelet rotates, as it should", func(t *testing.T, p *patient) {
			p.kubelet(t, "rotateCertificates: true\n")
			p.Rotation = "kubelet"
			p.process(t, 812, "kubelet", "kubelet", "--config="+p.KubeletConfig, "--kubeconfig="+p.Paths.Kubeconfig, "--cert-dir="+p.Paths.CertDir)
		}, []wanted{{"kubelet", OK, "the kubelet rotates the client certificate: ", ""}, {"kubelet", OK, "the kubelet runs (PID 812) with", ""}}},
		{"nobody rotates", func(_ *testing.T, p *patient) { p.Rotation = "kubelet" }, []wanted{{"kubelet", Failure, "nobody rotates the client certificate", "rotation: agent"}}},
		{"the serving certificate is read", func(t *testing.T, p *patient) {
			p.Serving = []string{"/a/link.pem", "/a/cert.pem"}
			p.kubelet(t, "tlsCertFile: /a/cert.pem\ntlsPrivateKeyFile: /a/key.pem\n")
		}, []wanted{{"kubelet", OK, "reads the serving certificate", ""}}},
		{"the serving certificate is not read", func(_ *testing.T, p *patient) { p.Serving = []string{"/a/link.pem"} }, []wanted{{"kubelet", Warning, "does not read the serving certificate", "tlsCertFile: /a/link.pem and tlsPrivateKeyFile: /a/link.pem"}}},
		{"both keep the serving certificate", func(t *testing.T, p *patient) {
			p.Serving = []string{"/a/link.pem"}
			p.kubelet(t, "serverTLSBootstrap: true\n")
		}, []wanted{{"kubelet", Warning, "both the agent and the kubelet are to keep the kubelet's serving certificate", "serverTLSBootstrap: false"}}},
		{"a configuration that is damaged", func(t *testing.T, p *patient) { p.kubelet(t, "rotateCertificates: 7\n") }, []wanted{{"kubelet", Warning, "rotateCertificates is no boolean", "its log"}}},
		{"none runs", func(t *testing.T, p *patient) { p.process(t, 812, "sleep", "sleep") }, []wanted{{"kubelet", Skipped, "none runs", ""}, {"kubelet", OK, "the agent rotates", ""}}},
		{"there is none", func(t *testing.T, p *patient) {
			p.process(t, 812, "sleep", "sleep")
			p.KubeletConfig = "/nowhere/config.yaml"
		}, []wanted{{"kubelet", Skipped, "no kubelet runs, and /nowhere/config.yaml is missing", ""}}},
		{"it runs with another kubeconfig", func(t *testing.T, p *patient) { p.process(t, 812, "kubelet", "kubelet", "--kubeconfig=/other.conf") }, []wanted{{"kubelet", Failure, "uses /other.conf and not", "start it with --kubeconfig="}}},
		{"it runs with another kubeconfig and rotates that", func(t *testing.T, p *patient) {
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig=/other.conf", "--rotate-certificates", "--cert-dir="+p.Paths.CertDir)
		}, []wanted{{"kubelet", Warning, "uses /other.conf and not", "start it with --kubeconfig="}, {"kubelet", Warning, "(PID 812) has --rotate-certificates=true", "rotation: kubelet"}}},
		{"it runs with a link to the kubeconfig", func(t *testing.T, p *patient) {
			link := filepath.Join(p.dir, "link.conf")
			if err := os.Symlink(p.Paths.Kubeconfig, link); err != nil {
				t.Fatal(err)
			}
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig="+link)
		}, []wanted{{"kubelet", OK, "the kubelet runs (PID 812) with", ""}}},
		{"it runs alone", func(t *testing.T, p *patient) { p.process(t, 812, "kubelet", "kubelet", "--config="+p.KubeletConfig) }, []wanted{{"kubelet", Warning, "uses no kubeconfig", "--kubeconfig="}}},
		{"it is another node", func(t *testing.T, p *patient) {
			p.process(t, 812, "kubelet", "kubelet", "--kubeconfig="+p.Paths.Kubeconfig, "--hostname-override=other")
		}, []wanted{{"kubelet", Failure, `is the node "other", and the certificate is for "node-1"`, "--hostname-override=node-1"}}},
	})
}

func TestServiceAndLock(t *testing.T) {
	examineEach(t, []trial{
		{"active", func(*testing.T, *patient) {}, []wanted{{"service", OK, "nodejoin.service is active: valid until tomorrow", ""}}},
		{"not installed", func(t *testing.T, p *patient) { p.unit(t, "LoadState=not-found\nActiveState=inactive\n") }, []wanted{{"service", Warning, "no unit nodejoin.service", "nodejoin service install"}}},
		{"masked", func(t *testing.T, p *patient) { p.unit(t, "LoadState=masked\nActiveState=inactive\n") }, []wanted{{"service", Failure, "is masked", "systemctl unmask"}}},
		{"failed", func(t *testing.T, p *patient) { p.unit(t, "LoadState=loaded\nActiveState=failed\nResult=exit-code\n") }, []wanted{{"service", Failure, "has failed (exit-code)", "journalctl --unit nodejoin.service"}}},
		{"not enabled", func(t *testing.T, p *patient) {
			p.unit(t, "LoadState=loaded\nActiveState=active\nUnitFileState=disabled\n")
		}, []wanted{{"service", Warning, "is not started at boot", "systemctl enable nodejoin.service"}, {"service", OK, "is active", ""}}},
		{"systemctl fails", func(t *testing.T, p *patient) {
			write(t, p.host.systemctl, "#!/bin/sh\necho no bus >&2\nexit 1\n", 0o755)
		}, []wanted{{"service", Warning, "cannot ask systemd: no bus", "systemctl status"}}},
		{"systemctl is missing", func(_ *testing.T, p *patient) { p.host.systemctl = "/nowhere/systemctl" }, []wanted{{"service", Warning, "cannot ask systemd: ", "systemctl status"}}},
		{"no systemd", func(_ *testing.T, p *patient) { p.host.systemd = "/nowhere" }, []wanted{{"service", Skipped, "systemd does not run here", ""}}},

		{"nobody holds the machine", func(*testing.T, *patient) {}, []wanted{{"lock", OK, "no agent holds this machine", ""}}},
		{"the agent holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
			p.listen(t)
		}, []wanted{{"lock", OK, "the agent runs (PID 77) and answers", ""}}},
		{"it has two numbers", func(t *testing.T, p *patient) {
			p.lock(t, 1)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
			p.listen(t)
		}, []wanted{{"lock", OK, "the agent runs (PID 77) and answers", ""}}},
		{"the agent does not answer", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "/usr/bin/nodejoin", "run")
		}, []wanted{{"lock", Warning, "the agent runs (PID 77) but does not answer", "nodejoin service restart"}}},
		{"a join holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "nodejoin", "nodejoin", "join", "api:6443")
		}, []wanted{{"lock", Warning, "another nodejoin is at work on this machine (PID 77)", "wait"}}},
		{"another program holds it", func(t *testing.T, p *patient) {
			p.lock(t, 0)
			p.process(t, 77, "flock", "flock", "x")
		}, []wanted{{"lock", Failure, "is locked by another program: flock (PID 77)", "ps -fp 77"}}},
		{"another program holds another file", func(t *testing.T, p *patient) {
			p.lock(t, 1)
			p.process(t, 77, "flock", "flock", "x")
		}, []wanted{{"lock", OK, "no agent holds", ""}}},
		{"no list of locks", func(t *testing.T, p *patient) {
			if err := os.Remove(filepath.Join(p.host.proc, "locks")); err != nil {
				t.Fatal(err)
			}
		}, []wanted{{"lock", Skipped, "cannot be found out", ""}}},

		{"a hook that is not there", func(_ *testing.T, p *patient) {
			p.Hooks = []Hook{{"gone", []string{"/nowhere/program"}}, {"bare", nil}}
		}, []wanted{
			{"hooks", Warning, `the hook "gone" cannot be run: no such file or directory`, "install it"}, {"hooks", Failure, `the hook "bare" has no command`, "command"},
		}},
		{"no hooks", func(_ *testing.T, p *patient) { p.Hooks = nil }, []wanted{{"hooks", Skipped, "there are none", ""}}},
		{"another machine's files", func(_ *testing.T, p *patient) {
			p.Paths = rotate.Paths{Root: p.dir, Kubeconfig: "/kubernetes/kubelet.conf", CertDir: "/pki", CAFile: "/kubernetes/pki/ca.crt", StateDir: "/state"}
			p.KubeletConfig, p.RuntimeDir = "/kubelet.yaml", "/run"
			p.Disk.PairPath = "/pki/current.pem"
			p.host.name = func() (string, error) { return "workshop", nil }
		}, []wanted{
			{"service", Skipped, "--root", ""},
			{"lock", Skipped, "--root", ""},
			{"watching", Skipped, "--root", ""},
			{"hooks", Skipped, "--root", ""},
			{"kubelet", OK, "the agent rotates", ""},
			{"files", OK, "in order (10 files", ""},
			{"disk", OK, "room", ""},
			{"node name", OK, `the node's name is "node-1"`, ""},
		}},
	})
}

// What the doctor takes for a configuration is what the unit takes for one.
func TestSomethingIsTheUnits(t *testing.T) {
	text, err := os.ReadFile("../../systemd/nodejoin.service")
	if err != nil {
		t.Fatal(err)
	}
	if pattern := strings.TrimPrefix(something.String(), "(?m)"); !strings.Contains(string(text), `"`+pattern+`"`) {
		t.Errorf("the unit does not look for %s", pattern)
	}
}

// A package leaves the unit stopped. Whoever configures the machine then runs "nodejoin doctor && systemctl start nodejoin".
func TestStoppedService(t *testing.T) {
	const skipped, stopped = "LoadState=loaded\nActiveState=inactive\nResult=exec-condition\n", "LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\nResult=success\n"
	service := func(properties, config string) func(*testing.T, *patient) {
		return func(t *testing.T, p *patient) {
			t.Helper()
			p.unit(t, properties)
			write(t, p.host.config, config, 0o644)
		}
	}
	const template, written = "# a comment\n\n  # another\n", "# a comment\n  cluster: {}\n"
	const none, start = "was not started: there is nothing in ", "systemctl enable --now nodejoin.service"
	examineEach(t, []trial{
		{"before the join, not configured", beforeJoin(service(skipped, template)), []wanted{{"service", Warning, none, "systemctl start nodejoin.service"}}},
		{"before the join, no configuration", beforeJoin(func(t *testing.T, p *patient) {
			p.unit(t, skipped)
			p.host.config = "/nowhere/config.yaml"
		}), []wanted{{"service", Warning, none + "/nowhere/config.yaml", "systemctl start nodejoin.service"}}},
		{"before the join, configured since", beforeJoin(service(skipped, written)), []wanted{{"service", Warning, "does not run (inactive)", start}}},
		{"before the join, not started", beforeJoin(service(stopped, written)), []wanted{{"service", Warning, "does not run (inactive)", start}}},
		{"before the join, failed", beforeJoin(service("LoadState=loaded\nActiveState=failed\nResult=exit-code\n", written)), []wanted{{"service", Failure, "has failed (exit-code)", "journalctl"}}},
		{"before the join, it ended badly", beforeJoin(service("LoadState=loaded\nActiveState=inactive\nResult=timeout\n", written)), []wanted{{"service", Failure, "does not run (inactive)", start}}},
		{"before the join, it stops", beforeJoin(service("LoadState=loaded\nActiveState=deactivating\nResult=success\n", written)), []wanted{{"service", Failure, "does not run (deactivating)", start}}},
		{"joined by another program, not started", func(t *testing.T, p *patient) {
			service(skipped, written)(t, p)
			p.Disk.Cluster = nil
		}, []wanted{{"service", Warning, "does not run (inactive)", start}}},
		{"nobody can say whether it has joined", func(t *testing.T, p *patient) {
			service(stopped, written)(t, p)
			p.Disk, p.DiskErr = nil, errors.New("cannot be read")
		}, []wanted{{"service", Failure, "does not run (inactive)", start}}},
		{"not started", service(stopped, written), []wanted{{"service", Failure, "does not run (inactive)", start}}},
		{"not configured any more", service(skipped, template), []wanted{{"service", Failure, none, "systemctl start nodejoin.service"}}},
		{"configured again", service(skipped, written), []wanted{{"service", Failure, "does not run (inactive)", start}}},
	})
}

// lock lists a lock of the state directory by the process 77. The device's number is off by this much.
func (p *patient) lock(tb testing.TB, off uint64) {
	tb.Helper()
	info, err := os.Stat(p.Paths.StateDir)
	if err != nil {
		tb.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	p.process(tb, 6, "nodejoin", "nodejoin", "run") // holds another one
	device := fmt.Sprintf("%02x:%02x", major(stat.Dev), minor(stat.Dev)+off)
	write(tb, filepath.Join(p.host.proc, "locks"), fmt.Sprintf(`1: POSIX  ADVISORY  READ  5 %[1]s:%[2]d 0 EOF
2: FLOCK  ADVISORY  WRITE 6 %[1]s:%[2]d9 0 EOF
nonsense
3: FLOCK  ADVISORY  WRITE 77 %[1]s:%[2]d 0 EOF
3: -> FLOCK  ADVISORY  WRITE 9 %[1]s:%[2]d 0 EOF
`, device, stat.Ino), 0o644)
}

// listen answers at the agent's socket.
func (p *patient) listen(tb testing.TB) {
	tb.Helper()
	p.RuntimeDir = filepath.Join(p.dir, "r")
	if err := os.Mkdir(p.RuntimeDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	l := listenOn(tb, "unix", filepath.Join(p.RuntimeDir, "nodejoin.sock"))
	tb.Cleanup(func() { _ = l.Close() })
}

// The kernel's own list shows a real lock under the number that the file has, without that the lock is tried.
func TestRealLock(t *testing.T) {
	p := newPatient(t)
	p.host.proc = "/proc"
	_, err := os.Stat("/proc/locks")
	expect.Able(t, "/proc/locks", err)
	lock, err := rotate.NewStore(p.Paths).Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	want := fmt.Sprintf("(PID %d)", os.Getpid())
	for _, f := range p.examine(t).Findings {
		if f.Check == "lock" && (f.Level != Failure || !strings.Contains(f.Text, want)) {
			t.Errorf("%+v instead of a program that is none of ours %s", f, want)
		}
	}
}
