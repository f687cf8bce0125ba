package agent

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// freeze has somebody listen on the machine's socket who takes connections and never answers, as the kernel does it for an
// agent that was stopped.
func (h *host) freeze() {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.socket()), 0o700); err != nil {
		h.t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(h.t.Context(), "unix", h.socket())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = listener.Close() })
}

// An agent that does not answer does not hold a wait beyond its time, nor beyond its end.
func TestWaitForAFrozenAgent(t *testing.T) {
	h := newHost(t, newCluster(t))
	h.join(h.fresh())
	h.freeze()
	const late = 8 * time.Second // which a look at the agent would exceed, and a machine with a lot to do does not
	w, _ := h.wait()
	w.Timeout = time.Second
	begun := time.Now()
	_, _, err := w.Run(t.Context())
	if took := time.Since(begun); took < w.Timeout || took > late {
		t.Errorf("it took %s", took)
	}
	wantFault(t, err, fault.Unexpected, "this node's identity cannot be used after 1s: the agent does not answer on "+h.socket())
	if !strings.Contains(fault.Remedy(err), "restart") {
		t.Errorf("the remedy is %q", fault.Remedy(err))
	}

	w, _ = h.wait()
	w.Timeout = 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun = time.Now()
	_, _, err = w.Run(ctx)
	if took := time.Since(begun); took < time.Second || took > late {
		t.Errorf("it took %s to end", took)
	}
	wantFault(t, err, fault.Unexpected, "interrupted while waiting for this node's identity")
}
