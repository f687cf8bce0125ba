package main

import (
	"context"
	"fmt"
	"io"
	"os"
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

// progress keeps the lines of points that run at the same time apart.
var progress sync.Mutex

// check makes a check, unless one before has failed: they build on each other. What it returns is what was seen. It reports
// whether the point can go on.
func (p *point) check(ctx context.Context, what string, look func(ctx context.Context) (seen string, err error)) bool {
	r := result{what: what, verdict: notReached}
	if p.ok() {
		began := time.Now()
		seen, err := look(ctx)
		r.took, r.seen, r.verdict = time.Since(began), seen, passed
		if err != nil {
			r.seen, r.verdict = err.Error(), failed
		}
		progress.Lock()
		fmt.Fprintf(os.Stderr, "%s: %s: %s (%.1f s)\n", p.number, r.verdict, what, r.took.Seconds())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			for _, m := range p.machines {
				m.explain(ctx, os.Stderr)
			}
		}
		progress.Unlock()
	}
	p.checks = append(p.checks, r)
	return r.verdict == passed
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
	verdict := passed
	if !p.ok() {
		verdict = failed
	}
	fmt.Fprintf(w, "\n%s. %s: %s (%.0f s)\n", p.number, p.title, verdict, p.took.Seconds())
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
