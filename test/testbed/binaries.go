package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// Programs that a control plane and its tests need; all are links to one multi-call binary.
var programs = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubelet", "kubectl", "kubeadm"}

const (
	multiCall = "controlplane"
	reference = "reference"
	// controlPlaneDir is the nested module, from the root of the repository.
	controlPlaneDir = "test/controlplane"
)

// Binaries returns a directory that holds etcd, kube-apiserver, kube-controller-manager, kubelet, kubectl and kubeadm,
// and reference, the join that benchmarks compare with.
//
// It is the directory that the environment variable NODEJOIN_TEST_BIN names, else KUBEBUILDER_ASSETS, else one in the
// user's cache directory; the latter is built from the nested module test/controlplane when it is missing, which takes
// about ten minutes the first time. A directory that is named but lacks a program is an error; reference may be missing
// there. Processes that ask at the same time build once.
func Binaries(ctx context.Context) (string, error) {
	for _, variable := range []string{"NODEJOIN_TEST_BIN", "KUBEBUILDER_ASSETS"} {
		if dir := os.Getenv(variable); dir != "" {
			return dir, requirePrograms(variable, dir)
		}
	}
	source, err := moduleDir()
	if err != nil {
		return "", err
	}
	recipe, err := readRecipe(source)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to keep the control plane: %w", err)
	}
	dir := filepath.Join(cache, "nodejoin", multiCall+"-"+recipe.key())
	if isDir(dir) {
		return dir, nil
	}
	return dir, recipe.buildOnce(ctx, dir)
}

func requirePrograms(variable, dir string) error {
	var missing []string
	for _, program := range programs {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s=%s lacks %s; add the missing programs, or unset it and they are built",
			variable, dir, strings.Join(missing, ", "))
	}
	return nil
}

// moduleDir finds the nested module: from this file, else (built with -trimpath) upwards from the working directory.
func moduleDir() (string, error) {
	var starts []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		starts = append(starts, filepath.Dir(file))
	}
	working, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range append(starts, working) {
		for ; ; dir = filepath.Dir(dir) {
			candidate := filepath.Join(dir, controlPlaneDir)
			if _, err := os.Stat(filepath.Join(candidate, "go.mod")); err == nil {
				return candidate, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("no %s above %s; run this inside the repository, or set NODEJOIN_TEST_BIN", controlPlaneDir, working)
}

// recipe is all that decides what the binaries are.
type recipe struct {
	source string   // the module
	sum    string   // hash of its sources
	flags  []string // of go build
}

// kubernetesVersion is the line of go.mod that the version is stamped from.
var kubernetesVersion = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes v((\d+)\.(\d+)\.\S+)`)

func readRecipe(source string) (*recipe, error) {
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return nil, err
	}
	version := kubernetesVersion.FindSubmatch(mod)
	if version == nil {
		return nil, fmt.Errorf("%s/go.mod does not require k8s.io/kubernetes", source)
	}
	ldflags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		ldflags = append(ldflags, fmt.Sprintf("-X %[1]s.gitVersion=v%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
			pkg, version[1], version[2], version[3]))
	}
	sum, err := hashSources(source)
	if err != nil {
		return nil, err
	}
	flags := []string{"-trimpath", "-mod=readonly", "-buildvcs=false", "-ldflags", strings.Join(ldflags, " ")}
	return &recipe{source: source, sum: sum, flags: flags}, nil
}

// hashSources hashes go.mod, go.sum and every Go file of the module, names and contents.
func hashSources(source string) (string, error) {
	hash := sha256.New()
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if name := entry.Name(); name != "go.mod" && name != "go.sum" && filepath.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n", name, len(text))
		hash.Write(text)
		return nil
	})
	return hex.EncodeToString(hash.Sum(nil)), err
}

func (r *recipe) key() string {
	all := append([]string{r.sum, runtime.Version(), runtime.GOOS, runtime.GOARCH}, r.flags...)
	sum := sha256.Sum256([]byte(strings.Join(all, "\n")))
	return hex.EncodeToString(sum[:8])
}

// removeLeftovers removes what builds that were killed have left under a prefix. The caller holds the lock.
func removeLeftovers(prefix string) error {
	leftovers, err := filepath.Glob(prefix + "*")
	if err != nil {
		return err
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			return err
		}
	}
	return nil
}

// buildOnce builds into a directory that appears whole or not at all. A lock file beside it keeps two processes
// from building the same.
func (r *recipe) buildOnce(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return fmt.Errorf("wait for another build of the control plane: %w", err)
	}
	defer lock.Close()
	if isDir(dir) {
		return nil
	}
	building := filepath.Join(filepath.Dir(dir), ".building-"+filepath.Base(dir)+"-")
	if err := removeLeftovers(building); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "testbed: building the control plane (%s) into %s; the first time this takes about ten minutes\n",
		strings.Join(programs, ", "), dir)
	temporary, err := os.MkdirTemp(filepath.Dir(building), filepath.Base(building))
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := r.build(ctx, temporary); err != nil {
		return err
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	return os.Rename(temporary, dir)
}

func (r *recipe) build(ctx context.Context, dir string) error {
	for name, pkg := range map[string]string{multiCall: ".", reference: "./" + reference} {
		args := slices.Concat([]string{"build"}, r.flags, []string{"-o", filepath.Join(dir, name), pkg})
		build := exec.CommandContext(ctx, "go", args...)
		build.Dir = r.source
		// Compiling Kubernetes takes gigabytes of temporary space, more than a /tmp in memory has.
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOTMPDIR="+dir)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build %s in %s: %w", pkg, r.source, errors.Join(ctx.Err(), err))
		}
	}
	for _, program := range programs {
		if err := os.Symlink(multiCall, filepath.Join(dir, program)); err != nil {
			return err
		}
	}
	return nil
}

// lockFile takes an exclusive lock, for as long as the result is open.
func lockFile(ctx context.Context, path string) (io.Closer, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	waiting := false
	err = poll(ctx, func(context.Context) error {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil && !waiting {
			waiting = true
			fmt.Fprintf(os.Stderr, "testbed: waiting for %s\n", path)
		}
		return err
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
