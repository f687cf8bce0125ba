package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// posted is what was tried with a POST of a request: whether or not it was accepted.
type posted struct {
	at     time.Time
	by     string // "certificate", or the bearer token
	remote string // address of the client
}

// postBook notes what is tried.
type postBook struct {
	mu   sync.Mutex
	list []posted
}

// note makes a cluster note each POST of a request, and answer it with what answer says of the n-th, from 0; nil goes on.
func (c *fakeCluster) note(answer func(n int, p posted) error) *postBook {
	book := &postBook{}
	c.with(func() {
		c.answer = func(r *http.Request) error {
			if r.Method != http.MethodPost || r.URL.Path != requestsPath {
				return nil
			}
			p := posted{time.Now(), "certificate", r.RemoteAddr}
			if token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); found {
				p.by = token
			}
			book.mu.Lock()
			defer book.mu.Unlock()
			book.list = append(book.list, p)
			if answer == nil {
				return nil
			}
			return answer(len(book.list)-1, p)
		}
	})
	return book
}

func (b *postBook) all() []posted {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

// order returns who tried, each once for as long as nobody else did.
func (b *postBook) order() []string {
	var order []string
	for _, p := range b.all() {
		order = append(order, p.by)
	}
	return slices.Compact(order)
}

var errUnauthorized = apierrors.NewUnauthorized("Unauthorized")

// revoke makes the cluster know a pair no more.
func (c *fakeCluster) revoke(pair *rotate.KeyPair, revoked bool) {
	c.with(func() { c.revoked[pair.Leaf.SerialNumber.Text(16)] = revoked })
}

// overdue makes a pair that is due, and can be used for hours still.
func (h *host) overdue() *rotate.KeyPair { return h.pair(-44*time.Hour, 4*time.Hour) }

const (
	firstFile  = "/etc/nodejoin/first"
	secondFile = "/etc/nodejoin/second"
	idToken    = "an.id.token"
)

// twoCredentials configures a bootstrap token and then another bearer token, each in a file of its own.
func (h *host) twoCredentials() {
	h.change = func(o *Options) {
		o.Credentials = []config.Credential{{BootstrapToken: &config.BootstrapToken{File: firstFile}}, {BearerToken: &config.BearerToken{File: secondFile}}}
	}
	h.write(firstFile, someToken+"\n", 0o600)
	h.write(secondFile, idToken+"\n", 0o600)
	h.cluster.with(func() {
		h.cluster.tokens[someToken], h.cluster.tokens[idToken] = "system:bootstrap:abcdef", "machine-1"
	})
}

// TestOwnCertificateWhileItWorks has the API server answer 401 a number of times: one is not the end of the certificate,
// three are.
func TestOwnCertificateWhileItWorks(t *testing.T) {
	for _, test := range []struct {
		name    string
		refused int // times
		by      string
	}{
		{"it works", 0, testUser},
		{"one 401", 1, testUser},
		{"two", 2, testUser},
		{"three", 3, "system:bootstrap:abcdef"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.token("abcdef")
				h.cluster.note(func(n int, _ posted) error {
					if n < test.refused {
						return errUnauthorized
					}
					return nil
				})
				h.join(h.overdue())
				agent := h.start()
				defer agent.stop()
				time.Sleep(time.Minute)
				if made := h.cluster.creations(); len(made) != 1 || made[0].by != test.by {
					t.Errorf("requests: %v", made)
				}
				if view := agent.view(); view.State != status.Valid || view.Rotations != 1 || view.Problem != nil {
					t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
				}
			})
		})
	}
}

