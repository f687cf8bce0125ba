package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodejoin/nodejoin/test/testbed"
	"github.com/nodejoin/nodejoin/test/testbed/proxy"
)

const (
	runLimit = time.Minute
	// calmFor is how long the control plane is left alone before a run, so that it has done with the token.
	calmFor = 200 * time.Millisecond
)

type bench struct {
	cp       *testbed.ControlPlane
	wire     *proxy.Proxy
	programs [2]program
	count    int     // runs so far, for names
	last     machine // where an agent was kept last
}

// result holds the figures of one scenario, by program.
type result struct {
	join, process, delayed [2][]time.Duration // until the identity is on disk; the whole process; over the slow wire
	requests, connections  [2][]float64
	memory                 [2][]float64 // MB, high-water mark of the resident set
}

// measure runs both programs in turn, so that whatever else the machine does hits both alike.
func (b *bench) measure(ctx context.Context, s scenario, runs, delayed int, r *result) error {
	if err := b.cp.PublishClusterInfo(ctx, b.cp.URL, b.cp.ServingCA.PEM); err != nil {
		return err
	}
	for i := range runs {
		for p := range b.programs {
			o, err := b.join(ctx, s, p, b.cp.Endpoint, i%5 == 0)
			if err != nil {
				return err
			}
			r.requests[p] = append(r.requests[p], float64(o.requests))
			if i%5 == 0 { // watching the memory costs time
				r.memory[p] = append(r.memory[p], o.memory)
				continue
			}
			r.join[p], r.process[p] = append(r.join[p], o.joined), append(r.process[p], o.ended)
		}
	}
	if err := b.cp.PublishClusterInfo(ctx, "https://"+b.wire.Address(), b.cp.ServingCA.PEM); err != nil {
		return err
	}
	b.wire.SetRTT(delay)
	for range delayed {
		for p := range b.programs {
			before := b.wire.Accepted()
			o, err := b.join(ctx, s, p, b.wire.Address(), false)
			if err != nil {
				return err
			}
			r.delayed[p] = append(r.delayed[p], o.joined)
			r.connections[p] = append(r.connections[p], float64(o.connections-before))
		}
	}
	return nil
}

// running is a process that is being measured.
type running struct {
	pid         int
	began       time.Time
	joined      <-chan time.Time // when the kubeconfig came
	ended       chan error
	watchMemory bool
}

// outcome is what one run showed.
type outcome struct {
	joined, ended time.Duration
	requests      int     // until the identity was on disk
	connections   int     // that the wire had accepted by then, in all
	memory        float64 // MB
}

func (b *bench) join(ctx context.Context, s scenario, p int, server string, watchMemory bool) (*outcome, error) {
	b.count++
	m := machine{node: fmt.Sprintf("node-%d", b.count), server: server, pin: b.cp.ServingCA.Pin(), caFile: b.cp.ServingCA.CertFile}
	var err error
	if m.dir, err = os.MkdirTemp(b.cp.Dir, m.node+"-"); err != nil {
		return nil, err
	}
	if m.token, err = b.cp.CreateToken(ctx, testbed.TokenOptions{}); err != nil {
		return nil, err
	}
	if err := b.cp.WaitSigned(ctx, m.token); err != nil {
		return nil, err
	}
	defer func() { _ = b.cp.DeleteToken(ctx, m.token) }() // it expires by itself
	anonymous, err := b.requests(ctx, "system:anonymous")
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, calmFor); err != nil {
		return nil, err
	}
	joined, stop, err := appears(m.dir, filepath.Base(m.kubeconfig()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stop() }() // nothing more is watched
	program := b.programs[p]
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, program.path, program.args(s, m)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	r := &running{began: time.Now(), joined: joined, ended: make(chan error, 1), watchMemory: watchMemory}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.pid = cmd.Process.Pid
	go func() { r.ended <- cmd.Wait() }()
	limit, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	o := &outcome{}
	if err := b.observe(limit, o, r); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", program.name, err, output.String())
	}
	after, err := b.requests(ctx, "system:anonymous")
	if err != nil {
		return nil, err
	}
	own, err := b.requests(ctx, "system:bootstrap:"+tokenID(m.token))
	o.requests = after - anonymous + own
	return o, err
}

// observe follows a run to its end. Between events it sleeps: a poll would take time from what is measured.
func (b *bench) observe(ctx context.Context, o *outcome, r *running) error {
	var sample <-chan time.Time
	if r.watchMemory {
		ticker := time.NewTicker(500 * time.Microsecond)
		defer ticker.Stop()
		sample = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case joined := <-r.joined:
			o.joined, o.connections = joined.Sub(r.began), b.wire.Accepted()
		case <-sample:
			o.memory = max(o.memory, residentPeak(r.pid))
		case err := <-r.ended:
			o.ended = time.Since(r.began)
			if o.joined == 0 {
				select {
				case joined := <-r.joined:
					o.joined, o.connections = joined.Sub(r.began), b.wire.Accepted()
				case <-ctx.Done():
					return errors.Join(err, errors.New("it ended without an identity"))
				}
			}
			return err
		}
	}
}

// appears tells when a file comes into a directory.
func appears(dir, name string) (<-chan time.Time, func() error, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, err
	}
	if err := watcher.Add(dir); err != nil {
		return nil, nil, errors.Join(err, watcher.Close())
	}
	seen := make(chan time.Time, 1)
	go func() {
		for event := range watcher.Events {
			if filepath.Base(event.Name) == name && event.Has(fsnotify.Create) {
				seen <- time.Now()
				return
			}
		}
	}()
	return seen, watcher.Close, nil
}

// residentPeak returns VmHWM of proc_pid_status(5) in MB, or 0 when the process has ended. The figure of wait4(2) is
// no use: it begins with the memory of the process that forked.
func residentPeak(pid int) float64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(fields[1], 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// requests counts what a user has sent.
func (b *bench) requests(ctx context.Context, user string) (int, error) {
	events, err := b.cp.AuditEvents(ctx, func(e testbed.AuditEvent) bool {
		return e.Stage == "RequestReceived" && e.User.Username == user
	})
	return len(events), err
}

func median[T int | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}
