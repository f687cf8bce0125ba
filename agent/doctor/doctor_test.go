//go:build linux

package doctor

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nodejoin/nodejoin/bootstrap"
)

func TestMachineInOrder(t *testing.T) {
	leavesNothing(t)
	p := newPatient(t)
	report := p.examine(t)
	for _, f := range report.Findings {
		if f.Level != OK || f.Remedy != "" || f.Text == "" || f.Check == "" {
			t.Errorf("%+v", f)
		}
	}
	if report.Exit() != 0 {
		t.Errorf("exit status %d", report.Exit())
	}
	var order []string
	for _, f := range report.Findings {
		if len(order) == 0 || order[len(order)-1] != f.Check {
			order = append(order, f.Check)
		}
	}
	want := []string{
		"configuration", "node name", "dns", "connect", "discovery", "tls", "ca", "clock", "credential", "certificate", "kubeconfig", "rotation", "trust",
		"files", "disk", "kubelet", "lock", "service", "watching", "hooks",
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
	for _, bearer := range p.server.bearers() {
		if bearer != tokenID+"."+tokenSecret {
			t.Errorf("the API server was shown %q", bearer)
		}
	}
}

// leavesNothing checks that whatever a check has started has ended with it, once the test and its servers are done.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// A machine that is about to join: everything that is needed for that is there.
func TestMachineThatWillJoin(t *testing.T) {
	p := newPatient(t)
	p.unjoin()
	for _, f := range p.examine(t).Findings {
		switch {
		case f.Check == "certificate" && f.Level == Warning && strings.Contains(f.Text, "has not joined"):
		case f.Level == Skipped && slices.Contains([]string{"kubeconfig", "rotation"}, f.Check):
		case f.Level != OK:
			t.Errorf("%+v", f)
		}
	}
}

// wanted is a finding, by parts of its texts. Without a level it is that the check has nothing to complain about.
type wanted struct {
	check        string
	level        Level
	text, remedy string
}

func (w wanted) isIn(r *Report) bool {
	if w.level == "" {
		return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == w.check && f.Level != OK })
	}
	return slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Check == w.check && f.Level == w.level && strings.Contains(f.Text, w.text) && strings.Contains(f.Remedy, w.remedy) && (w.remedy != "" || f.Remedy == "")
	})
}

// examineFor reports what is missing of what is wanted.
func (p *patient) examineFor(t *testing.T, want ...wanted) {
	t.Helper()
	report := p.examine(t)
	for _, w := range want {
		if !w.isIn(report) {
			t.Errorf("there is no finding %+v", w)
		}
	}
	failed := slices.ContainsFunc(want, func(w wanted) bool { return w.level == Failure })
	if (report.Exit() != 0) != failed {
		t.Errorf("exit status %d", report.Exit())
	}
	text := report.Text()
	if strings.Contains(text, tokenSecret) {
		t.Error("the report shows the secret")
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Interrupted, it ends at once.
func TestInterrupted(t *testing.T) {
	leavesNothing(t)
	p := newPatient(t)
	p.Cluster.Endpoints = []bootstrap.Endpoint{silentEndpoint(t)}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	started := time.Now()
	run(ctx, p.Input, p.host)
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// trial is what is made wrong with a machine in order, and what is to be found then.
type trial struct {
	name  string
	spoil func(*testing.T, *patient)
	want  []wanted
}

// beforeJoin makes it wrong with a machine that has not joined.
func beforeJoin(spoil func(*testing.T, *patient)) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		p.unjoin()
		spoil(t, p)
	}
}

// examineEach examines a machine for each trial, side by side.
func examineEach(t *testing.T, trials []trial) {
	t.Helper()
	for _, test := range trials {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.spoil(t, p)
			p.examineFor(t, test.want...)
		})
	}
}