// TestRefusalsOverDistinctConnections shows that a certificate is given up after three refusals over as many connections: the
// same balancer or the same server may have given the first two.
func TestRefusalsOverDistinctConnections(t *testing.T) {
	cluster := newCluster(t)
	h := newHost(t, cluster)
	pair := h.overdue()
	h.joinAt(pair, cluster.serve(cluster.signer))
	book := cluster.note(func(int, posted) error { return errUnauthorized })
	a := h.agent()
	_ = a.identity.pass(t.Context()) // sees it and draws its deadline
	err := a.identity.pass(t.Context())
	wantFault(t, err, fault.Refused, "does not accept")
	remotes := map[string]bool{}
	for _, p := range book.all() {
		remotes[p.remote] = true
	}
	if n := len(book.all()); n != refusalLimit || len(remotes) != refusalLimit {
		t.Errorf("%d refusals over %d connections", n, len(remotes))
	}
	if !a.identity.isDead(pair) {
		t.Error("the certificate is not given up")
	}
}

// TestLadder goes down the ladder: the certificate, then each credential in its order. One that is refused, missing or damaged makes
// way for the next, and is told where none works.
func TestLadder(t *testing.T) {
	const own = "certificate"
	for _, test := range []struct {
		name   string
		change func(h *host, pair *rotate.KeyPair)
		order  []string // who asked
		by     string   // whose request was issued; "" for none
		says   []string // in the problem, where none was
	}{
		{"the certificate", func(*host, *rotate.KeyPair) {}, []string{own}, testUser, nil},
		{"the first credential", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
		}, []string{own, someToken}, "system:bootstrap:abcdef", nil},
		{"the first is refused", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.cluster.with(func() { delete(h.cluster.tokens, someToken) })
		}, []string{own, someToken, idToken}, "machine-1", nil},
		{"the first is missing", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.remove(firstFile)
		}, []string{own, idToken}, "machine-1", nil},
		{"the first is damaged", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.write(firstFile, "no token\n", 0o600)
		}, []string{own, idToken}, "machine-1", nil},
		{"the first can be read by all", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.remove(firstFile)
			h.write(firstFile, someToken+"\n", 0o644)
		}, []string{own, idToken}, "machine-1", nil},
		{"all are refused", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.cluster.with(func() { clear(h.cluster.tokens) })
		}, []string{own, someToken, idToken}, "", []string{
			"127.0.0.1:1 does not accept the bootstrap token abcdef", "does not accept the bearer token in ", "(401)",
		}},
		{"all are missing", func(h *host, pair *rotate.KeyPair) {
			h.cluster.revoke(pair, true)
			h.remove(firstFile)
			h.remove(secondFile)
		}, []string{own}, "", []string{
			"with the credential in " + firstFile + ": ", "cannot read the token", "with the credential in " + secondFile + ": ", "cannot read the bearer token",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.twoCredentials()
				pair := h.overdue()
				h.join(pair)
				test.change(h, pair)
				book := h.cluster.note(nil)
				agent := h.start()
				defer agent.stop()
				for len(h.cluster.creations()) == 0 && agent.view().Problem == nil {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(time.Second) // to settle; those that are refused are not asked again yet
				made := h.cluster.creations()
				if order := book.order(); !slices.Equal(order, test.order) {
					t.Errorf("asked with %q, want %q", order, test.order)
				}
				view := agent.view()
				if test.by != "" {
					if len(made) != 1 || made[0].by != test.by || view.Problem != nil {
						t.Errorf("requests: %v, problem: %+v", made, view.Problem)
					}
					return
				}
				h.wantCurrent(pair)
				if len(made) != 0 || view.Problem == nil || view.Problem.Remedy == "" || view.Problem.Class == 0 {
					t.Fatalf("requests: %v, problem: %+v", made, view.Problem)
				}
				for _, want := range test.says {
					if !strings.Contains(view.Problem.Text, want) {
						t.Errorf("the problem %q does not say %q", view.Problem.Text, want)
					}
				}
			})
		})
	}
}

