package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// platform is what Go compiles for, and what dpkg's and rpm's architectures are named after by nfpm.
type platform struct{ os, arch, arm string }

func (p platform) String() string { return strings.TrimSuffix(p.os+"/"+p.arch+"/v"+p.arm, "/v") }

// platforms are those of a release.
var platforms = []platform{
	{os: "linux", arch: "amd64"},
	{os: "linux", arch: "arm64"},
	{os: "linux", arch: "arm", arm: "7"},
	{os: "linux", arch: "ppc64le"},
	{os: "linux", arch: "s390x"},
	{os: "linux", arch: "riscv64"},
	{os: "darwin", arch: "amd64"},
	{os: "darwin", arch: "arm64"},
	{os: "windows", arch: "amd64"},
}

var formats = []string{"deb", "rpm", "archive", "sbom"}

// release is what is made, and of what.
type release struct {
	source    string // the root of the repository
	out       string
	version   string // as the program tells it
	packaged  string // as dpkg and rpm compare it
	ldflags   string
	date      time.Time // of the commit: every time in the packages
	platforms []platform
	formats   []string
	stderr    io.Writer
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	r, err := parse(args, stderr)
	if err == nil {
		err = r.prepare()
	}
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "nodejoin-packages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)     //nolint:errcheck // in the directory for temporary files
	common, err := r.documents() //nolint:contextcheck // the commands are described, not executed
	if err != nil {
		return err
	}
	for _, p := range r.platforms {
		if err := r.platform(ctx, p, common, temp); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return writeSums(r.out)
}

func parse(args []string, stderr io.Writer) (*release, error) {
	r := &release{source: ".", stderr: stderr}
	flags := flag.NewFlagSet("packages", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&r.out, "out", "dist", "directory to write to; what a former run left there is removed")
	flags.StringVar(&r.version, "version", "", "version, as git describe tells it")
	flags.StringVar(&r.ldflags, "ldflags", "", "flags for the linker")
	epoch := flags.Int64("epoch", 0, "time of the commit, in seconds since 1970")
	only := flags.String("platforms", "", "OS/ARCH of those to build for, instead of all")
	kinds := flags.String("formats", strings.Join(formats, " "), "what to make")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if *epoch <= 0 {
		return nil, errors.New("the time of the commit is not known: outside a git checkout, set SOURCE_DATE_EPOCH")
	}
	r.date = time.Unix(*epoch, 0).UTC()
	var err error
	if r.packaged, err = packageVersion(r.version, r.date); err != nil {
		return nil, err
	}
	for kind := range strings.FieldsSeq(*kinds) {
		if !slices.Contains(formats, kind) {
			return nil, fmt.Errorf("the format %q is not known: there are %s", kind, strings.Join(formats, ", "))
		}
		r.formats = append(r.formats, kind)
	}
	r.platforms, err = choose(*only)
	return r, err
}

// choose returns the platforms of a list; all for an empty one.
func choose(list string) ([]platform, error) {
	names := strings.Fields(list)
	if len(names) == 0 {
		return platforms, nil
	}
	var chosen []platform
	for _, name := range names {
		i := slices.IndexFunc(platforms, func(p platform) bool { return p.os+"/"+p.arch == name || p.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("the platform %q is not among those of a release: %v", name, platforms)
		}
		chosen = append(chosen, platforms[i])
	}
	return chosen, nil
}

// prepare leaves nothing of a former run in the output directory, and touches nothing else in it.
func (r *release) prepare() error {
	if err := os.MkdirAll(r.out, 0o755); err != nil { //nolint:gosec // for everybody to read
		return err
	}
	former, err := filepath.Glob(filepath.Join(r.out, ownNames))
	if err != nil {
		return err
	}
	for _, path := range append(former, filepath.Join(r.out, sumsName), filepath.Join(r.out, sumsName+".asc")) { // its signature
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *release) platform(ctx context.Context, p platform, common []document, temp string) error {
	packages := p.os == "linux" && (slices.Contains(r.formats, "deb") || slices.Contains(r.formats, "rpm"))
	archive, materials := slices.Contains(r.formats, "archive"), slices.Contains(r.formats, "sbom")
	if !packages && !archive && !materials {
		return nil
	}
	binary := filepath.Join(temp, strings.ReplaceAll(p.String(), "/", "-"), "nodejoin")
	if err := r.build(ctx, p, binary); err != nil {
		return err
	}
	if materials {
		if err := r.billOfMaterials(ctx, p, binary); err != nil {
			return fmt.Errorf("bill of materials: %w", err)
		}
	}
	if archive {
		if err := r.archive(p, binary, common); err != nil {
			return err
		}
	}
	if !packages {
		return nil
	}
	stage := filepath.Join(filepath.Dir(binary), "tree")
	if err := r.stage(stage, binary, common); err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		if !slices.Contains(r.formats, format) {
			continue
		}
		if err := r.nfpm(ctx, p, format, stage); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Dir(binary))
}

// build compiles the program: static, without a path of this machine and without what go build reads from git.
func (r *release) build(ctx context.Context, p platform, binary string) error {
	fmt.Fprintln(r.stderr, "building for", p)
	goCommand := os.Getenv("GO")
	if goCommand == "" {
		goCommand = "go"
	}
	cmd := exec.CommandContext(ctx, goCommand, "build", "-trimpath", "-buildvcs=false", "-ldflags", r.ldflags, "-o", binary, "./agent/cmd/nodejoin") //nolint:gosec // the caller's go
	cmd.Dir = r.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch, "GOARM="+p.arm)
	return said(cmd)
}

// nfpm makes one package of the tree.
func (r *release) nfpm(ctx context.Context, p platform, format, stage string) error {
	out, err := filepath.Abs(r.out)
	if err != nil {
		return err
	}
	cmd, err := r.tool(ctx, "github.com/goreleaser/nfpm/v2/cmd/nfpm", "package", "--config", "nfpm-"+format+".yaml", "--packager", format, "--target", out)
	if err != nil {
		return err
	}
	cmd.Dir = stage
	cmd.Env = append(cmd.Environ(), "ARCH="+p.arch+p.arm, "PACKAGE_VERSION="+r.packaged, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
	return said(cmd)
}

// tool returns a command that packaging/tools pins.
func (r *release) tool(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	script, err := filepath.Abs(filepath.Join(r.source, ".ci", "tool"))
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, script, append([]string{"packaging/tools", name}, args...)...), nil //nolint:gosec // a script of the repository
}

// said runs a program; what it printed is a part of its error.
func said(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}
