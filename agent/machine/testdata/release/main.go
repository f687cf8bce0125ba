// release gives its memory back, and then uses what a loader may have relocated: types, methods by way of interfaces,
// and what the garbage collector knows of both. It prints how much of its file was in memory before and afterwards, in kB.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/nodejoin/nodejoin/agent/machine"
)

func main() {
	before := fileInMemory()
	machine.ReleaseMemory()
	after := fileInMemory()
	runtime.GC()
	for _, value := range []any{before, []error{os.ErrNotExist}, map[string]any{"a": struct{ B *int }{}}, fmt.Errorf("%w", os.ErrExist)} {
		if fmt.Sprintf("%+v", value) == "" {
			panic("nothing was printed")
		}
	}
	runtime.GC()
	fmt.Println(before, after)
}

// fileInMemory returns how much of files is in memory, also of those in a tmpfs.
func fileInMemory() (kB int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(status)) {
		for _, kind := range []string{"RssFile", "RssShmem"} {
			var size int
			_, _ = fmt.Sscanf(line, kind+": %d kB", &size)
			kB += size
		}
	}
	return kB
}
