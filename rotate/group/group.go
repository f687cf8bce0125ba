// Package group runs a command so that it can be ended with all that it has started, on each operating system.
//
// # What it promises
//
// A group holds the command and what that starts, and what those start: a process group on Unix, which a process can leave by
// setsid(2) or setpgid(2), and a job object on Windows, which none can leave. The command is in it before its first instruction.
// Processes of a group that nobody ends go on when the command has ended.
//
// # How it fails
//
// With the error of the operating system, without a class. A command that cannot be put into its group does not run.
package group

import "os/exec"

// New gives a command that is not started yet a group of its own. [Group.Start] starts it; what [exec.Cmd] offers beside serves as
// ever.
func New(cmd *exec.Cmd) *Group {
	g := &Group{cmd: cmd}
	g.prepare()
	return g
}
