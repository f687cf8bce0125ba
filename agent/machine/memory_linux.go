package machine

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseMemory gives back to the kernel what this process does not need while it waits: memory that the last work left behind,
// and the pages of its program that were read for the start. What is needed again is read again from the page cache. A
// program of which most is used once, for years of waiting, is a third of its size in memory afterwards.
func ReleaseMemory() {
	var unwritten []*mapping
	program, err := os.Readlink("/proc/self/exe")
	if maps, unreadable := os.ReadFile("/proc/self/smaps"); err == nil && unreadable == nil {
		for _, m := range parseMappings(maps) {
			if m.path == program && m.isAsInFile() {
				unwritten = append(unwritten, m)
			}
		}
	}
	debug.FreeOSMemory()
	for _, m := range unwritten {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.size, unix.MADV_DONTNEED) // where it fails the memory stays
	}
}

// mapping is one of /proc/self/smaps (proc_pid_smaps(5)).
type mapping struct {
	from, size  uintptr
	permissions string
	path        string
	anonymous   string // kB in pages that are no longer those of a file, as it is told; "" if it is not
	swap        string // kB in such pages that are swapped out
}

// isAsInFile reports whether nothing can be lost of a private mapping of a file when its pages are given back
// (MADV_DONTNEED of madvise(2)): it cannot be written to, and never was. What the loader has relocated is read-only
// afterwards, in a program that is position-independent, and yet is no longer what is in the file.
func (m *mapping) isAsInFile() bool {
	return strings.HasSuffix(m.permissions, "p") && !strings.Contains(m.permissions, "w") && m.anonymous == "0" && m.swap == "0"
}

// parseMappings reads /proc/self/smaps: for each mapping a line with its address, permissions, offset, device, inode and
// path if it has one, and then one for each of its sizes.
func parseMappings(text []byte) []*mapping {
	var all []*mapping
	m := &mapping{}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		switch {
		case len(fields) < 2:
		case string(fields[0]) == "Anonymous:":
			m.anonymous = string(fields[1])
		case string(fields[0]) == "Swap:":
			m.swap = string(fields[1])
		case !bytes.HasSuffix(fields[0], []byte(":")):
			m = &mapping{permissions: string(fields[1]), path: string(bytes.Join(fields[min(5, len(fields)):], []byte(" ")))}
			begin, end, _ := bytes.Cut(fields[0], []byte("-"))
			first, err := strconv.ParseUint(string(begin), 16, 64)
			last, wrong := strconv.ParseUint(string(end), 16, 64)
			if err == nil && wrong == nil && first < last { // else it is of no size
				m.from, m.size = uintptr(first), uintptr(last-first)
			}
			all = append(all, m)
		}
	}
	return all
}