// TestCredentialIsReadAnew drops a new token into the file while nothing works: it is used with the key that is pending.
func TestCredentialIsReadAnew(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.write(DefaultTokenFile, otherToken+"\n", 0o600) // which the cluster does not know
		h.join(h.pair(-48*time.Hour, -time.Hour))
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Hour)
		pending := h.load().PendingKey
		if view := agent.view(); len(pending) == 0 || view.Problem == nil || view.Problem.Class != fault.Refused || !strings.Contains(view.Problem.Remedy, "kubeadm token create") {
			t.Fatalf("the status is %+v with the problem %+v", view, view.Problem)
		}
		h.token("abcdef")
		agent.wake() // as the event does
		time.Sleep(time.Second)
		made := h.cluster.creations()
		if len(made) != 1 || made[0].by != "system:bootstrap:abcdef" || made[0].name != csr.PendingName(pending) {
			t.Errorf("requests: %v instead of %s", made, csr.PendingName(pending))
		}
		if view := agent.view(); view.State != status.Valid || view.Problem != nil {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}

// TestNewCredentialIsKnownLater drops a token into the file that the API server hears of only then: it learns of tokens by a
// watch, which may have to be opened anew. The hour in which nothing worked does not count any more.
func TestNewCredentialIsKnownLater(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.write(DefaultTokenFile, otherToken+"\n", 0o600)
		h.join(h.pair(-48*time.Hour, -time.Hour))
		known := time.Now().Add(time.Hour + 2*time.Second)
		h.cluster.note(func(int, posted) error {
			if time.Now().Before(known) {
				return errUnauthorized
			}
			return nil
		})
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Hour)
		h.token("abcdef")
		agent.wake() // as the event does
		time.Sleep(10 * time.Second)
		if view := agent.view(); view.State != status.Valid || view.Problem != nil {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}

// TestForcedRotationOutlivesTheAgent asks for a new certificate beside one that is in order, and ends the agent while that waits.
func TestForcedRotationOutlivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		pair := h.pair(-time.Hour, 1000*time.Hour)
		h.join(pair)
		approve := h.cluster.decide
		h.cluster.decide = h.cluster.leave
		agent := h.start()
		time.Sleep(time.Second)
		if err := agent.rotateNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		pending := h.load().PendingKey
		if len(pending) == 0 {
			t.Fatal("nothing was asked for")
		}
		agent.stop()
		agent = h.start()
		defer func() { agent.stop() }()
		time.Sleep(time.Hour)
		if now := h.load().PendingKey; string(now) != string(pending) {
			t.Fatal("the pending key is another, or gone")
		}
		h.wantCurrent(pair)
		agent.stop()
		h.cluster.with(func() { h.cluster.decide = approve })
		h.cluster.with(func() { clear(h.cluster.objects) }) // collected meanwhile
		agent = h.start()
		time.Sleep(time.Minute)
		if leaf, err := h.current(); err != nil || leaf.Equal(pair.Leaf) {
			t.Errorf("the certificate was not rotated: %v", err)
		}
		for _, made := range h.cluster.creations() {
			if made.name != csr.PendingName(pending) {
				t.Errorf("there is the request %s beside %s", made.name, csr.PendingName(pending))
			}
		}
	})
}

// TestOneRequest leaves a request pending for a day, through restarts, events and a change of the token: it stays the only one,
// with its key, and is issued in the end.
func TestOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.cluster.decide = h.cluster.leave
		h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
		h.token("abcdef")
		agent := h.start()
		time.Sleep(time.Second)
		pending := h.load().PendingKey
		for hour := range 24 {
			if hour == 12 {
				h.cluster.with(func() { clear(h.cluster.tokens) })
				h.token("ghijkl")
			}
			agent.wake()
			time.Sleep(time.Hour)
			if hour%5 == 4 {
				agent.stop()
				agent = h.start()
			}
			if now := h.load().PendingKey; string(now) != string(pending) {
				t.Fatalf("hour %d: the pending key is another", hour)
			}
		}
		if view := agent.view(); view.Request == nil || view.Request.Approved || view.Request.Name != csr.PendingName(pending) || time.Since(view.Request.Since) < 23*time.Hour {
			t.Errorf("it waits for %+v", view.Request)
		}
		h.cluster.act(h.cluster.sign)
		time.Sleep(time.Second)
		agent.stop()
		if made := h.cluster.creations(); len(made) != 1 {
			t.Errorf("requests: %v", made)
		}
		h.cluster.wantOneAtATime()
		disk := h.load()
		if reason, message := rotate.WhyReplace(&disk.Found, rotate.Wanted{CommonName: testUser, Organization: []string{"system:nodes"}}, time.Now()); reason != "" || len(disk.PendingKey) != 0 {
			t.Errorf("%s: %s; %d bytes of a pending key", reason, message, len(disk.PendingKey))
		}
	})
}

