package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// command runs a program and returns its standard output. The error holds its standard error, or the end of its standard output.
func command(ctx context.Context, name string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, name, args...))
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

// eventually looks again and again until nothing is wrong, and returns what was wrong at last.
func eventually(ctx context.Context, timeout time.Duration, look func() error) error {
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
