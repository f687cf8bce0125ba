//go:build unix

package rotate

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// hookPath is where the programs are, whatever the agent was started with.
const hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// isProgram reports whether a file is one that can be run.
func isProgram(info os.FileInfo) bool { return !info.IsDir() && info.Mode().Perm()&0o111 != 0 }

// processGroup is the group of a command and of what it starts.
type processGroup struct{ cmd *exec.Cmd }

// ownGroup gives a command that is not started yet a process group of its own.
func ownGroup(cmd *exec.Cmd) processGroup {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return processGroup{cmd}
}

// terminate asks all of the group to end.
func (g processGroup) terminate() error {
	if err := g.signal(syscall.SIGTERM); errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	} else if err != nil {
		return err
	}
	return nil
}

// kill waits for the group to be empty, and at the deadline kills what is left of it. The command itself has been waited
// for: as long as the group has a process, nothing else gets its number.
func (g processGroup) kill(deadline time.Time) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for g.signal(0) == nil {
		if !time.Now().Before(deadline) {
			// It fails where the last one has just gone.
			_ = g.signal(syscall.SIGKILL)
			return
		}
		<-tick.C
	}
}

func (g processGroup) signal(signal syscall.Signal) error {
	return syscall.Kill(-g.cmd.Process.Pid, signal)
}
