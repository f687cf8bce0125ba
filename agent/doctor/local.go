package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/machine"
	"github.com/nodejoin/nodejoin/csr"
)

// unit is the name of the agent's service.
const unit = "nodejoin.service"

func thisHost() host {
	return host{
		proc: "/proc", systemd: "/run/systemd/system", systemctl: "systemctl", config: "/etc/nodejoin/config.yaml",
		// A container manager's are in /run/host.
		credentials: []string{"/run/credentials/@system", "/run/host/credentials", "/etc/credstore", "/run/credstore", "/usr/lib/credstore"},
		encrypted:   []string{"/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/lib/credstore.encrypted"},
		name:        os.Hostname, clock: machine.ClockSynchronised, resolver: net.DefaultResolver,
	}
}

const otherMachine = "the files below --root are not those of the machine that runs this"

func (e *examination) checkName(f *findings) {
	if _, err := csr.ParseNodeName(e.Node); err != nil {
		f.fail(Failure, err, "give another one with --node-name")
		return
	}
	name, err := e.host.name()
	switch {
	case err != nil:
		f.add(Warning, "give the machine a name: hostnamectl set-hostname NAME", "this host has no name: %s", err)
	case e.elsewhere():
		f.ok("the node's name is %q", e.Node)
	case !strings.EqualFold(name, e.Node):
		f.ok("the node's name is %q, and that of this host %q", e.Node, name)
	default:
		f.ok("the node's name %q is that of this host", e.Node)
	}
}

func (e *examination) checkKubelet(f *findings) {
	if e.KubeletConfig == "" {
		f.skip("the kubelet's configuration file is not known")
		return
	}
	k, err := machine.ReadKubelet(e.KubeletConfig, e.Paths.Root, e.host.proc, e.on(e.Paths.Kubeconfig))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.skip("no kubelet runs, and %s is missing", e.on(e.KubeletConfig))
		return
	case err != nil:
		f.fail(Warning, err, "look at the kubelet's configuration and its log")
		return
	}
	e.checkOwnerOfRotation(f, k)
	e.checkServing(f, k)
	if k.Process != nil {
		e.checkProcess(f, k)
	} else if !e.elsewhere() {
		f.skip("how the kubelet was started, since none runs")
	}
}

// checkOwnerOfRotation looks whether somebody, and not more than one, rotates the client certificate.
func (e *examination) checkOwnerOfRotation(f *findings, k *machine.Kubelet) {
	switch rotates, why := k.RotatesItself(); {
	case e.Rotation == "agent" && rotates:
		f.add(Warning, "set rotateCertificates: false in the kubelet's configuration and restart it ("+fault.Restart("kubelet")+"), or set rotation: kubelet in nodejoin's",
			"both the agent and the kubelet are to rotate the client certificate: %s", why)
	case e.Rotation == "kubelet" && !rotates:
		f.add(Failure, "set rotateCertificates: true in the kubelet's configuration and restart it ("+fault.Restart("kubelet")+"), or set rotation: agent in nodejoin's",
			"nobody rotates the client certificate: the agent leaves it to the kubelet, and %s", why)
	case rotates:
		f.ok("the kubelet rotates the client certificate: %s", why)
	default:
		f.ok("the agent rotates the client certificate: %s", why)
	}
}

// checkServing looks the same of the serving certificate, and whether the kubelet reads the one that is kept for it.
func (e *examination) checkServing(f *findings, k *machine.Kubelet) {
	if len(e.Serving) == 0 {
		return
	}
	requests, why := k.RotatesServing()
	switch {
	case requests:
		f.add(Warning, "set serverTLSBootstrap: false in the kubelet's configuration and restart it, or take kubelet-serving out of nodejoin's",
			"both the agent and the kubelet are to keep the kubelet's serving certificate: %s", why)
	case !slices.Contains(e.Serving, k.TLSCertFile):
		f.add(Warning, fmt.Sprintf("set tlsCertFile: %[1]s and tlsPrivateKeyFile: %[1]s in the kubelet's configuration and restart it", e.Serving[0]),
			"the kubelet does not read the serving certificate that the agent keeps for it: its tlsCertFile is %q", k.TLSCertFile)
	default:
		f.ok("the kubelet reads the serving certificate that the agent keeps for it")
	}
}

