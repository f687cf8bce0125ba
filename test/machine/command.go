package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command runs a program and returns its standard output. The error holds its standard error, or the end of its standard output.
func command(ctx context.Context, name string, args ...string) (string, error) {
	return output(grouped(exec.CommandContext(ctx, name, args...)))
}

// endDelay is how long a program has to end when it is asked to.
const endDelay = 10 * time.Second

// grouped has the context end what a command has started as well, and not with a kill: the program gets a process group, and
// all of that a SIGTERM. Whoever still holds its output after a while is waited for no longer.
func grouped(cmd *exec.Cmd) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = endDelay
	return cmd
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = tail(stdout.String(), 5)
		}
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, said)
	}
	return stdout.String(), err
}

// commands runs programs one after the other until one fails.
func commands(ctx context.Context, all ...[]string) error {
	for _, one := range all {
		if _, err := command(ctx, one[0], one[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// patience is how long is waited for what must come. It is no measure of anything: many machines share two processors.
const patience = 3 * time.Minute

// eventually looks again and again until nothing is wrong, and returns what was wrong at last.
func eventually(ctx context.Context, look func() error) error { return within(ctx, patience, look) }

// within is eventually with another patience.
func within(ctx context.Context, timeout time.Duration, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %s: %w", timeout, err)
			}
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
