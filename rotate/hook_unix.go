//go:build unix

package rotate

import "os"

// hookPath is where the programs are, whatever the agent was started with.
const hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// isProgram reports whether a file is one that can be run.
func isProgram(info os.FileInfo) bool { return !info.IsDir() && info.Mode().Perm()&0o111 != 0 }
