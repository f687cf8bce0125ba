package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/rotate"
)

// joinAt makes the machine one that has joined a cluster by its servers, which are reached over TLS.
func (h *host) joinAt(pair *rotate.KeyPair, servers ...*server) {
	h.t.Helper()
	change := h.change
	h.change = func(o *Options) {
		o.Servers = nil
		for _, s := range servers {
			o.Servers = append(o.Servers, s.Endpoint.String())
		}
		if change != nil {
			change(o)
		}
	}
	k := h.kubeconfig(servers[0].Endpoint.String(), pair)
	if err := h.store().Commit(k, time.Now()); err != nil {
		h.t.Fatal(err)
	}
	h.remember(func(state *rotate.State) {
		state.Certificates[rotate.ClientName] = rotate.Record{Verified: pair.Fingerprint()}
		state.Cluster = &rotate.Remembered{Server: k.Server, CA: string(k.CA)}
	})
}

// fresh makes a pair that is not due for hours.
func (h *host) fresh() *rotate.KeyPair { return h.pair(-time.Hour, 23*time.Hour) }

// remove deletes a file, a link, or a directory with all that is in it.
func (h *host) remove(path string) {
	h.t.Helper()
	if err := os.RemoveAll(h.path(path)); err != nil {
		h.t.Fatal(err)
	}
}

// read returns what is in a file.
func (h *host) read(path string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(h.path(path))
	if err != nil {
		h.t.Fatal(err)
	}
	return data
}

// wantFile checks what is in a file.
func (h *host) wantFile(path string, want []byte) {
	h.t.Helper()
	if got := h.read(path); !bytes.Equal(got, want) {
		h.t.Errorf("%s holds\n%s\ninstead of\n%s", path, got, want)
	}
}

// pairFiles returns the names of the pairs in the directory of certificates.
func (h *host) pairFiles() []string {
	h.t.Helper()
	files, err := filepath.Glob(h.path(DefaultCertDir + "/kubelet-client-2*.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// pass goes round the loop once, which must succeed.
func (h *host) pass(t *testing.T, a *Agent) {
	t.Helper()
	if err := a.identity.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}
