package doctor

import (
	"errors"

	"golang.org/x/sys/unix"
)

// tryWatching watches a directory for an instant. limit is the kernel's that keeps it from that, "" if it is none.
func tryWatching() (limit string, err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if errors.Is(err, unix.EMFILE) {
		return "fs.inotify.max_user_instances", err
	}
	if err != nil {
		return "", err
	}
	_, err = unix.InotifyAddWatch(fd, "/", unix.IN_DELETE_SELF)
	err = errors.Join(err, unix.Close(fd))
	if errors.Is(err, unix.ENOSPC) {
		return "fs.inotify.max_user_watches", err
	}
	return "", err
}
