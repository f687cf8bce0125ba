package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate"
)

// wait returns a wait on the machine, for at most a minute, and what it told.
func (h *host) wait() (w *Wait, told *[]string) {
	told = new([]string)
	return &Wait{
		Load: func() (*Config, error) { return h.options().Config() }, ConfigFile: h.path(configPath), For: IdentityName, Timeout: time.Minute,
		Report: func(text string) { *told = append(*told, text) },
	}, told
}

// Where no agent runs the disk decides, as it is at each look.
func TestWaitByDisk(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(h *host)
		class   fault.Class // 0: it returns at once
		want    string
	}{
		{"joined", func(h *host) { h.join(h.fresh()) }, 0, ""},
		{"joined, and not seen to work", func(h *host) {
			h.join(h.fresh())
			h.remember(func(s *rotate.State) { s.Certificates = map[string]rotate.Record{} })
		}, 0, ""},
		{"nothing", func(*host) {}, fault.Unexpected, "no certificate yet"},
		{"expired", func(h *host) { h.join(h.pair(-2*time.Hour, -time.Hour)) }, fault.Unexpected, "expired"},
		{"not valid yet", func(h *host) { h.join(h.pair(time.Hour, 2*time.Hour)) }, fault.Unexpected, "valid"},
		{"no kubeconfig", func(h *host) { h.join(h.fresh()); h.remove(DefaultKubeconfig) }, fault.Unexpected, "the kubeconfig /etc/kubernetes/kubelet.conf is missing or damaged"},
		{"denied", func(h *host) {
			h.remember(func(s *rotate.State) {
				s.Certificates = map[string]rotate.Record{rotate.ClientName: {Denied: &rotate.Denial{Request: "csr-1", Reason: "who are you?", At: time.Now()}}}
			})
		}, fault.Denied, "the request was denied: csr-1: who are you?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				test.prepare(h)
				w, told := h.wait()
				begun := time.Now()
				c, s, err := w.Run(t.Context())
				passed := time.Since(begun)
				if test.class == 0 {
					if err != nil || c.Path == "" || s.Node != testNode || passed != 0 || len(*told) != 0 {
						t.Errorf("after %s: %+v, %v; told was %q", passed, c, err, *told)
					}
					return
				}
				wantFault(t, err, test.class, test.want)
				if !strings.Contains(err.Error(), "this node's identity cannot be used after 1m0s: ") || passed != time.Minute {
					t.Errorf("after %s: %v", passed, err)
				}
				if len(*told) != 1 || !strings.HasPrefix((*told)[0], "no agent runs on this machine; ") || !strings.Contains((*told)[0], test.want) {
					t.Errorf("told was %q", *told)
				}
			})
		})
	}
}

// It is over within half a second of the moment when the identity is there, and follows the configuration.
func TestWaitSees(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		w, _ := h.wait()
		w.Timeout = 0
		h.change = func(o *Options) { o.Kubeconfig = "/elsewhere/kubelet.conf" }
		ended := make(chan error, 1)
		go func() {
			_, _, err := w.Run(t.Context())
			ended <- err
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		h.change = nil
		h.join(h.fresh())
		time.Sleep(time.Second)
		select {
		case err := <-ended:
			t.Fatalf("it is over, with the kubeconfig where the configuration has none: %v", err)
		default:
		}
		h.write(configPath, "{}", 0o600)
		time.Sleep(waitLook)
		synctest.Wait()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Fatal("it still waits")
		}
	})
}

func TestWaitFailsAtOnce(t *testing.T) {
	wrong := fault.New(fault.Usage, "mend it", "line 3 is wrong")
	for _, test := range []struct {
		name   string
		change func(w *Wait)
		want   string
	}{
		{"a name that is not configured", func(w *Wait) { w.For = "web" }, `there is no certificate "web" in the configuration`},
		{"a wrong configuration", func(w *Wait) { w.Load = func() (*Config, error) { return nil, wrong } }, "line 3 is wrong"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, newCluster(t))
			w, told := h.wait()
			test.change(w)
			_, _, err := w.Run(t.Context())
			wantFault(t, err, fault.Usage, test.want)
			if len(*told) != 0 {
				t.Errorf("told was %q", *told)
			}
		})
	}
}

// A configuration that became wrong is waited with as an agent does: the one before stays.
func TestWaitOutlivesAWrongConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		w, _ := h.wait()
		load, loads := w.Load, 0
		w.Load = func() (*Config, error) {
			if loads++; loads > 1 {
				return nil, errors.New("wrong")
			}
			return load()
		}
		go func() {
			time.Sleep(10 * time.Second)
			h.write(configPath, "wrong", 0o600)
			time.Sleep(10 * time.Second)
			h.join(h.fresh())
		}()
		if _, _, err := w.Run(t.Context()); err != nil || loads < 2 {
			t.Errorf("after %d loads: %v", loads, err)
		}
	})
}

func TestWaitIsInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		w, _ := h.wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, err := w.Run(ctx)
		wantFault(t, err, fault.Unexpected, "interrupted while waiting for this node's identity: kubelet-client: this machine has no certificate yet")
	})
}
