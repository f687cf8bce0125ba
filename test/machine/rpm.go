package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What a point that is checked outside of the test's namespaces leaves for the report: a line with how long it took, and what
// was seen.
const rpmResult = "rpm.txt"

// bootMeasured is the file that says that the other stories may begin.
const bootMeasured = "measured"

// rpm checks the rpm as far as that is possible without a machine that is made of rpms, which cannot be had from Debian: it is
// installed, upgraded and erased in a tree (see packaging/check). It wants Debian's archive, so it is done outside of the test's
// network, at the same time as all but the first boot, which is measured.
func (s *setup) rpm(ctx context.Context) error {
	measured := func() error {
		_, err := os.Stat(filepath.Join(s.dir, bootMeasured))
		return err
	}
	if err := within(ctx, 2*storyTimeout, measured); err != nil { // the tree and the packages may have to be made before
		return err
	}
	fmt.Fprintln(os.Stderr, "machine: checking the rpm (packaging/check rpm)")
	began := time.Now()
	said, err := command(ctx, filepath.Join("packaging", "check"), "rpm")
	if err != nil {
		said = failed + "\n" + err.Error()
	}
	said = time.Since(began).String() + "\n" + said
	path := filepath.Join(s.dir, rpmResult)
	if err := os.WriteFile(path+".new", []byte(said), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path) // whole, for whoever waits for it
}

// tellOfRPM puts what packaging/check has seen into the report.
func (b *bed) tellOfRPM(ctx context.Context, next func(number, title string) *point) {
	p := next("rpm", "The rpm, in a tree without systemd (not on a machine of rpms)")
	if err := within(ctx, storyTimeout, b.rpmEnded); err != nil {
		p.add(ctx, "packaging/check rpm", "", err, time.Since(p.began))
		return
	}
	seen, took, err := b.rpmSeen()
	p.began = time.Now().Add(-took)
	p.add(ctx, "packaging/check rpm", seen, err, took)
}

// rpmEnded returns an error until there is a result.
func (b *bed) rpmEnded() error {
	_, err := os.Stat(filepath.Join(b.dir, rpmResult))
	return err
}

// rpmSeen reads what rpm has left.
func (b *bed) rpmSeen() (seen string, took time.Duration, err error) {
	left, err := os.ReadFile(filepath.Join(b.dir, rpmResult))
	if err != nil {
		return "", 0, err
	}
	first, said, _ := strings.Cut(string(left), "\n")
	if took, err = time.ParseDuration(first); err != nil {
		return "", 0, err
	}
	if text, wrong := strings.CutPrefix(said, failed+"\n"); wrong || !strings.Contains(said, "ok  rpm: ") {
		return "", took, errors.New("packaging/check rpm: " + text)
	}
	return said, took, nil
}
