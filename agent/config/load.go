package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Load reads and checks a configuration file. Nobody but root and this user may be able to write to it.
//
// An error is of the class [fault.Usage], and [fs.ErrNotExist] where the file is not there. Where its content is wrong
// the error holds [Mistakes].
func Load(path string) (*File, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(data, path)
}

func read(path string) ([]byte, error) {
	refuse := func(remedy string, err error) ([]byte, error) {
		return nil, fault.New(fault.Usage, remedy, "cannot use the configuration: %w", err)
	}
	f, err := open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("write it, or name another with --config; nodejoin config print shows what can be in it", err)
	case err != nil:
		return refuse("run as root, or name another file with --config", err)
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return refuse("name another file with --config", err)
	}
	if remedy, err := checkFile(path, info); err != nil {
		return refuse(remedy, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return refuse("name another file with --config", err)
	}
	return data, nil
}

// checkFile refuses what is no file, and what another user can change.
func checkFile(path string, info fs.FileInfo) (remedy string, err error) {
	switch {
	case !info.Mode().IsRegular():
		return "name a file with --config", fmt.Errorf("%s is not a regular file", path)
	case info.Size() > MaxSize: // Parse says so of what grows meanwhile
		return "name another file with --config", fmt.Errorf("%s is larger than %d bytes", path, MaxSize)
	}
	return checkRights(path, info)
}
