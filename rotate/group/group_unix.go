//go:build unix

package group

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Group is a command and what it starts.
type Group struct{ cmd *exec.Cmd }

func (g *Group) prepare() { g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Start starts the command.
func (g *Group) Start() error { return g.cmd.Start() }

// Close lets go of the group, which goes on.
func (*Group) Close() error { return nil }

// Terminate asks all of the group to end. The error is [os.ErrProcessDone] where none is left.
func (g *Group) Terminate() error { return g.signal(syscall.SIGTERM) }

// Kill ends all of the group, as Terminate does but unasked.
func (g *Group) Kill() error { return g.signal(syscall.SIGKILL) }

// KillAt waits for the group to be empty, and at the deadline kills what is left of it. The command itself has been waited
// for: as long as the group has a process, nothing else gets its number.
func (g *Group) KillAt(deadline time.Time) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for g.signal(0) == nil {
		if !time.Now().Before(deadline) {
			// It fails where the last one has just gone.
			_ = g.Kill()
			return
		}
		<-tick.C
	}
}

func (g *Group) signal(signal syscall.Signal) error {
	err := syscall.Kill(-g.cmd.Process.Pid, signal)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
