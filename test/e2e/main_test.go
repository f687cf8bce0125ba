package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/cmd/cli"
	"github.com/nodejoin/nodejoin/test/testbed"
)

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){
		"nodejoin": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// suite ends what the tests share after the last of them.
type suite struct{ *testing.M }

func (s suite) Run() int {
	code := s.M.Run()
	for _, p := range []*plane{oneCA, twoCAs} {
		if err := p.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if err := ways.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// The control planes, each started when it is first asked for.
var (
	oneCA  = &plane{}
	twoCAs = &plane{options: testbed.Options{SeparateClientCA: true}}
)

// manualGroup may request certificates, and nobody approves them by himself.
const manualGroup = "system:bootstrappers:by-hand"

// plane is a control plane that tests share, and a containerd for its kubelets.
type plane struct {
	options testbed.Options

	once sync.Once
	cp   *testbed.ControlPlane
	err  error

	mu    sync.Mutex
	names map[string]int // of scripts, and how often each has run: more than once with -count

	runtimeOnce sync.Once
	runtime     *testbed.Containerd
	runtimeErr  error
}

func (p *plane) start(t testing.TB) *testbed.ControlPlane {
	t.Helper()
	p.once.Do(func() {
		if p.cp, p.err = testbed.Start(context.Background(), p.options); p.err == nil {
			_, p.err = p.cp.Client().RbacV1().ClusterRoleBindings().Create(context.Background(), &rbac.ClusterRoleBinding{
				ObjectMeta: meta.ObjectMeta{Name: "by-hand"},
				RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
				Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: manualGroup}},
			}, meta.CreateOptions{})
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, process := range []*testbed.Process{p.cp.Etcd, p.cp.APIServer, p.cp.ControllerManager} {
				t.Logf("%s, the end of its log:\n%s", process.Name, process.Tail(10))
			}
		}
	})
	return p.cp
}

// nodeName returns a name that no node of the cluster has: the script's, with a number when it runs again.
func (p *plane) nodeName(script string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = make(map[string]int)
	}
	if p.names[script]++; p.names[script] == 1 {
		return script
	}
	return fmt.Sprintf("%s-run%d", script, p.names[script])
}

// containerd returns the socket of a container runtime.
func (p *plane) containerd() (string, error) {
	p.runtimeOnce.Do(func() {
		p.runtime, p.runtimeErr = testbed.StartContainerd(context.Background(), filepath.Join(p.cp.Dir, "containerd"))
	})
	if p.runtimeErr != nil {
		return "", p.runtimeErr
	}
	return p.runtime.Endpoint, nil
}

func (p *plane) stop() error {
	if p.cp == nil {
		return nil
	}
	if p.runtime != nil {
		p.runtime.Kill()
	}
	return p.cp.Stop()
}

// TestScriptAlone runs before the scripts that share a control plane, each by itself.
func TestScriptAlone(t *testing.T) {
	runOneByOne(t, oneCA, "testdata/alone")
}

func TestScript(t *testing.T) {
	testscript.Run(t, params(t, oneCA, "testdata"))
}

func TestScriptTwoCAs(t *testing.T) {
	testscript.Run(t, params(t, twoCAs, "testdata/two-cas"))
}

func runOneByOne(t *testing.T, p *plane, dir string) {
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			one := params(t, p, "")
			one.Files = []string{script}
			testscript.Run(t, one)
		})
	}
}

// params gives scripts the administrator's kubectl and kubeadm, and in the environment SERVER (HOST:PORT), PIN and CA of
// the cluster, NODE (a name that no other script has) ROOT (where this machine's files are), HOST (its name),
// and BY_HAND (a group whose requests a person has to approve).
func params(t *testing.T, p *plane, dir string) testscript.Params {
	cp := p.start(t)
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                commands,
		Condition:           condition,
		Setup: func(env *testscript.Env) error {
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			env.Values[storyKey{}] = &story{ctx: t.Context(), plane: p, cp: cp}
			for key, value := range map[string]string{
				"PATH":       env.Getenv("PATH") + string(filepath.ListSeparator) + filepath.Dir(cp.Program("kubectl")),
				"HOME":       filepath.Join(env.WorkDir, "home"), // kubectl's caches
				"KUBECONFIG": cp.Kubeconfig,
				"SERVER":     cp.Endpoint,
				"PIN":        cp.ServingCA.Pin(),
				"CA":         cp.ServingCA.CertFile,
				"NODE":       p.nodeName(strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")),
				"ROOT":       filepath.Join(env.WorkDir, "root"),
				"HOST":       strings.ToLower(host),
				"BY_HAND":    manualGroup,
				"GORACE":     "atexit_sleep_ms=0", // else a program with the race detector takes a second to end
			} {
				env.Setenv(key, value)
			}
			env.Defer(func() { tellAgent(env) })
			return nil
		},
	}
}

// tellAgent prints what the agent of a script that has failed has said.
func tellAgent(env *testscript.Env) {
	t, ok := env.T().(interface{ Failed() bool })
	if s := env.Values[storyKey{}].(*story); s.agent != nil && (!ok || t.Failed()) {
		env.T().Log("the agent, the end of its log:\n" + s.agent.Tail(100))
	}
}

// condition tells scripts what this machine can do: [kubelet] runs a real kubelet, [uts] has host names of its own, [root] is
// somebody who can give files away.
func condition(name string) (bool, error) {
	switch name {
	case "kubelet":
		err := testbed.HaveContainerd()
		if err != nil && os.Getenv("NODEJOIN_TEST_ALL") == "1" {
			return false, fmt.Errorf("NODEJOIN_TEST_ALL is set, but no kubelet can run: %w", err)
		}
		return err == nil, nil
	case "root":
		return os.Geteuid() == 0, nil
	case "uts":
		return exec.CommandContext(context.Background(), "unshare", "--uts", "true").Run() == nil, nil
	}
	return false, errors.New("unknown condition")
}
