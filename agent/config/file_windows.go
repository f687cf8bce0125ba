package config

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// open opens a file for reading.
func open(path string) (*os.File, error) { return os.Open(path) }

// checkRights looks at nothing: there are no modes here, and who may change the file is the administrators' to say, by
// the access control list of its directory.
func checkRights(string, fs.FileInfo) (remedy string, err error) { return "", nil }

// isAbsolute takes a path of another machine's, too: an administrator writes and checks here what a node on Linux reads. It
// is the agent that wants the paths of its own files to have a drive.
func isAbsolute(file string) bool { return filepath.IsAbs(file) || path.IsAbs(file) }

func clean(file string) string {
	if path.IsAbs(file) {
		return path.Clean(file)
	}
	return filepath.Clean(file)
}
