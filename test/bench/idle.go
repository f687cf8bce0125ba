package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/testbed"
)

const (
	// settleFor is how long a program may go on with its start before it counts as idle: the agent gives back memory
	// when it has had nothing to do for half a minute.
	settleFor = 45 * time.Second
	// followFor is how long the agent is watched that looks at the cluster's CA bundle every second.
	followFor = 30 * time.Second

	day = 24 * time.Hour
	// looksPerDay is how often it looks at it by default.
	looksPerDay = 24
)

// idle is what a program needs that waits: the agent, and the kubelet beside which it runs. A kubelet does other
// things too; its figures tell what a node's machine is used to.
type idle struct {
	memory [2]float64 // MB resident, the most that was seen
	cpu    [2]float64 // seconds a day, extrapolated from what was seen
}

// idle keeps an agent with its metrics on, and where one can run a kubelet on its files, for a while.
func (b *bench) idle(ctx context.Context, lasting time.Duration) (*idle, error) {
	r := &idle{}
	waits, err := b.agent(ctx, "1h", lasting)
	if err != nil {
		return nil, err
	}
	follows, err := b.agent(ctx, "1s", followFor)
	if err != nil {
		return nil, err
	}
	look := max(0, follows.rate-waits.rate) // for each second one look
	r.memory[0], r.cpu[0] = waits.memory, waits.rate*day.Seconds()+look*looksPerDay
	if err := testbed.HaveContainerd(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: no kubelet to compare with:", err)
		return r, nil
	}
	kubelet, err := b.kubelet(ctx, lasting)
	if err != nil {
		return nil, err
	}
	r.memory[1], r.cpu[1] = kubelet.memory, kubelet.rate*day.Seconds()
	return r, nil
}

// need is what a process was seen to need.
type need struct {
	memory float64 // MB resident, at most
	rate   float64 // seconds of processor time per second
}

const idleConfig = `cluster: {servers: ["%[1]s"], caCertHashes: ["%[2]s"]}
nodeName: %[3]s
credentials:
- bootstrapToken: {file: %[4]s/token}
trust: {interval: %[5]s}
paths: {kubeconfig: %[4]s/kubelet.conf, certDir: %[4]s/pki, caFile: %[4]s/ca.crt, stateDir: %[4]s/state, runtimeDir: %[4]s/run}
metrics: {listen: "unix:%[4]s/metrics.sock"}
`

// agent has a machine join and watches its agent, which looks at the CA bundle as often as that.
func (b *bench) agent(ctx context.Context, interval string, lasting time.Duration) (*need, error) {
	b.count++
	node := fmt.Sprintf("node-%d", b.count)
	dir, err := os.MkdirTemp(b.cp.Dir, node+"-")
	if err != nil {
		return nil, err
	}
	token, err := b.cp.CreateToken(ctx, testbed.TokenOptions{})
	if err != nil {
		return nil, err
	}
	if err := b.cp.WaitSigned(ctx, token); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(idleConfig, b.cp.Endpoint, b.cp.ServingCA.Pin(), node, dir, interval)
	for name, text := range map[string]string{"config.yaml": config, "token": token + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	agent := &testbed.Process{
		Name: "nodejoin run", Path: b.programs[0].path, Args: []string{"run", "--config", filepath.Join(dir, "config.yaml")}, Log: filepath.Join(dir, "agent.log"),
		Ready: func(ctx context.Context) error {
			s, err := monitor.Ask(ctx, filepath.Join(dir, "run", monitor.SocketName))
			if err == nil && (len(s.Certificates) == 0 || s.Certificates[0].State != status.Valid) {
				err = errors.New("it has no valid certificate yet")
			}
			return err
		},
	}
	if err := agent.Start(ctx); err != nil {
		return nil, err
	}
	b.last = machine{dir: dir, node: node}
	needed, err := watch(ctx, agent.PID(), lasting)
	return needed, errors.Join(err, agent.Stop())
}

// kubelet watches a kubelet on the files of the last machine that an agent has joined.
func (b *bench) kubelet(ctx context.Context, lasting time.Duration) (*need, error) {
	dir := b.last.dir
	runtime, err := testbed.StartContainerd(ctx, filepath.Join(dir, "containerd"))
	if err != nil {
		return nil, err
	}
	defer runtime.Kill()
	kubelet, err := b.cp.Kubelet(ctx, testbed.KubeletOptions{
		NodeName: b.last.node, Dir: filepath.Join(dir, "kubelet"), Kubeconfig: b.last.kubeconfig(), CertDir: filepath.Join(dir, "pki"),
		ContainerRuntimeEndpoint: runtime.Endpoint,
	})
	if err != nil {
		return nil, err
	}
	defer kubelet.Kill()
	if _, err := b.cp.WaitNode(ctx, b.last.node); err != nil {
		return nil, err
	}
	return watch(ctx, kubelet.PID(), lasting)
}

// watch lets a process settle, and then looks at what it needs.
func watch(ctx context.Context, pid int, lasting time.Duration) (*need, error) {
	if err := pause(ctx, settleFor); err != nil {
		return nil, err
	}
	before, err := processorTime(pid)
	if err != nil {
		return nil, err
	}
	n, began := &need{}, time.Now()
	for time.Since(began) < lasting {
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
		resident, err := residentNow(pid)
		if err != nil {
			return nil, err
		}
		n.memory = max(n.memory, resident)
	}
	after, err := processorTime(pid)
	n.rate = float64(after-before) / float64(time.Since(began))
	return n, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processorTime returns what all threads of a process have used, those that have ended too, to the nanosecond: the clock
// that clock_getcpuclockid(3) names.
func processorTime(pid int) (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(pid)<<3|perProcess, &t); err != nil {
		return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// residentNow returns VmRSS of proc_pid_status(5) in MB.
func residentNow(pid int) (float64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	found := residentLine.FindSubmatch(bytes.TrimSpace(data))
	if found == nil {
		return 0, fmt.Errorf("process %d has no resident memory", pid)
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	return kib * 1024 / 1e6, err
}
