package rotate

import (
	"os"
	"os/exec"
	"strings"
	"time"
)

// hookPath is where the programs are, whatever the agent was started with.
const hookPath = `C:\Windows\System32;C:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`

// isProgram reports whether a file is one that can be run.
func isProgram(info os.FileInfo) bool {
	return info.Mode().IsRegular() && strings.EqualFold(info.Name()[max(0, len(info.Name())-4):], ".exe")
}

// processGroup is a command alone: what it starts is not known here.
type processGroup struct{ cmd *exec.Cmd }

func ownGroup(cmd *exec.Cmd) processGroup { return processGroup{cmd} }

// terminate ends the command. It is not asked before: a process without a console takes no signals here.
func (g processGroup) terminate() error { return g.cmd.Process.Kill() }

// kill does nothing: terminate has ended all that there is.
func (g processGroup) kill(time.Time) {}
