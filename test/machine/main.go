// Command machine proves the service, the packages and the user data on real machines: Debian trees that are booted with
// systemd and cloud-init, joining the real control plane over a network.
//
// It checks nine points, and the rpm, from outside, by what the cluster has seen and by what the machines answer, and prints a report:
// for each point the checks, what was seen, and how long it took. It ends with 1 when a check failed or a point was not reached. Each point is told
// in a file of its own.
//
// # What it needs
//
// Root on Linux, systemd-nspawn and debootstrap, namespaces, loop devices, and for the first run Debian's archive. Where
// something is missing it says what, and that nothing was tested; with NODEJOIN_TEST_ALL=1 that is a failure.
//
// # What it leaves
//
// The Debian tree, in the user's cache directory, since making it takes more than a minute. Machines are overlays on it, in a
// temporary directory. Everything else (machines, control planes, mounts, bridges) lives in namespaces of one process, and
// ends with it, however it ends. A file system that is frozen for point 6 is thawed by the outer process when the inner one is
// killed; when both are killed in that minute, it stays frozen, and what hangs in it stays until this machine starts anew.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func init() {
	runtime.LockOSThread() // the inner process is killed when the thread that started it ends; see inNamespaces
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

// setup is what the inner process is told.
type setup struct {
	dir    string // for everything that is temporary
	suite  string // the Debian release
	tree   string // a tree of it
	older  string // the package, in two versions
	newer  string
	points string // the numbers of the points to check; empty: all
	inner  bool
	began  time.Time
}

func (s *setup) flags() *flag.FlagSet {
	f := flag.NewFlagSet("machine", flag.ContinueOnError)
	f.StringVar(&s.older, "older", "", "a Debian package of nodejoin (default: it is built)")
	f.StringVar(&s.newer, "newer", "", "a newer one")
	f.StringVar(&s.suite, "suite", "bookworm", "the Debian release of the machines, for debootstrap")
	f.StringVar(&s.points, "points", "", "the points to check, as in 1,4,rpm, with all others of their stories (default: all)")
	f.BoolVar(&s.inner, "inner", false, "this is the process in namespaces of its own (used by the program itself)")
	f.StringVar(&s.dir, "dir", "", "its temporary directory")
	f.StringVar(&s.tree, "tree", "", "its Debian tree")
	return f
}

func (s *setup) args() []string {
	return []string{"-inner", "-dir=" + s.dir, "-suite=" + s.suite, "-tree=" + s.tree, "-older=" + s.older, "-newer=" + s.newer, "-points=" + s.points}
}

// wants reports whether one of some points is to be checked.
func (s *setup) wants(points ...string) bool {
	if s.points == "" {
		return true
	}
	for wanted := range strings.SplitSeq(s.points, ",") {
		if slices.ContainsFunc(points, func(number string) bool { return isOf(number, wanted) }) {
			return true
		}
	}
	return false
}

// isOf reports whether a point is the one that was asked for, or a variant of it: 3 stands for 3a and 3b.
func isOf(number, wanted string) bool {
	return number == wanted || strings.TrimRight(number, "ab") == wanted
}

// known returns an error when a point was asked for that does not exist.
func (s *setup) known() error {
	if s.points == "" {
		return nil
	}
	var all []string
	for _, one := range stories {
		all = append(all, one.points...)
	}
	slices.Sort(all)
	for wanted := range strings.SplitSeq(s.points, ",") {
		if !slices.ContainsFunc(all, func(number string) bool { return isOf(number, wanted) }) {
			return fmt.Errorf("-points: there is no point %q; there are %s", wanted, strings.Join(all, ", "))
		}
	}
	return nil
}

func run(ctx context.Context) error {
	s := &setup{began: time.Now()}
	if err := s.flags().Parse(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if err := s.known(); err != nil {
		return err
	}
	if s.inner {
		return s.test(ctx)
	}
	if missing := s.requirements(ctx); len(missing) > 0 {
		return notRun(missing)
	}
	return s.prepare(ctx)
}

// notRun says what is missing. It is a failure where every test must run.
func notRun(missing []string) error {
	text := "the machine test was NOT RUN, nothing was tested: this machine has not got\n  " + strings.Join(missing, "\n  ")
	if os.Getenv("NODEJOIN_TEST_ALL") == "1" {
		return errors.New(text + "\nand NODEJOIN_TEST_ALL=1 does not allow to leave it out")
	}
	fmt.Fprintln(os.Stderr, "machine:", text)
	return nil
}

// prepare makes what the test needs, outside of its namespaces, and starts it in them.
func (s *setup) prepare(ctx context.Context) (err error) {
	// Not in a /tmp in memory: a machine's disk is here.
	if s.dir, err = os.MkdirTemp("/var/tmp", "nodejoin-machine-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }() // the last of these functions
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.wants("rpm") {
		checked := make(chan error, 1)
		go func() { checked <- s.rpm(ctx) }()
		defer func() {
			if err != nil {
				cancel()
			}
			err = errors.Join(err, <-checked)
		}()
	}
	if s.tree, err = debianTree(ctx, s.suite); err != nil {
		return err
	}
	if s.older == "" || s.newer == "" {
		if s.older, s.newer, err = buildPackages(ctx, s.dir); err != nil {
			return err
		}
	}
	return s.inNamespaces(ctx)
}
