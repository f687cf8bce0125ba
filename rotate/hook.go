package rotate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/nodejoin/nodejoin/rotate/group"
)

const (
	// HookTimeout is how long a hook may run where it does not say.
	HookTimeout = 30 * time.Second

	// hookGrace is what a hook has between being asked to end and being killed, and what those it leaves behind have to
	// let go of its output.
	hookGrace = 2 * time.Second

	hookOutput = 64 << 10 // bytes of a hook's output that are logged
	hookLine   = 1 << 10  // bytes of one line of it
	hookShort  = 64       // bytes that a line counts for at least, so that there are not too many
)

// Hook is a command that is run after a change of what is on disk, for example to make a program read it.
type Hook struct {
	Name    string
	Command []string      // a program, which is looked for in the usual directories unless it has a slash, and its arguments
	On      []string      // what it is run after: names of certificates, "ca", "kubeconfig"; empty is every change
	Timeout time.Duration // 0 is HookTimeout
}

// Change is what a hook is told. What is empty is not known, and not told. There is no secret in it.
type Change struct {
	What        []string // names of certificates, "ca", "kubeconfig"
	Node        string
	Certificate string // path of the certificate's file
	Serial      string
	NotAfter    time.Time
	Kubeconfig  string // path
	CAFile      string // path
}

// Concerns reports whether the hook is to be run after a change of what has this name.
func (h Hook) Concerns(what string) bool { return len(h.On) == 0 || slices.Contains(h.On, what) }

func (h Hook) timeout() time.Duration {
	if h.Timeout <= 0 {
		return HookTimeout
	}
	return h.Timeout
}

// Longest returns how long [Hook.Run] takes at most: one that is not back then hangs.
func (h Hook) Longest() time.Duration {
	return h.timeout() + 2*hookGrace // it is asked to end, and then those that it leaves behind
}

// Digest identifies what the hook is: its name and its command. It is 32 hexadecimal digits.
func (h Hook) Digest() string {
	sum := sha256.New()
	for _, part := range append([]string{h.Name}, h.Command...) {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// Run runs the command, without a shell, and waits for it. It gets nothing to read, an environment of its own that says
// what changed and has nothing of the agent's, and a process group of its own. Its output goes to the log, a line a
// message. When its time is over, or the context ends, it is asked to end (SIGTERM), and two seconds later it is killed,
// each with its whole group. Processes that a hook leaves behind when it ends by itself go on. On Windows, where a process
// is not asked to end, the group is ended at once (see package group).
//
// An error says how it ended, and what it said last. It carries no class: a hook undoes nothing, and is run again.
func (h Hook) Run(ctx context.Context, change Change, log *slog.Logger) error {
	if len(h.Command) == 0 {
		return fmt.Errorf("cannot run the hook %s: it has no command", h.Name)
	}
	program, err := findProgram(h.Command[0])
	if err != nil {
		return fmt.Errorf("cannot run the hook %s: %w", h.Name, err)
	}
	timeout := h.timeout()
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output := &hookLog{hook: h.Name, log: log, left: hookOutput}
	cmd := exec.CommandContext(limited, program, h.Command[1:]...) //nolint:gosec // the command is what the operator configured: that it is variable is the point
	cmd.Dir, cmd.Env = "/", change.environment()
	cmd.Stdout, cmd.Stderr = output, output // one pipe, so that the lines keep their order
	cmd.WaitDelay = hookGrace
	all := group.New(cmd)
	var asked time.Time // to end
	cmd.Cancel = func() error {
		err := all.Terminate()
		if err == nil {
			asked = time.Now()
		}
		return err
	}
	if err := all.Start(); err != nil {
		return fmt.Errorf("cannot run the hook %s: %w", h.Name, err)
	}
	defer all.Close() //nolint:errcheck // it fails where there is nothing to let go of
	err = cmd.Wait()
	if !asked.IsZero() {
		all.KillAt(asked.Add(hookGrace)) // the others of the group may still be there
	}
	output.flush()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrWaitDelay): // only where the exit status is 0
		log.Info("the hook left a process behind that holds its output, of which no more is logged", "hook", h.Name)
		return nil
	case !asked.IsZero() && ctx.Err() == nil:
		err = fmt.Errorf("the hook %s was stopped at its time limit of %s", h.Name, timeout)
	case !asked.IsZero():
		err = fmt.Errorf("the hook %s was stopped: %w", h.Name, context.Cause(ctx))
	case exited:
		err = fmt.Errorf("the hook %s failed: %w", h.Name, exit)
	default:
		err = fmt.Errorf("cannot run the hook %s: %w", h.Name, err)
	}
	if output.last != "" {
		err = fmt.Errorf("%w (it said last: %s)", err, output.last)
	}
	return err
}

// environment is all of a hook's.
func (c Change) environment() []string {
	env := []string{"PATH=" + hookPath, "HOME=/", "LANG=C"}
	notAfter := ""
	if !c.NotAfter.IsZero() {
		notAfter = c.NotAfter.UTC().Format(time.RFC3339)
	}
	for _, variable := range []struct{ name, value string }{
		{"NODEJOIN_CHANGED", strings.Join(c.What, " ")},
		{"NODEJOIN_NODE", c.Node},
		{"NODEJOIN_CERTIFICATE", c.Certificate},
		{"NODEJOIN_SERIAL", c.Serial},
		{"NODEJOIN_NOT_AFTER", notAfter},
		{"NODEJOIN_KUBECONFIG", c.Kubeconfig},
		{"NODEJOIN_CA_FILE", c.CAFile},
	} {
		if variable.value != "" {
			env = append(env, variable.name+"="+variable.value)
		}
	}
	return env
}

// findProgram returns the path of a program, which may be one already. The agent's own PATH is not asked: it may not be
// what the hook's is.
func findProgram(name string) (string, error) {
	if strings.ContainsRune(name, '/') || filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(hookPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && isProgram(info) {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no program %q in %s", name, hookPath)
}

// hookLog makes messages of a hook's output, whatever that is.
type hookLog struct {
	hook string
	log  *slog.Logger
	left int    // bytes that will still be logged
	line []byte // begun, and at most one byte longer than what is logged of a line
	last string // that was not blank, logged or not
	full bool   // no more is logged, and that was said
}

// Write takes all there is, so that the hook never waits for the log.
func (l *hookLog) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), hookLine+1-len(l.line))]...)
		if ended {
			l.flush()
		}
		rest = after
	}
	return len(data), nil
}

// flush logs what there is of a line, unless it is blank.
func (l *hookLog) flush() {
	cut := len(l.line) > hookLine
	line := harmless(strings.TrimRightFunc(string(l.line[:min(len(l.line), hookLine)]), unicode.IsSpace))
	l.line = l.line[:0]
	if line == "" {
		return
	}
	if cut {
		line += " ..."
	}
	l.last = line
	if l.full {
		return
	}
	if l.left -= max(len(line), hookShort); l.left < 0 {
		l.full = true
		l.log.Info("the hook says more than is logged", "hook", l.hook)
		return
	}
	l.log.Info("hook output", "hook", l.hook, "line", line)
}

// harmless replaces what a terminal might obey, or a reader might take for something else.
func harmless(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		default:
			return unicode.ReplacementChar
		}
	}, line)
}
