package testbed

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if ending := os.Getenv(endingVariable); ending != "" {
		leave(ending)
	}
	code := m.Run()
	if sharedStarted {
		if cp, err := startShared(); err == nil {
			if err := cp.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

var sharedStarted bool

var startShared = sync.OnceValues(func() (*ControlPlane, error) {
	sharedStarted = true
	return Start(context.Background(), Options{})
})

// shared returns one control plane for all tests that leave it running. They do not run in parallel.
func shared(t *testing.T) *ControlPlane {
	t.Helper()
	cp, err := startShared()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, process := range cp.processes() {
				t.Logf("%s, the end of %s:\n%s", process.Name, process.Log, process.Tail(20))
			}
		}
	})
	return cp
}

// within returns a context that ends well before the test binary's own deadline.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
