package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pollInterval = 25 * time.Millisecond
	// startTimeout bounds a start whose context has no deadline. It is generous: the machine may be compiling.
	startTimeout = 3 * time.Minute
	// stopTimeout is how long Stop waits between SIGTERM and SIGKILL. An API server ends in a few seconds.
	stopTimeout = 45 * time.Second
	logTail     = 40 // lines
)

// errPortInUse is the one failure of a start that is worth another attempt: somebody else had the port for a moment.
var errPortInUse = errors.New("address already in use")

// Process is one program that runs as an operating system process of its own, over any number of starts.
// Fill in the fields, then call Start. The methods may be called from several goroutines.
//
// The kernel kills the process when the test process ends in whatever way (PR_SET_PDEATHSIG), so nothing of it has
// to be cleaned up by hand. It has a process group of its own: a Ctrl-C at the terminal reaches the test process
// only, and the signals that this type sends reach the children of the process too.
type Process struct {
	Name string   // for errors and logs
	Path string   // the program
	Args []string // without the program's name; changes count from the next start on
	Env  []string // nil: the environment of the test process
	Log  string   // file that receives standard output and standard error, appended to at every start

	// PrivateMounts gives the process a mount namespace of its own (root only): what it mounts is gone when it ends.
	PrivateMounts bool

	// Prepare runs before every start, when no earlier life of the process is left. Nil: nothing is to be done.
	Prepare func() error

	// Ready is polled after a start until it returns nil. Nil: the process counts as ready once it has started.
	Ready func(ctx context.Context) error

	mu  sync.Mutex
	run *run
}

// run is one life of a process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// spawner hands commands to the one thread that starts them.
var spawner = sync.OnceValue(func() chan<- func() {
	requests := make(chan func())
	go func() {
		// PR_SET_PDEATHSIG is bound to the thread that forked, not to its process: the child is killed as soon as that
		// thread ends, and the Go runtime ends idle and locked threads as it likes. This goroutine owns a thread
		// and never returns, so "the thread ends" means "the test process ends".
		runtime.LockOSThread()
		for start := range requests {
			start()
		}
	}()
	return requests
})

// spawn starts a command so that it dies with the test process.
func spawn(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	started := make(chan error, 1)
	spawner() <- func() { started <- cmd.Start() }
	return <-started
}

// Start starts the process and waits until it is ready. The context bounds the wait, not the life of the process.
// A process that is not ready when the context ends is killed; the error holds the end of its log. Starting a
// process that runs already is an error.
func (p *Process) Start(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	for {
		err := p.startOnce(ctx)
		if !errors.Is(err, errPortInUse) {
			return err
		}
		if pause(ctx, 20*pollInterval) != nil {
			return err
		}
	}
}

func (p *Process) startOnce(ctx context.Context) error {
	logged, r, err := p.launch()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	if p.Ready == nil {
		return nil
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-r.done:
			return p.earlyEnd(r, logged)
		case <-ctx.Done():
			p.signal(r, syscall.SIGKILL)
			<-r.done
			return fmt.Errorf("%s is not ready: %w (%w); its log %s ends:\n%s", p.Name, last, ctx.Err(), p.Log, p.Tail(logTail))
		case <-tick.C:
		}
		if last = p.Ready(ctx); last == nil {
			return nil
		}
	}
}

// launch starts the program once and returns the size of the log before it.
func (p *Process) launch() (int64, *run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil && p.run.alive() {
		return 0, nil, errors.New("it runs already")
	}
	if p.Prepare != nil {
		if err := p.Prepare(); err != nil {
			return 0, nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return 0, nil, err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close() // the child has its own copy
	size, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, nil, err
	}
	cmd := exec.Command(p.Path, p.Args...) //nolint:noctx // it outlives the context of its start; Stop and Kill end it
	cmd.Env, cmd.Stdout, cmd.Stderr = p.Env, log, log
	if p.PrivateMounts {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	if err := spawn(cmd); err != nil {
		return 0, nil, err
	}
	r := &run{cmd: cmd, done: make(chan struct{})}
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	p.run = r
	return size, r, nil
}

// earlyEnd explains why a process ended before it was ready.
func (p *Process) earlyEnd(r *run, logged int64) error {
	if log, err := os.ReadFile(p.Log); err == nil && int64(len(log)) >= logged &&
		bytes.Contains(log[logged:], []byte(errPortInUse.Error())) {
		return fmt.Errorf("%s: %w", p.Name, errPortInUse)
	}
	cause := r.err
	if cause == nil {
		cause = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended before it was ready: %w; its log %s ends:\n%s", p.Name, cause, p.Log, p.Tail(logTail))
}

func (r *run) alive() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// current returns the running life, or nil.
func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil || !p.run.alive() {
		return nil
	}
	return p.run
}

// signal signals the process group, unless the process has been waited for already (its PID may be another's by then).
func (p *Process) signal(r *run, sig syscall.Signal) {
	if r.alive() {
		_ = syscall.Kill(-r.cmd.Process.Pid, sig) // ESRCH: it ended a moment ago, which is what the signal is for
	}
}

// PID returns the process ID, or 0 when the process does not run.
func (p *Process) PID() int {
	if r := p.current(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Done returns a channel that is closed when the process of the latest start has ended. Before the first start it is
// nil, which blocks for ever.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil
	}
	return p.run.done
}

// Err returns how the latest process ended: nil while it runs and after exit status 0, else what [exec.Cmd.Wait] says.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil || p.run.alive() {
		return nil
	}
	return p.run.err
}

// Stop ends the process with SIGTERM and waits for it. A process that has not ended after 45 s is killed, which is
// an error. Stopping a process that does not run is not.
func (p *Process) Stop() error {
	r := p.current()
	if r == nil {
		return nil
	}
	p.signal(r, syscall.SIGTERM)
	p.signal(r, syscall.SIGCONT) // a paused process would not see the SIGTERM
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	select {
	case <-r.done:
		return nil
	case <-deadline.C:
		p.signal(r, syscall.SIGKILL)
		<-r.done
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.Name, stopTimeout)
	}
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	if r := p.current(); r != nil {
		p.signal(r, syscall.SIGKILL)
		<-r.done
	}
}

// Pause halts the process with SIGSTOP: its sockets stay open and nothing is answered. When it returns every thread has
// stopped; the signal alone is sent before that, and a thread on another processor may answer for a moment more.
func (p *Process) Pause() error {
	if err := p.freeze(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait until %s has stopped: %w", p.Name, err)
		}
		return nil
	}
}

// Resume continues a paused process.
func (p *Process) Resume() error { return p.freeze(syscall.SIGCONT) }

func (p *Process) freeze(sig syscall.Signal) error {
	r := p.current()
	if r == nil {
		return fmt.Errorf("%s does not run", p.Name)
	}
	if err := syscall.Kill(-r.cmd.Process.Pid, sig); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// Restart stops the process and starts it again, with its data and its ports.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Tail returns the last lines of the log, or why there are none.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// pause waits for a duration or for the end of the context, whose error it returns.
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

// poll calls try until it returns nil. When the context ends first, the error holds both causes.
func poll(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ended := pause(ctx, 2*pollInterval); ended != nil {
			return fmt.Errorf("%w (%w)", err, ended)
		}
	}
}
