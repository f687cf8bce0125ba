package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// point is one of the points of the report.
type point struct {
	number   string
	title    string
	checks   []result
	began    time.Time
	took     time.Duration
	machines []*machine // whose journals tell more when a check fails
}

// result is what became of a check.
type result struct {
	what, seen string
	verdict    string // ok, FAILED, or not reached
	took       time.Duration
}

const (
	passed     = "ok"
	failed     = "FAILED"
	notReached = "not reached"
)

// explainTimeout bounds what machines are asked after a failure.
const explainTimeout = time.Minute

// progress keeps the lines of points that run at the same time apart.
var progress sync.Mutex

// check makes a check, unless one before has failed: they build on each other. What it returns is what was seen; a panic
// fails it. It reports whether the point can go on.
func (p *point) check(ctx context.Context, what string, look func(ctx context.Context) (seen string, err error)) bool {
	if !p.ok() {
		p.checks = append(p.checks, result{what: what, verdict: notReached})
		return false
	}
	began := time.Now()
	seen, err := safely(func() (string, error) { return look(ctx) })
	p.add(ctx, what, seen, err, time.Since(began))
	return err == nil
}

// add puts a check that was made into the report, and tells of it at once.
func (p *point) add(ctx context.Context, what, seen string, err error, took time.Duration) {
	r := result{what: what, seen: seen, verdict: passed, took: took}
	if err != nil {
		r.seen, r.verdict = err.Error(), failed
	}
	p.checks = append(p.checks, r)
	progress.Lock()
	defer progress.Unlock()
	fmt.Fprintf(os.Stderr, "%s: %s: %s (%.1f s)\n", p.number, r.verdict, what, took.Seconds())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(ctx.Err(), context.Canceled) { // somebody ends the test
		return
	}
	// The story's time may be up, and that may be what failed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	for _, m := range p.machines {
		m.explain(ctx, os.Stderr)
	}
}

// safely returns a panic of a function as an error, with the stack.
func safely(f func() (string, error)) (seen string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			seen, err = "", fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return f()
}

// do is a step on the way that must succeed, and is told only if it does not.
func (p *point) do(ctx context.Context, what string, step func(ctx context.Context) error) bool {
	if !p.ok() {
		return false
	}
	if err := step(ctx); err != nil {
		return p.check(ctx, what, func(context.Context) (string, error) { return "", err })
	}
	return true
}

// verdict is the result of the whole point. One without a single check was not reached, and has not passed.
func (p *point) verdict() string {
	made := slices.ContainsFunc(p.checks, func(r result) bool { return r.verdict != notReached })
	switch {
	case !made:
		return notReached
	case p.ok():
		return passed
	}
	return failed
}

// ok reports whether no check has failed so far.
func (p *point) ok() bool {
	for _, r := range p.checks {
		if r.verdict != passed {
			return false
		}
	}
	return true
}

// explain prints what the machine says of itself.
func (m *machine) explain(ctx context.Context, w io.Writer) {
	fmt.Fprintf(w, "--- the console of %s ends:\n%s\n", m.name, m.process.Tail(5))
	for _, line := range []string{
		"systemctl --no-pager --full status nodejoin.service", "journalctl --no-pager --lines=40 --unit=nodejoin.service --unit=kubelet.service",
		"tail -n 20 /var/log/cloud-init-output.log", "systemctl --no-pager --failed",
	} {
		out, err := m.shell(ctx, line+" 2>&1")
		fmt.Fprintf(w, "--- %s$ %s\n%s", m.name, line, out)
		if err != nil && out == "" {
			fmt.Fprintln(w, err)
		}
	}
}

// print writes the report of a point.
func (p *point) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s. %s: %s (%.0f s)\n", p.number, p.title, p.verdict(), p.took.Seconds())
	for _, r := range p.checks {
		seconds := fmt.Sprintf("%.1f s", r.took.Seconds())
		if r.verdict == notReached {
			seconds = ""
		}
		fmt.Fprintf(w, "  %-11s %7s  %s\n", r.verdict, seconds, r.what)
		for line := range strings.Lines(r.seen) {
			fmt.Fprintf(w, "  %-11s %7s    %s\n", "", "", strings.TrimRight(line, "\n"))
		}
	}
}
