package rotate

import (
	"os"
	"strings"
)

// hookPath is where the programs are, whatever the agent was started with.
const hookPath = `C:\Windows\System32;C:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`

// isProgram reports whether a file is one that can be run.
func isProgram(info os.FileInfo) bool {
	return info.Mode().IsRegular() && strings.EqualFold(info.Name()[max(0, len(info.Name())-4):], ".exe")
}
