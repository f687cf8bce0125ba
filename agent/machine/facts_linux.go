package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk tells what is left on the file system that holds path, or that would: what does not exist yet is looked for where
// its nearest parent is. freeBytes are those that a user without privileges may fill. A file system that makes inodes as
// it needs them has no end of them.
func Disk(path string) (freeBytes, freeInodes uint64, readOnly bool, err error) {
	var stat unix.Statfs_t
	for {
		err = unix.Statfs(path, &stat)
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			break
		}
		path = filepath.Dir(path)
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("cannot look at the file system of %s: %w", path, err)
	}
	freeInodes = stat.Ffree
	if stat.Files == 0 {
		freeInodes = math.MaxUint64
	}
	return stat.Bavail * uint64(stat.Bsize), freeInodes, stat.Flags&unix.ST_RDONLY != 0, nil //nolint:gosec // a block has no negative size
}

// ClockSynchronised reports whether the kernel takes its clock for synchronised, as chrony, ntpd and systemd-timesyncd
// tell it (adjtimex(2), STA_UNSYNC). Where the hypervisor keeps the clock, nobody may have told it.
func ClockSynchronised() (synchronised, known bool) {
	var t unix.Timex // no mode: only asked
	_, err := unix.Adjtimex(&t)
	return t.Status&unix.STA_UNSYNC == 0, err == nil
}
