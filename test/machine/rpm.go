package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What a point that was checked before the test's namespaces were entered leaves for the report.
const rpmResult = "rpm.txt"

// rpm checks the rpm as far as that is possible without a machine that is made of rpms, which cannot be had from Debian: it is
// installed, upgraded and erased in a tree (see packaging/check). It wants Debian's archive, so it is done outside of the test's
// network.
func (s *setup) rpm(ctx context.Context) error {
	fmt.Fprintln(os.Stderr, "machine: checking the rpm (packaging/check rpm)")
	said, err := output(exec.CommandContext(ctx, filepath.Join("packaging", "check"), "rpm"))
	if err != nil {
		said = failed + "\n" + err.Error()
	}
	return os.WriteFile(filepath.Join(s.dir, rpmResult), []byte(said), 0o644)
}

// tellOfRPM puts what packaging/check has seen into the report.
func (b *bed) tellOfRPM(ctx context.Context, next func(number, title string) *point) {
	p := next("rpm", "The rpm, in a tree without systemd (there is no machine of rpms here)")
	p.check(ctx, "packaging/check rpm", func(context.Context) (string, error) {
		said, err := os.ReadFile(filepath.Join(b.dir, rpmResult))
		if err != nil {
			return "", err
		}
		if text, wrong := strings.CutPrefix(string(said), failed+"\n"); wrong || !strings.Contains(string(said), "ok  rpm: ") {
			return "", errors.New("packaging/check rpm: " + text)
		}
		return string(said), nil
	})
}