// TestRevival has an API server that does not know the certificate for a while: where nothing else works, it is tried again.
func TestRevival(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		pair := h.pair(-time.Hour, 23*time.Hour)
		h.join(pair)
		h.remember(func(state *rotate.State) { state.Certificates[rotate.ClientName] = rotate.Record{} }) // not proven
		h.cluster.revoke(pair, true)
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		h.cluster.revoke(pair, false)
		time.Sleep(reviveAfter - 2*time.Minute)
		if view := agent.view(); view.Problem == nil || h.proofs.Load() != 1 {
			t.Errorf("tried %d times within %s; the problem is %+v", h.proofs.Load(), reviveAfter, view.Problem)
		}
		time.Sleep(3 * time.Minute)
		if view := agent.view(); view.State != status.Valid || view.Problem != nil {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
		if made := h.cluster.creations(); len(made) != 0 {
			t.Errorf("requests: %v", made)
		}
	})
}

// TestUnreachable takes the way to the cluster from the certificate alone: no credential is spent because a server is down.
func TestUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.token("abcdef")
		h.join(h.overdue())
		a := h.offline(h.agent())
		down := errDown
		ways := a.identity.role.ways
		a.identity.role.ways = func(s *sight) []way {
			all := ways(s)
			if connect := all[0].connect; all[0].own {
				all[0].connect = func(ctx context.Context) (*bootstrap.Cluster, *bootstrap.Connection, error) {
					if down != nil {
						return nil, nil, down
					}
					return connect(ctx)
				}
			}
			return all
		}
		book := h.cluster.note(nil)
		agent := h.run(a)
		time.Sleep(time.Hour)
		if tried := book.all(); len(tried) != 0 {
			t.Errorf("asked %d times, with %q", len(tried), book.order())
		}
		if view := agent.view(); view.State != status.Due || view.Problem == nil || view.Problem.Text != errDown.Error() || view.Problem.Class != 0 {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
		agent.stop()
		down = nil
		agent = h.run(a)
		time.Sleep(time.Minute)
		agent.stop()
		if made := h.cluster.creations(); len(made) != 1 || made[0].by != testUser {
			t.Errorf("requests: %v", made)
		}
	})
}

// TestForbidden has the API server know the node and let it make no requests (an admission policy, say): the next credential does, and
// without one nobody is flooded.
func TestForbidden(t *testing.T) {
	for _, token := range []bool{true, false} {
		t.Run(fmt.Sprintf("token=%t", token), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				if token {
					h.token("abcdef")
				}
				h.join(h.overdue())
				var asked atomic.Int64
				h.cluster.answer = func(r *http.Request) error {
					if r.Method == http.MethodPost && r.URL.Path == requestsPath && r.Header.Get("Authorization") == "" {
						asked.Add(1)
						return apierrors.NewForbidden(certificates.Resource("certificatesigningrequests"), "", errors.New("not today"))
					}
					return nil
				}
				agent := h.start()
				defer agent.stop()
				time.Sleep(10 * time.Minute)
				view := agent.view()
				if got := view.State == status.Valid; got != token || token != (view.Problem == nil) {
					t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
				}
				if n := asked.Load(); n == 0 || n > 20*refusalLimit {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}
