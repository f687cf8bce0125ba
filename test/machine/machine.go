package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// machine is a Debian tree that systemd-nspawn boots, with a host name and an address of its own.
type machine struct {
	name    string
	address string
	root    string   // its files, whether it runs or not
	dir     string   // for what is beside it
	binds   []string // PATH:PATH-IN-IT
	groups  []string // cgroups
	id      string   // machine ID
	process *testbed.Process
	pid     int // of its systemd; 0: it does not run
}

// hardware is what makes machines.
type hardware struct {
	dir, tree string
	groups    []string
	network   *network
}

// machine makes one, switched off.
func (h *hardware) machine(ctx context.Context, name string) (*machine, error) {
	dir := filepath.Join(h.dir, "machines", name)
	m := &machine{name: name, dir: dir, root: filepath.Join(dir, "root")}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	m.id = hex.EncodeToString(id)
	if err := m.furnish(ctx, h.tree); err != nil {
		return nil, fmt.Errorf("make the machine %s: %w", name, err)
	}
	for _, group := range h.groups {
		m.groups = append(m.groups, filepath.Join(group, name))
		if err := os.Mkdir(filepath.Join(group, name), 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if m.address, err = h.network.connect(ctx, name); err != nil {
		return nil, fmt.Errorf("connect the machine %s: %w", name, err)
	}
	return m, nil
}

// furnish gives the machine a disk: an overlay, or, on a file system that cannot carry one, a copy.
func (m *machine) furnish(ctx context.Context, tree string) error {
	upper, work := filepath.Join(m.dir, "upper"), filepath.Join(m.dir, "work")
	for _, dir := range []string{m.root, upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + tree + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", m.root, "overlay", 0, options); err != nil {
		_, err = command(ctx, "cp", "--archive", "--reflink=auto", tree+"/.", m.root)
		return err
	}
	return nil
}

// write writes a file of the machine.
func (m *machine) write(path, content string, mode fs.FileMode) error {
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // of one that was there
}

// copyIn copies a file of this machine's into the machine.
func (m *machine) copyIn(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return m.write(to, string(content), 0o644)
}

// read reads a file of the machine.
func (m *machine) read(path string) (string, error) {
	content, err := os.ReadFile(filepath.Join(m.root, path))
	return string(content), err
}

// seed gives the machine what a cloud would: its name and its user data
// (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html).
func (m *machine) seed(userData string) error { return m.seedAs(m.name, userData) }

// seedAs gives it another host name than its own.
func (m *machine) seedAs(hostname, userData string) error {
	const dir = "/var/lib/cloud/seed/nocloud"
	return errors.Join(
		m.write(dir+"/meta-data", "instance-id: "+m.name+"-1\nlocal-hostname: "+hostname+"\n", 0o644),
		m.write(dir+"/user-data", userData, 0o600))
}

// boot switches the machine on, and returns when its systemd answers.
func (m *machine) boot(ctx context.Context) error {
	args := []string{
		"systemd-nspawn", "--quiet", "--directory=" + m.root, "--machine=" + m.name, "--uuid=" + m.id, "--boot",
		"--register=no", "--keep-unit", "--console=pipe", "--network-namespace-path=/run/netns/" + m.name,
		// What a kubelet in it needs.
		"--bind=/dev/null:/dev/kmsg", "--capability=all",
	}
	for _, bind := range m.binds {
		args = append(args, "--bind="+bind)
	}
	// The shell moves itself to the machine's cgroups and becomes systemd-nspawn.
	var script strings.Builder
	for _, group := range m.groups {
		fmt.Fprintf(&script, "echo 0 >%s/cgroup.procs && ", group)
	}
	m.process = &testbed.Process{
		Name: "the machine " + m.name, Path: "/bin/sh",
		Args: append([]string{"-c", script.String() + `exec "$@"`, "sh"}, args...),
		Log:  filepath.Join(m.dir, "console.log"), Env: cleanEnvironment,
	}
	if err := m.process.Start(ctx); err != nil {
		return err
	}
	err := eventually(ctx, func() (err error) {
		m.pid, err = initOf(m.process.PID())
		return err
	})
	if err == nil {
		err = eventually(ctx, func() error {
			_, err := m.run(ctx, "systemctl", "show", "--property=Version")
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("boot %s: %w; its console:\n%s", m.name, err, m.process.Tail(10))
	}
	return nil
}

// initOf returns the process that is the first in the container of a systemd-nspawn.
func initOf(nspawn int) (int, error) {
	if nspawn == 0 {
		return 0, errors.New("systemd-nspawn has ended")
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", nspawn, nspawn))
	if err != nil {
		return 0, err
	}
	for field := range strings.FieldsSeq(string(text)) {
		status, err := os.ReadFile("/proc/" + field + "/status")
		if err != nil {
			continue
		}
		// The child that is number 1 in its own namespace, once it has become systemd.
		if bytes.Contains(status, []byte("Name:\tsystemd\n")) && isFirst(string(status)) {
			return strconv.Atoi(field)
		}
	}
	return 0, errors.New("its systemd has not started")
}

// isFirst reports whether a process is the first one of its namespace, by its /proc/PID/status.
func isFirst(status string) bool {
	for line := range strings.Lines(status) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// forceRestart is the exit status with which systemd-nspawn asks for another start (--keep-unit): the machine reboots.
const forceRestart = 133

// reboot has the machine reboot itself.
func (m *machine) reboot(ctx context.Context) error {
	status, err := m.end(ctx, "reboot")
	if err == nil && status != forceRestart {
		err = fmt.Errorf("%s ended with status %d instead of rebooting", m.name, status)
	}
	if err != nil {
		return err
	}
	return m.boot(ctx)
}

// powerOff has the machine switch itself off.
func (m *machine) powerOff(ctx context.Context) error {
	status, err := m.end(ctx, "poweroff")
	if err == nil && status != 0 {
		err = fmt.Errorf("%s was switched off with status %d", m.name, status)
	}
	return err
}

func (m *machine) end(ctx context.Context, verb string) (status int, err error) {
	done := m.process.Done()
	if _, err := m.run(ctx, "systemctl", "--no-block", verb); err != nil {
		return 0, err
	}
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-deadline.C:
		return 0, fmt.Errorf("%s does not end after systemctl %s", m.name, verb)
	}
	m.pid = 0
	err = m.process.Err()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// cleanEnvironment is what programs in machines get.
var cleanEnvironment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TERM=dumb", "HOME=/root"}

// command makes a command that runs in the machine.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := grouped(exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.pid), "--all", "--"}, args...)...))
	cmd.Env = cleanEnvironment
	return cmd
}

// run runs a program in the machine and returns its standard output.
func (m *machine) run(ctx context.Context, args ...string) (string, error) {
	if m.pid == 0 {
		return "", fmt.Errorf("%s does not run", m.name)
	}
	stdout, err := output(m.command(ctx, args...))
	if err != nil {
		err = fmt.Errorf("%s$ %w", m.name, err)
	}
	return stdout, err
}

// shell runs a line of sh in the machine.
func (m *machine) shell(ctx context.Context, line string) (string, error) {
	return m.run(ctx, "sh", "-c", line)
}
