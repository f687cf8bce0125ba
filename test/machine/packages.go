package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// The versions that are built: an upgrade goes from one to the other, and back.
const (
	olderVersion = "v0.9.0"
	newerVersion = "v0.9.1"
)

// buildPackages builds the Debian package twice, as two versions.
func buildPackages(ctx context.Context, dir string) (older, newer string, err error) {
	if older, err = buildPackage(ctx, filepath.Join(dir, "older"), olderVersion); err != nil {
		return "", "", err
	}
	newer, err = buildPackage(ctx, filepath.Join(dir, "newer"), newerVersion)
	return older, newer, err
}

func buildPackage(ctx context.Context, dir, version string) (string, error) {
	build := grouped(exec.CommandContext(ctx, "make", "packages", "VERSION="+version, "DIST="+dir,
		"PLATFORMS=linux/"+runtime.GOARCH, "FORMATS=deb"))
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build the package %s (run this at the top of its repository): %w", version, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("make packages made %d packages of the version %s instead of one", len(found), version)
	}
	return found[0], nil
}