// checkProcess looks whether the kubelet that runs is on the files that are kept for it.
func (e *examination) checkProcess(f *findings, k *machine.Kubelet) {
	p := k.Process
	own, rotates := e.on(e.Paths.Kubeconfig), k.RotateCertificates
	switch kubeconfig := p.Kubeconfig(); {
	case kubeconfig == "":
		f.add(Warning, "start it with --kubeconfig="+own, "the kubelet that runs (PID %d) uses no kubeconfig: it belongs to no cluster", p.PID)
	case !sameFile(kubeconfig, own):
		level := Failure
		if rotates {
			level = Warning
		}
		f.add(level, "start it with --kubeconfig="+own+", or give nodejoin --kubeconfig="+kubeconfig, "the kubelet that runs (PID %d) uses %s and not %s", p.PID, kubeconfig, own)
	default:
		f.ok("the kubelet runs (PID %d) with %s", p.PID, own)
	}
	if dir := p.CertDir(); rotates && !sameFile(dir, e.on(e.Paths.CertDir)) {
		f.add(Warning, "give nodejoin --cert-dir="+dir, "the kubelet that runs (PID %d) keeps its certificates in %s and not in %s", p.PID, dir, e.on(e.Paths.CertDir))
	}
	host, err := e.host.name()
	switch name := p.NodeName(); {
	case name != "" && name != e.Node:
		f.add(Failure, "start it with --hostname-override="+e.Node+", or join as that node: nodejoin join --force --node-name="+name, "the kubelet that runs (PID %d) is the node %q, and the certificate is for %q", p.PID, name, e.Node)
	case name == "" && err == nil && !strings.EqualFold(host, e.Node):
		f.add(Warning, "start it with --hostname-override="+e.Node, "the kubelet that runs (PID %d) takes this host's name %q for the node's, unless a cloud provider tells it another, and the certificate is for %q", p.PID, host, e.Node)
	}
}

func sameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	left, err := os.Stat(a)
	if err != nil {
		return false
	}
	right, err := os.Stat(b)
	return err == nil && os.SameFile(left, right)
}

// checkService asks systemd about the agent's unit.
func (e *examination) checkService(ctx context.Context, f *findings) {
	if e.elsewhere() {
		f.skip(otherMachine)
		return
	}
	if _, err := os.Stat(e.host.systemd); err != nil {
		f.skip("systemd does not run here")
		return
	}
	properties, err := e.unitProperties(ctx)
	if err != nil {
		f.add(Warning, "systemctl status "+unit, "cannot ask systemd: %s", err)
		return
	}
	state := properties["ActiveState"]
	switch {
	case properties["LoadState"] == "not-found":
		f.add(Warning, "nodejoin service install && nodejoin service start, or run \"nodejoin run\" some other way that starts it at boot", "systemd has no unit %s: nothing keeps this machine's certificate after the next boot", unit)
	case properties["LoadState"] == "masked":
		f.add(Failure, "systemctl unmask "+unit, "%s is masked: it cannot be started", unit)
	case state == "failed":
		f.add(Failure, "look at its last words, then start it: journalctl --unit "+unit+" --lines 20; systemctl restart "+unit, "%s has failed (%s)", unit, properties["Result"])
	case state != "active" && state != "reloading" && state != "activating":
		e.checkStopped(f, state, properties["Result"])
	default:
		f.ok("%s is %s%s", unit, state, statusOf(properties["StatusText"]))
		if enabled := properties["UnitFileState"]; enabled == "disabled" || enabled == "indirect" {
			f.add(Warning, "systemctl enable "+unit, "%s is not started at boot (%s)", unit, enabled)
		}
	}
}

// checkStopped tells of a unit that does not run. That is how a package leaves it for whoever writes the configuration, and looks
// at it with this program before its first start: no failure, as long as the agent has kept no identity here.
func (e *examination) checkStopped(f *findings, state, result string) {
	level := Failure
	if clean := result == "" || result == "success" || result == skippedStart; clean && state == "inactive" && e.neverKept() {
		level = Warning
	}
	if result == skippedStart && saysNothing(e.host.config) {
		f.add(level, "write it (see nodejoin-config(5)), then: systemctl start "+unit, "%s was not started: there is nothing in %s", unit, e.host.config)
		return
	}
	f.add(level, "systemctl enable --now "+unit, "%s does not run (%s)", unit, state)
}

// skippedStart is the result of a unit whose last start its ExecCondition= has skipped (systemd.service(5)).
const skippedStart = "exec-condition"

// something is what the unit's ExecCondition= looks for, and the packages' scripts: a line that is no comment.
var something = regexp.MustCompile(`(?m)^[[:space:]]*[^#[:space:]]`)

// saysNothing reports whether the unit is not started with this configuration file. One that cannot be read is none of these.
func saysNothing(path string) bool {
	content, err := os.ReadFile(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !something.Match(content)
}

// neverKept reports whether the agent has not kept an identity on this machine until now: there is none, or it is of somebody
// else, whom the agent is to follow.
func (e *examination) neverKept() bool {
	return e.Disk != nil && e.Disk.PairErr == nil && (e.Disk.Pair == nil || e.Disk.Cluster == nil)
}

func statusOf(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// systemctlLimit is for a systemd that does not answer.
const systemctlLimit = 5 * time.Second

// systemctl asks systemctl something of the unit, and returns what it prints.
func (e *examination) systemctl(ctx context.Context, verb string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, systemctlLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.host.systemctl, slices.Concat([]string{verb, unit}, args)...) //nolint:gosec // always systemctl, but in tests
	cmd.WaitDelay = time.Second
	output, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("no answer within %s", systemctlLimit)
	}
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok && len(failed.Stderr) != 0 {
			return "", errors.New(string(failed.Stderr))
		}
		return "", err
	}
	return string(output), nil
}

