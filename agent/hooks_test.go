package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/rotate"
)

// hooked is a machine that has joined over TLS, with hooks that note what they were told: each appends its environment to a
// file of its name, and fails while there is a file NAME.fail.
func hooked(t *testing.T, on map[string][]string) *host {
	t.Helper()
	cluster := newCluster(t)
	h := newHost(t, cluster)
	h.change = func(o *Options) {
		for _, name := range []string{"first", "second"} {
			if what, wanted := on[name]; wanted {
				o.Hooks = append(o.Hooks, rotate.Hook{
					Name: name, On: what, Timeout: 10 * time.Second,
					Command: []string{"sh", "-c", `{ env; echo --; } >> "$1"; if test -e "$1.fail"; then echo out of order; exit 3; fi`, "sh", h.path("/" + name)},
				})
			}
		}
	}
	h.joinAt(h.overdue(), cluster.serve(cluster.signer))
	return h
}

// runs returns what a hook was told, by what had changed, in the order in which it was run.
func (h *host) runs(name string) (order []string, told map[string][]string) {
	h.t.Helper()
	data, err := os.ReadFile(h.path("/" + name))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	told = map[string][]string{}
	for run := range strings.SplitSeq(string(data), "--\n") {
		env := strings.Split(strings.TrimSpace(run), "\n")
		for _, variable := range env {
			if what, found := strings.CutPrefix(variable, "NODEJOIN_CHANGED="); found {
				order = append(order, what)
				told[what] = env
			}
		}
	}
	return order, told
}

// hookedPass goes round the loop once, and runs the hooks that are due then.
func (h *host) hookedPass(t *testing.T, a *Agent) {
	t.Helper()
	h.pass(t, a)
	a.runDueHooks(t.Context())
}

// TestHooks runs hooks after the changes that concern them, each once, and tells them what has changed.
func TestHooks(t *testing.T) {
	h := hooked(t, map[string][]string{"first": nil, "second": {config.OnCA}})
	a := h.agent()
	h.hookedPass(t, a) // what is there when the agent starts is new to the hooks
	all := []string{config.OnCA, config.OnKubeconfig, rotate.ClientName}
	if order, _ := h.runs("first"); !slices.Equal(order, all) {
		t.Errorf("run after %q", order)
	}
	h.hookedPass(t, a) // a rotation
	h.hookedPass(t, a)
	order, told := h.runs("first")
	if !slices.Equal(order, append(all, rotate.ClientName)) {
		t.Errorf("run after %q", order)
	}
	if order, _ := h.runs("second"); !slices.Equal(order, []string{config.OnCA}) {
		t.Errorf("the one that wants the CA alone is run after %q", order)
	}
	leaf, err := h.current()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"NODEJOIN_CHANGED=" + rotate.ClientName, "NODEJOIN_NODE=" + testNode, "NODEJOIN_CERTIFICATE=" + linkPath,
		"NODEJOIN_SERIAL=" + leaf.SerialNumber.Text(16), "NODEJOIN_NOT_AFTER=" + leaf.NotAfter.UTC().Format(time.RFC3339),
		"NODEJOIN_KUBECONFIG=" + DefaultKubeconfig, "NODEJOIN_CA_FILE=" + DefaultCAFile,
	}
	for _, variable := range want {
		if !slices.Contains(told[rotate.ClientName], variable) {
			t.Errorf("it is not told %s: %q", variable, told[rotate.ClientName])
		}
	}
	for _, variable := range told[rotate.ClientName] {
		if name, _, _ := strings.Cut(variable, "="); !slices.Contains([]string{"PATH", "HOME", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}, name) && !slices.Contains(want, variable) {
			t.Errorf("it is told %s, too", variable)
		}
	}
	h.hookedPass(t, h.agent()) // a restart is no change
	if after, _ := h.runs("first"); !slices.Equal(after, order) {
		t.Errorf("after a restart it was run after %q", after)
	}
}

// TestHookFails has a hook fail after a rotation: the rotation stands, the failure is in the status, and the hook is run again
// when the agent starts, until it has succeeded.
func TestHookFails(t *testing.T) {
	h := hooked(t, map[string][]string{"first": {rotate.ClientName}, "second": nil})
	before := h.load().Pair
	h.write("/first.fail", "", 0o644)
	a := h.agent()
	h.hookedPass(t, a)
	h.hookedPass(t, a)
	disk := h.load()
	if disk.Pair == nil || disk.Pair.Fingerprint() == before.Fingerprint() || disk.Record.Verified != disk.Pair.Fingerprint() {
		t.Errorf("the rotation does not stand: %+v", disk.Record)
	}
	s := a.Snapshot()
	if s.Problem == nil || s.Problem.Class != 0 || !strings.Contains(s.Problem.Text, "the hook first failed") || !strings.Contains(s.Problem.Text, "out of order") || s.Problem.Remedy == "" {
		t.Errorf("the status has the problem %+v", s.Problem)
	}
	if c := s.Certificates[0]; c.Problem != nil {
		t.Errorf("it is the certificate's problem: %+v", c.Problem)
	}
	other, _ := h.runs("second") // does not suffer from it
	if len(other) != 4 {
		t.Errorf("the other hook is run after %q", other)
	}
	h.hookedPass(t, a) // it is not tried again all the time
	for runs := 2; runs <= 4; runs++ {
		order, _ := h.runs("first")
		if len(order) != runs {
			t.Fatalf("run after %q, want it %d times", order, runs)
		}
		if runs == 3 {
			h.remove("/first.fail")
		}
		a = h.agent() // a restart
		h.hookedPass(t, a)
	}
	if order, _ := h.runs("first"); len(order) != 4 || a.Snapshot().Problem != nil {
		t.Errorf("after it had succeeded: %q, and the problem %+v", order, a.Snapshot().Problem)
	}
	if after, _ := h.runs("second"); !slices.Equal(after, other) {
		t.Errorf("the other hook is run after %q", after)
	}
}
