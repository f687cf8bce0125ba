package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/rotate"
)

// answers has an agent with these statuses on the machine's socket: the first until it is asked for a new certificate, and
// from then on each for as long as is asked for it twice, the last for ever.
func (h *host) answers(statuses ...status.Status) {
	h.t.Helper()
	var asked atomic.Bool
	var looks atomic.Int64
	source := monitor.Source{
		Snapshot: func() status.Status {
			if !asked.Load() {
				return statuses[0]
			}
			return statuses[min(int(looks.Add(1)+1)/2, len(statuses)-1)]
		},
		Rotate: func(context.Context) error { asked.Store(true); return nil },
	}
	server := &monitor.Server{Source: source, Socket: h.socket(), Log: discard()}
	ctx, cancel := context.WithCancel(h.t.Context())
	var runs sync.WaitGroup
	runs.Go(func() {
		if err := server.Run(ctx); err != nil && ctx.Err() == nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(func() { cancel(); runs.Wait() })
	eventually(h.t, "the socket answers", func() bool {
		_, err := monitor.Ask(h.t.Context(), h.socket())
		return err == nil
	})
}

// with returns the status of an agent that has a certificate, and a problem with it after so many failures.
func (h *host) with(serial string, failures uint64, p *status.Problem) status.Status {
	now := time.Now()
	c := status.Certificate{Name: "kubelet-client", State: status.Valid, Serial: serial, Failures: failures, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Beat: now, Problem: p}
	return status.Status{Running: true, Node: testNode, Certificates: []status.Certificate{c}, Beat: now, Problem: p}
}

// Problems of one class, of which one is waited for.
var (
	passes     = &status.Problem{Text: "cluster-info is not signed", Remedy: "make a token", Class: fault.Untrusted, Passes: true}
	stays      = &status.Problem{Text: "no CA has this hash", Remedy: "compare it", Class: fault.Untrusted}
	ofNoClass  = &status.Problem{Text: "connection refused", Passes: true}
	ofAnOldOne = &status.Problem{Text: "connection refused"} // as an agent of an earlier version tells it
)

// What may pass by itself does not end the wait for a new certificate, what a person must mend does.
func TestForceJoinWaitsForWhatPasses(t *testing.T) {
	for _, test := range []struct {
		name    string
		problem *status.Problem
		last    string // the serial number in the end
		class   fault.Class
		want    string
	}{
		{"it passes", passes, "2", 0, ""},
		{"it passes, and has no class", ofNoClass, "2", 0, ""},
		{"it passes, and the agent is an older one", ofAnOldOne, "2", 0, ""},
		{"it does not pass", stays, "2", fault.Untrusted, stays.Text},
		{"it may pass, and does not", passes, "1", fault.Untrusted, "the agent has got no new certificate within 3s: " + passes.Text},
		{"it has no class, and does not pass", ofNoClass, "1", fault.Unapproved, "the agent has got no new certificate within 3s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, newCluster(t))
			h.change = func(o *Options) { o.Timeout = 3 * time.Second }
			last := h.with(test.last, 1, nil)
			if test.last == "1" {
				last.Certificates[0].Problem = test.problem
			}
			h.answers(h.with("1", 0, nil), h.with("1", 1, test.problem), last)
			identity, err := ForceJoin(t.Context(), h.config(), func(Notice) {})
			if test.class != 0 {
				wantFault(t, err, test.class, test.want)
				return
			}
			if err != nil || identity.Serial != "2" {
				t.Errorf("it has %+v: %v", identity, err)
			}
		})
	}
}

// An agent that has not yet seen its certificate to work, for what may pass by itself, does not keep it back.
func TestWaitIsNotHeldByWhatPasses(t *testing.T) {
	for _, test := range []struct {
		name    string
		problem *status.Problem
		class   fault.Class
	}{{"it passes", passes, 0}, {"it has no class", ofNoClass, 0}, {"it does not pass", stays, fault.Untrusted}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, newCluster(t))
			h.join(h.fresh())
			h.remember(func(s *rotate.State) { s.Certificates = map[string]rotate.Record{} })
			h.answers(h.with("1", 0, test.problem))
			w, _ := h.wait()
			w.Timeout = time.Second
			_, _, err := w.Run(t.Context())
			if test.class != 0 {
				wantFault(t, err, test.class, test.problem.Text)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// That a cluster cannot be trusted yet is no reason to leave the certificate that there is; that it cannot be trusted is.
func TestCutOffIsFinal(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		made int // requests
	}{
		{"not yet", fault.Passing(fault.Untrusted, "make a token", "cluster-info is not signed"), 0},
		{"for good", fault.New(fault.Untrusted, "compare it", "no CA has this hash"), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.token("abcdef")
				h.join(h.fresh())
				a := h.offline(h.agent())
				settle := a.identity.role.settle
				a.identity.role.settle = func(ctx context.Context, s *sight) (func(*rotate.State), error) {
					if len(h.cluster.creations()) == 0 {
						return nil, test.err
					}
					return settle(ctx, s)
				}
				agent := h.run(a)
				time.Sleep(5 * time.Minute)
				agent.stop()
				if made := h.cluster.creations(); len(made) != test.made {
					t.Errorf("requests: %v", made)
				}
			})
		})
	}
}
