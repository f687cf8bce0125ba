package rotate

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// readers read what is there again and again, each in a goroutine of its own, until an error or the end.
type readers struct {
	t     *testing.T
	stop  func()
	done  sync.WaitGroup
	reads []atomic.Int64 // of each, those that went well
}

func readersOf(t *testing.T, looks ...func() error) *readers {
	t.Helper()
	stop := make(chan struct{})
	r := &readers{t: t, stop: sync.OnceFunc(func() { close(stop) }), reads: make([]atomic.Int64, len(looks))}
	for i, look := range looks {
		r.done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := look(); err != nil {
					t.Errorf("reading: %v", err)
					return
				}
				r.reads[i].Add(1)
			}
		})
	}
	return r
}

// catchUp waits until no read is under way that began before: each reader has ended one since.
//
// What a reader found under the link stays for one commit more. No reader is slower than that, but on a machine with much to
// do, where 200 commits take no longer than one read.
func (r *readers) catchUp() {
	before := make([]int64, len(r.reads))
	for i := range r.reads {
		before[i] = r.reads[i].Load()
	}
	for i := range r.reads {
		for r.reads[i].Load() == before[i] && !r.t.Failed() {
			time.Sleep(10 * time.Microsecond)
		}
	}
}

// end waits for the readers to end.
func (r *readers) end() {
	r.stop()
	r.done.Wait()
}
