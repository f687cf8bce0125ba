//go:build linux

package rotate

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/test/expect"
)

// ended is how a hook's run ended.
type ended struct {
	err  error
	took time.Duration // after it was asked to end
}

// cancelled runs a hook and cancels its context once it has said that it is ready.
func cancelled(t *testing.T, hook Hook, log *logged) ended {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- hook.Run(ctx, Change{}, log.logger()) }()
	expect.Eventually(t, "the hook is ready", func() bool { return slices.Contains(log.output(t), "ready") })
	begin := time.Now()
	cancel(errors.New("the agent ends"))
	select {
	case err := <-done:
		return ended{err, time.Since(begin)}
	case <-time.After(patience):
		t.Fatal("the hook does not end")
		panic("unreachable")
	}
}

// stubborn starts a process that ignores SIGTERM, whose output goes nowhere: the hook's pipe does not tell of it.
const stubborn = `(trap '' TERM; exec sleep 1000) >/dev/null 2>&1 & echo pid $!; `

// TestHookStopped: when the context ends, the whole process group is asked to end, and what does not is killed two seconds
// later.
func TestHookStopped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, script string
		want         string // error
		waits        bool   // for the two seconds
		asked        bool   // says so
	}{
		{"obedient", `echo pid $$; echo ready; exec sleep 1000`, "the hook reload was stopped: the agent ends (it said last: ready)", false, false},
		{
			"asked, and says so", `trap 'echo asked; exit 7' TERM; echo pid $$; echo ready; while :; do sleep 0.1; done`,
			"the hook reload was stopped: the agent ends (it said last: asked)", false, true,
		},
		{
			"asked, and succeeds", `trap 'echo asked; exit 0' TERM; echo pid $$; echo ready; while :; do sleep 0.1; done`,
			"the hook reload was stopped: the agent ends (it said last: asked)", false, true,
		},
		{"deaf", `trap '' TERM; echo pid $$; echo ready; exec sleep 1000`, "the hook reload was stopped: the agent ends (it said last: ready)", true, false},
		{
			"with children", `sleep 1000 & echo pid $!; sleep 1000 & echo pid $!; sh -c 'sleep 1000 & echo pid $!; wait' & echo pid $!; sleep 0.2; echo pid $$; echo ready; wait`,
			"the hook reload was stopped: the agent ends (it said last: ready)", false, false,
		},
		{"with a deaf child", stubborn + `echo pid $$; sleep 0.2; echo ready; wait`, "the hook reload was stopped: the agent ends (it said last: ready)", true, false},
		{
			"deaf, with deaf children", `trap '' TERM; ` + stubborn + stubborn + `sleep 1000 & echo pid $!; echo pid $$; echo ready; while :; do wait; done`,
			"the hook reload was stopped: the agent ends (it said last: ready)", true, false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log logged
			end := cancelled(t, shell(test.script), &log)
			if expect.Fault(t, end.err, 0, ""); end.err.Error() != test.want {
				t.Errorf("got %v, want %s", end.err, test.want)
			}
			if waited := end.took >= hookGrace; waited && !test.waits && end.took > patience/2 || !waited && test.waits {
				t.Errorf("it took %s", end.took)
			}
			if asked := slices.Contains(log.output(t), "asked"); asked != test.asked {
				t.Errorf("asked: %t", asked)
			}
			numbers := pids(t, log.output(t))
			if len(numbers) == 0 {
				t.Fatalf("no processes in %q", log.output(t))
			}
			for _, pid := range numbers {
				expect.Eventually(t, "the process is gone", func() bool { return !alive(pid) })
			}
		})
	}
}

// TestHookStoppedTidily: who tidies up when asked to end has the time for it, even if the hook itself is gone by then.
func TestHookStoppedTidily(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tidied")
	var log logged
	end := cancelled(t, shell(`sh -c 'trap "sleep 0.5; echo x >$1; exit" TERM; echo ready; while :; do sleep 0.05; done' sh "$1" & exec sleep 1000`, file), &log)
	expect.Fault(t, end.err, 0, "was stopped: the agent ends")
	if got := read(t, file); got != "x\n" {
		t.Errorf("got %q", got)
	}
}

// TestHookTimeLimit: a hook that takes too long ends like one whose context ended, and that is told apart.
func TestHookTimeLimit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, script string
		want         string
	}{
		{"obedient", `exec sleep 1000`, "the hook reload was stopped at its time limit of 300ms"},
		{"busy", `while :; do :; done`, "the hook reload was stopped at its time limit of 300ms"},
		{"deaf", `trap '' TERM; exec sleep 1000`, "the hook reload was stopped at its time limit of 300ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log logged
			hook := shell(test.script)
			hook.Timeout = 300 * time.Millisecond
			begin := time.Now()
			err := hook.Run(t.Context(), Change{}, log.logger())
			if expect.Fault(t, err, 0, ""); err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if took := time.Since(begin); took < hook.Timeout || took > patience {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("zero and less is the usual limit", func(t *testing.T) {
		t.Parallel()
		for _, timeout := range []time.Duration{0, -time.Second} {
			var log logged
			hook := shell(`sleep 0.2; echo done`)
			hook.Timeout = timeout
			if err := hook.Run(t.Context(), Change{}, log.logger()); err != nil || !slices.Equal(log.output(t), []string{"done"}) {
				t.Errorf("%s: %v, %q", timeout, err, log.output(t))
			}
		}
	})
}

// TestHookLeavesBehind: what a hook leaves behind when it ends by itself goes on, and is not waited for longer than two
// seconds.
func TestHookLeavesBehind(t *testing.T) {
	t.Parallel()
	const said = "the hook left a process behind that holds its output, of which no more is logged"
	for _, test := range []struct {
		name, script string
		want         string
		holds        bool
	}{
		{"elsewhere", `sleep 1000 >/dev/null 2>&1 & echo pid $!`, "", false},
		{"with the hook's output", `sleep 1000 & echo pid $!`, "", true},
		{"with the hook's output, of one that failed", `sleep 1000 & echo pid $!; exit 4`, "the hook reload failed: exit status 4", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log logged
			begin := time.Now()
			err := shell(test.script).Run(t.Context(), Change{}, log.logger())
			took := time.Since(begin)
			numbers := pids(t, log.output(t))
			if len(numbers) != 1 || !alive(numbers[0]) {
				t.Fatalf("the process is gone: %q", log.output(t))
			}
			defer syscall.Kill(numbers[0], syscall.SIGKILL)
			if test.want == "" && err != nil || test.want != "" && err == nil {
				t.Errorf("got %v", err)
			}
			if err != nil {
				expect.Fault(t, err, 0, test.want)
			}
			if took > patience || test.holds && took < hookGrace {
				t.Errorf("it took %s", took)
			}
			if got := log.says(t, said); got != (test.holds && test.want == "") {
				t.Errorf("that one holds the output was said: %t", got)
			}
		})
	}
}
