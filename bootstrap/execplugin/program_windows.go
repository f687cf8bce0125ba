package execplugin

import "io/fs"

const (
	// path is where the programs are that the plugin runs, whatever the agent was started with.
	path = `C:\Windows\System32;C:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`

	// top is nothing: a path has a drive.
	top = ""
)

func isProgram(info fs.FileInfo) bool { return info.Mode().IsRegular() }

// checkRights looks at nothing: who may change the program is the administrators' to say, by the access control lists of the
// directories that it is in.
func checkRights(string, fs.FileInfo) error { return nil }
