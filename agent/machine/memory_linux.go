package machine

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// ReleaseMemory gives back to the kernel what this process does not need while it waits: memory that the last work left behind,
// and the pages of its program that were read for the start. What is needed again is read again from the page cache. A
// program of which most is used once, for years of waiting, is a third of its size in memory afterwards.
func ReleaseMemory() {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		if from, size, ok := parseMapping(line, program); ok {
			// Of a mapping that is private, from a file, and not writable, nothing can be lost (madvise(2)).
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, size, unix.MADV_DONTNEED) // where it fails the memory stays
		}
	}
}

// parseMapping reads a line of /proc/self/maps (proc_pid_maps(5)) and returns where the mapping is, if it is one of the
// program that cannot be written to.
func parseMapping(line []byte, program string) (from, size uintptr, ok bool) {
	fields := bytes.Fields(line) // address, permissions, offset, device, inode, path
	if len(fields) < 6 || string(bytes.Join(fields[5:], []byte(" "))) != program || bytes.IndexByte(fields[1], 'w') >= 0 {
		return 0, 0, false
	}
	begin, end, found := bytes.Cut(fields[0], []byte("-"))
	first, err := strconv.ParseUint(string(begin), 16, 64)
	last, wrong := strconv.ParseUint(string(end), 16, 64)
	if !found || err != nil || wrong != nil || last <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(last - first), true
}
