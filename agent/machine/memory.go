package machine

import (
	"math"
	"runtime/debug"
)

// restLimit bounds what the program takes while nothing collects its garbage but this limit, in bytes. Idle it takes half of
// it.
const restLimit = 12 << 20

// Idle says that the program will have nothing to do for long, or that it has something to do. An idle one gives back its
// memory, see [ReleaseMemory], and does without the garbage collection that Go makes every two minutes: over a day that would
// take more processor time than everything else.
func Idle(idle bool) {
	if !idle {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
		return
	}
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(restLimit)
	ReleaseMemory()
}
