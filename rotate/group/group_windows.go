package group

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Group is a command and what it starts.
type Group struct {
	cmd *exec.Cmd
	job job
}

// job is a job object, which the processes of the group are in.
type job struct {
	mu     sync.Mutex
	handle windows.Handle // 0 before the start, and when it was let go of
	ended  bool           // what is put into it ends at once
}

// killed is the exit status of what was ended, as it is of [os.Process.Kill].
const killed = 1

func (g *Group) prepare() {
	g.cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_SUSPENDED}
}

// Start starts the command. It begins when it is in its job object: what it starts is in there, too.
func (g *Group) Start() error {
	handle, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return fmt.Errorf("there is no job object for it: %w", err)
	}
	g.job.mu.Lock()
	g.job.handle = handle
	g.job.mu.Unlock()
	if err := g.cmd.Start(); err != nil {
		return errors.Join(err, g.Close())
	}
	if err := g.enter(); err != nil {
		err = fmt.Errorf("it cannot be put into its job object: %w", err)
		_ = g.cmd.Process.Kill() // it has not begun
		_ = g.cmd.Wait()         // says that it was killed
		return errors.Join(err, g.Close())
	}
	return nil
}

// enter puts the command into its job object, and has it begin.
func (g *Group) enter() error {
	g.job.mu.Lock()
	defer g.job.mu.Unlock()
	var err error
	if e := g.cmd.Process.WithHandle(func(process uintptr) {
		err = windows.AssignProcessToJobObject(g.job.handle, windows.Handle(process))
	}); e != nil {
		err = e
	}
	if err != nil {
		return err
	}
	if g.job.ended { // meanwhile
		return windows.TerminateJobObject(g.job.handle, killed)
	}
	return resume(g.cmd.Process.Pid)
}

// resume has a process begin that was started suspended: its only thread.
func resume(pid int) error {
	threads, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(threads) //nolint:errcheck // nothing was changed
	entry := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	for err = windows.Thread32First(threads, &entry); err == nil; err = windows.Thread32Next(threads, &entry) {
		if int(entry.OwnerProcessID) != pid {
			continue
		}
		thread, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, entry.ThreadID)
		if err != nil {
			return err
		}
		defer windows.CloseHandle(thread) //nolint:errcheck // nothing was changed
		_, err = windows.ResumeThread(thread)
		return err
	}
	return err
}

// Close lets go of the group, which goes on.
func (g *Group) Close() error {
	g.job.mu.Lock()
	defer g.job.mu.Unlock()
	if g.job.handle == 0 {
		return nil
	}
	err := windows.CloseHandle(g.job.handle)
	g.job.handle = 0
	return err
}

// Terminate ends all of the group. None is asked before: a process without a console takes no signals here.
func (g *Group) Terminate() error { return g.Kill() }

// Kill ends all of the group. It is no error where none is left.
func (g *Group) Kill() error {
	g.job.mu.Lock()
	defer g.job.mu.Unlock()
	g.job.ended = true
	if g.job.handle == 0 {
		return nil
	}
	return windows.TerminateJobObject(g.job.handle, killed)
}

// KillAt kills what is left of the group, at once: nobody was asked to end by itself.
func (g *Group) KillAt(time.Time) {
	_ = g.Kill() // there is nothing else to try
}