func (e *examination) unitProperties(ctx context.Context) (map[string]string, error) {
	output, err := e.systemctl(ctx, "show", "--property=LoadState,ActiveState,UnitFileState,Result,StatusText")
	if err != nil {
		return nil, err
	}
	properties := map[string]string{}
	for line := range strings.Lines(output) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[name] = value
	}
	return properties, nil
}

// checkLock looks who holds this machine's identity. The kernel's list of locks is read: to try the lock, if only for an
// instant, could turn away an agent that starts at that instant.
func (e *examination) checkLock(ctx context.Context, f *findings) {
	if e.elsewhere() || e.Paths.StateDir == "" {
		f.skip(otherMachine)
		return
	}
	locks, err := os.ReadFile(filepath.Join(e.host.proc, "locks"))
	if err != nil {
		f.skip("who holds a lock cannot be found out here")
		return
	}
	info, err := os.Stat(e.on(e.Paths.StateDir))
	device, inode, ok := numberOf(info)
	if err != nil || !ok {
		f.ok("no agent holds this machine: there is no %s", e.on(e.Paths.StateDir))
		return
	}
	pid := e.holder(string(locks), device, inode)
	if pid == 0 {
		f.ok("no agent holds this machine")
		return
	}
	program, arguments := e.commandOf(pid)
	switch {
	case program != "nodejoin":
		f.add(Failure, fmt.Sprintf("see what it is: ps -fp %d", pid), "%s is locked by another program: %s (PID %d)", e.on(e.Paths.StateDir), program, pid)
	case !slices.Contains(arguments, "run"):
		f.add(Warning, "wait for it", "another nodejoin is at work on this machine (PID %d)", pid)
	case !e.answers(ctx):
		f.add(Warning, "see what it says: "+fault.Log()+"; if it hangs: nodejoin service restart", "the agent runs (PID %d) but does not answer at %s", pid, e.socket())
	default:
		f.ok("the agent runs (PID %d) and answers", pid)
	}
}

// holder returns the process that holds the flock(2) of a file, 0 if none does: "1: FLOCK ADVISORY WRITE PID
// MAJOR:MINOR:INODE 0 EOF" (proc_locks(5)). Some file systems give their files another device than they have themselves,
// and the list has the latter: there the inode must do, if it is a nodejoin that holds it.
func (e *examination) holder(locks string, device, inode uint64) int {
	exact := fmt.Sprintf("%02x:%02x:%d", major(device), minor(device), inode)
	for line := range strings.Lines(locks) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" { // one that waits has "->" there
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(inode, 10)) {
			continue
		}
		if program, _ := e.commandOf(pid); fields[5] == exact || program == "nodejoin" {
			return pid
		}
	}
	return 0
}

// major and minor take a device's number apart as Linux's makedev(3) has put it together.
func major(device uint64) uint64 { return device>>8&0xfff | device>>32&^0xfff }
func minor(device uint64) uint64 { return device&0xff | device>>12&^0xff }

// commandOf returns a process's name and its arguments.
func (e *examination) commandOf(pid int) (program string, arguments []string) {
	dir := filepath.Join(e.host.proc, strconv.Itoa(pid))
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return "an unknown program", nil
	}
	commandLine, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return strings.TrimSpace(string(name)), nil
	}
	return strings.TrimSpace(string(name)), strings.Split(strings.TrimSuffix(string(commandLine), "\x00"), "\x00")
}

func (e *examination) socket() string { return filepath.Join(e.on(e.RuntimeDir), "nodejoin.sock") }

// answers reports whether the agent's socket accepts a connection.
func (e *examination) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", e.socket())
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to be opened
	return true
}

func (e *examination) checkWatching(f *findings) {
	const otherwise = "changes of files are then noticed by the minute check alone"
	if e.elsewhere() {
		f.skip(otherMachine)
		return
	}
	switch limit, err := tryWatching(); {
	case errors.Is(err, errors.ErrUnsupported):
		f.skip("there is no inotify here")
	case limit != "":
		f.add(Warning, "raise it: sysctl --write "+limit+"=...; keep it in /etc/sysctl.d/", "the limit %s is reached: %s", limit, otherwise)
	case err != nil:
		f.add(Warning, "see what the kernel says: dmesg", "file events do not work (%s): %s", err, otherwise)
	default:
		f.ok("file events work")
	}
}

func (e *examination) checkHooks(f *findings) {
	if len(e.Hooks) == 0 {
		f.skip("there are none")
	}
	for _, hook := range e.Hooks {
		switch {
		case e.elsewhere():
			f.skip(otherMachine)
			return
		case len(hook.Command) == 0:
			f.add(Failure, "give it a command", "the hook %q has no command", hook.Name)
			continue
		}
		if path, err := exec.LookPath(hook.Command[0]); err != nil {
			f.add(Warning, "install it, or mend the path in the configuration", "the hook %q cannot be run: %s", hook.Name, cause(err, 0))
		} else {
			f.ok("the hook %q runs %s", hook.Name, path)
		}
	}
}
