package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// footprint is what an agent takes up.
type footprint struct {
	heap                    uint64 // bytes in use after a collection
	goroutines, descriptors int
	files                   int   // on the machine's disk
	state                   int64 // bytes of the state file
}

// footprint measures, with what only the test keeps taken away.
func (h *host) footprint() footprint {
	h.t.Helper()
	h.cluster.with(func() { h.cluster.created, h.cluster.seen = nil, nil })
	h.log.mu.Lock()
	h.log.text = bytes.Buffer{}
	h.log.mu.Unlock()
	var f footprint
	runtime.GC()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	f.heap, f.goroutines = memory.HeapAlloc, runtime.NumGoroutine()
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		f.descriptors = len(open)
	}
	err := filepath.WalkDir(h.root, func(string, os.DirEntry, error) error { f.files++; return nil })
	if err != nil {
		h.t.Error(err)
	}
	info, err := os.Stat(h.path(DefaultStateDir + "/state.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	f.state = info.Size()
	return f
}

// TestThousandRotations rotates a certificate of ten minutes a thousand times: memory, goroutines, descriptors and files are
// the same at the end as after the first hundred.
func TestThousandRotations(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.change = func(o *Options) { o.Lifetime = 10 * time.Minute }
		h.join(h.pair(-5*time.Minute, 10*time.Minute))
		agent := h.start()
		defer agent.stop()
		until := func(rotations uint64) footprint {
			for agent.view().Rotations < rotations {
				time.Sleep(5 * time.Minute)
				if leaf, err := h.current(); err != nil || time.Now().After(leaf.NotAfter) {
					t.Fatalf("I1: %v", err)
				}
			}
			synctest.Wait()
			return h.footprint()
		}
		first, last := until(100/uint64(slow)), until(1000/uint64(slow))
		t.Logf("after the first tenth: %+v; in the end: %+v", first, last)
		if most := first.heap + 64<<10; last.heap > most && slow == 1 {
			t.Errorf("%d bytes of heap, and %d after 100", last.heap, first.heap)
		}
		if last.goroutines > first.goroutines || last.descriptors > first.descriptors+2 {
			t.Errorf("%d goroutines and %d descriptors, and %d and %d after 100", last.goroutines, last.descriptors, first.goroutines, first.descriptors)
		}
		if last.files > first.files || last.state > first.state+100 || last.state > 8<<10 {
			t.Errorf("%d files and a state of %d bytes, and %d and %d after 100", last.files, last.state, first.files, first.state)
		}
		h.cluster.wantOneAtATime()
	})
}
