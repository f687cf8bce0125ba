package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// plugin configures a program that counts its runs and fails, and returns what counts them.
func (h *host) plugin() (runs func() int) {
	h.t.Helper()
	const program, book = "/usr/local/bin/plugin", "/var/log/plugin"
	h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
	h.write(book, "", 0o600)
	h.write(program, "#!/bin/sh\necho run >>"+h.path(book)+"\nexit 1\n", 0o700)
	h.change = func(o *Options) {
		o.Credentials = []config.Credential{{Exec: &config.Exec{Command: []string{program}}}}
	}
	return func() int { return strings.Count(string(h.read(book)), "run\n") }
}

// A program that fails before anything is connected to is run once in a pass: that it failed is why, and nothing else is looked
// for by running it again.
func TestFailingPluginIsRunOnce(t *testing.T) {
	for _, test := range []struct {
		name   string
		served bool
	}{
		{"there is an API server", true},
		{"there is none", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, newCluster(t))
			runs, server := h.plugin(), testServer
			if test.served {
				server = h.cluster.serve(h.cluster.signer).Endpoint.String()
			}
			change := h.change
			h.change = func(o *Options) { change(o); o.Servers = []string{server} }
			a := h.agent()
			a.daemon = false
			wantFault(t, a.identity.pass(t.Context()), 0, "the credential plugin /usr/local/bin/plugin failed")
			if n := runs(); n != 1 {
				t.Errorf("the program was run %d times, want once", n)
			}
		})
	}
}

// A machine whose clock is wrong hears of its clock, not of a credential that the server does not find invalid.
func TestClockOrCredential(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.expired()
		h.write(expiredFile, h.both(h.pair(24*time.Hour, 48*time.Hour)), 0o600)
		h.cut(errors.New("connection refused"))
		a := h.offline(h.agent())
		a.daemon = false
		err := a.identity.pass(t.Context())
		const want = "see whether this machine's clock is right: timedatectl; if it is, put "
		if fault.ClassOf(err) != fault.Refused || !strings.HasPrefix(fault.Remedy(err), want) || !strings.Contains(fmt.Sprint(err), "it is valid from ") {
			t.Errorf("class %d, with the remedy %q: %v", fault.ClassOf(err), fault.Remedy(err), err)
		}
	})
}

// What is judged by the server's clock is invalid by that, too.
func TestInvalidByBothClocks(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.expired() // an hour ago
		credential := &bootstrap.CertificateFile{CertificatePath: h.path(expiredFile)}
		for ahead, want := range map[time.Duration]bool{0: true, time.Minute: true, -time.Hour: true, 90 * time.Minute: false, 24 * time.Hour: true} {
			if why, early := bootstrap.WhyInvalid(context.Background(), credential, time.Now(), ahead); (why != "") != want || early {
				t.Errorf("with a clock that is %s ahead: %q, early: %t", ahead, why, early)
			}
		}
	})
}
