package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// testNamespaces are those that the test has for itself. When its first process ends, the kernel ends all others in its
// process namespace, and what they mounted and connected is gone with the last of them.
const testNamespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET

// inNamespaces runs this program again, as the test itself.
func (s *setup) inNamespaces(ctx context.Context) (err error) {
	if _, err := testbed.Binaries(ctx); err != nil { // may have to be built, which needs the network
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	groups, err := ownCgroups()
	defer func() {
		for _, group := range groups {
			err = errors.Join(err, removeCgroup(group))
		}
	}()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, s.args()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: testNamespaces, Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), cgroupsVariable+"="+strings.Join(groups, ":"))
	grouped(cmd).WaitDelay = time.Minute // it stops control planes
	err = runThawing(ctx, cmd)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		err = errors.New("a check failed, or could not be made; see above")
	}
	return err
}

// enter makes the mounts of the test's own mount namespace.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// systemd-nspawn and ip keep things below /run, and nothing of this machine's own is wanted from there.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return os.Mkdir("/run/netns", 0o755)
}

// cgroupsVariable tells the inner process, as a list with colons, the cgroups that it may use.
const cgroupsVariable = "NODEJOIN_MACHINE_CGROUPS"

// ownCgroups makes a cgroup below our own, in each hierarchy that systemd uses: without one of its own, a machine would
// share its with the next one. It returns what it has made, with an error too.
func ownCgroups() ([]string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var groups []string
	for line := range strings.Lines(string(text)) {
		// hierarchy-ID:controller-list:path, see cgroups(7)
		field := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(field) != 3 || field[1] != "" && field[1] != "name=systemd" {
			continue
		}
		mounted, err := cgroupMount(field[1])
		if err != nil {
			return groups, err
		}
		if mounted == "" {
			continue
		}
		group := filepath.Join(mounted, field[2], "nodejoin-machine-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			return groups, fmt.Errorf("make a cgroup for machines: %w", err)
		}
		groups = append(groups, group)
	}
	if len(groups) == 0 {
		return nil, errors.New("no hierarchy of cgroups that systemd can use is mounted")
	}
	return groups, nil
}

// cgroupMount returns where a hierarchy is mounted: systemd's own, or, for "", that of version 2.
func cgroupMount(controller string) (string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS, see proc(5)
		before, after, _ := strings.Cut(lines.Text(), " - ")
		front, back := strings.Fields(before), strings.Fields(after)
		if len(front) < 5 || len(back) < 3 {
			continue
		}
		if controller == "" && back[0] == "cgroup2" || controller != "" && back[0] == "cgroup" && slices.Contains(strings.Split(back[2], ","), controller) {
			return front[4], nil
		}
	}
	return "", lines.Err()
}

// removeCgroup removes a cgroup and those below it. Its processes have been killed, but may take a moment to be gone.
func removeCgroup(group string) error {
	var err error
	for range 50 {
		if err = removeTree(group); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(group) // of a directory whose files cannot be removed
}
