package bootstrap

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// queued is a connection whose writes do not wait for the reader, as TCP's do not.
type queued struct {
	net.Conn
	queue chan []byte
}

func (q queued) Write(p []byte) (int, error) {
	q.queue <- slices.Clone(p)
	return len(p), nil
}

func (q queued) send() {
	for p := range q.queue {
		_, _ = q.Conn.Write(p) // fails once the connection is closed
	}
}

func TestTrustHoldsTheHandshake(t *testing.T) {
	refusal := errors.New("no cluster was found")
	enough := errors.New("the operator had enough")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, test := range []struct {
			name   string
			settle func(trust *Trust, ca, rogue *authority, cancel context.CancelCauseFunc)
			want   error
			class  fault.Class
		}{
			{"settled", func(trust *Trust, ca, _ *authority, _ context.CancelCauseFunc) { trust.Settle(bundleOf(ca), nil) }, nil, 0},
			{"only the first settlement counts", func(trust *Trust, ca, rogue *authority, _ context.CancelCauseFunc) {
				trust.Settle(bundleOf(ca), nil)
				trust.Settle(bundleOf(rogue), refusal)
			}, nil, 0},
			{"settled on another CA", func(trust *Trust, _, rogue *authority, _ context.CancelCauseFunc) { trust.Settle(bundleOf(rogue), nil) }, nil, fault.Untrusted},
			{"settled on none", func(trust *Trust, _, _ *authority, _ context.CancelCauseFunc) { trust.Settle(Bundle{}, nil) }, nil, fault.Untrusted},
			{"settled with an error", func(trust *Trust, ca, _ *authority, _ context.CancelCauseFunc) { trust.Settle(bundleOf(ca), refusal) }, refusal, 0},
			{"given up", func(_ *Trust, _, _ *authority, cancel context.CancelCauseFunc) { cancel(enough) }, enough, 0},
		} {
			t.Run(tls.VersionName(version)+"/"+test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ca, rogue := newAuthority(t, "ca"), newAuthority(t, "rogue")
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					here, there := net.Pipe()
					defer there.Close()
					flight := queued{Conn: there, queue: make(chan []byte, 16)}
					defer close(flight.queue)
					go flight.send()
					trust := NewTrust()
					client := tls.Client(here, &tls.Config{
						InsecureSkipVerify: true, ServerName: "127.0.0.1", VerifyConnection: trust.verifyConnection(ctx, "127.0.0.1"), MinVersion: tls.VersionTLS12,
					})
					server := tls.Server(flight, &tls.Config{Certificates: []tls.Certificate{*ca.issue(t)}, MaxVersion: version})
					clientDone, serverDone := make(chan error, 1), make(chan error, 1)
					go func() {
						err := client.HandshakeContext(t.Context())
						if err != nil {
							here.Close()
						}
						clientDone <- err
					}()
					go func() { serverDone <- server.HandshakeContext(t.Context()) }()

					synctest.Wait() // both sides wait: the client for the trust, the server for the client
					time.Sleep(time.Hour)
					if len(clientDone) != 0 || len(serverDone) != 0 {
						t.Fatal("the handshake was completed, or failed, before the trust was settled")
					}
					before := time.Now()
					test.settle(trust, ca, rogue, cancel)
					clientErr, serverErr := <-clientDone, <-serverDone
					if time.Since(before) != 0 {
						t.Errorf("it took %s", time.Since(before))
					}
					switch {
					case test.want != nil:
						if !errors.Is(clientErr, test.want) {
							t.Errorf("the error is %v, want %v", clientErr, test.want)
						}
					case test.class != 0:
						wantFault(t, clientErr, test.class, "unknown authority")
					case clientErr != nil || serverErr != nil:
						t.Errorf("the handshake failed: %v, %v", clientErr, serverErr)
					}
					if clientErr != nil && serverErr == nil {
						t.Error("the server believes that the handshake was completed")
					}
				})
			})
		}
	}
}

func TestConnectionSaysNothingBeforeTrust(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
	conn := &Connection{Endpoints: []Endpoint{s.Endpoint}, Trust: NewTrust()}
	defer conn.Close()
	done := make(chan error, 1)
	go func() {
		resp, err := roundTrip(t, Authenticate(testToken.Credential(), conn), "/")
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	expect.Eventually(t, "the server is called", func() bool { return len(s.accepted()) == 1 })
	<-s.accepted()[0].wire.answered // the client has the server's certificate, or is about to get it
	select {
	case err := <-done:
		t.Fatalf("the request was sent before the trust was settled: %v", err)
	case <-time.After(30 * time.Millisecond): // nothing happens
	}
	if heard, completed := s.accepted()[0].state(); completed || heard != "" {
		t.Fatalf("the handshake was completed before the trust was settled, and the server told %q", heard)
	}
	conn.Trust.Settle(bundleOf(ca), nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.received(); len(got) != 1 || got[0].bearer == "" {
		t.Errorf("the requests are %+v", got)
	}
}

func TestConnectionIsRefusedByTrust(t *testing.T) {
	s := serve(t, serverOptions{certificate: machineCA.issue(t)}, named("s"))
	refusal := fault.New(fault.Untrusted, "do this", "no cluster was found")
	trust := NewTrust()
	trust.Settle(bundleOf(machineCA), refusal)
	conn := &Connection{Endpoints: []Endpoint{s.Endpoint}, Trust: trust}
	err := conn.Open(t.Context())
	wantFault(t, err, fault.Untrusted, "no cluster was found")
	s.drain(t)
	if heard, completed := s.accepted()[0].state(); completed || heard != "" {
		t.Errorf("the handshake was completed, and the server told %q", heard)
	}
}

func TestWaitingForTrustEndsWithTheContext(t *testing.T) {
	s := serve(t, serverOptions{certificate: machineCA.issue(t)}, named("s"))
	conn := &Connection{Endpoints: []Endpoint{s.Endpoint}, Trust: NewTrust()}
	enough := errors.New("the operator had enough")
	first, cancelFirst := context.WithCancelCause(t.Context())
	second, cancelSecond := context.WithCancelCause(t.Context())
	defer cancelFirst(nil)
	opened := make(chan error, 1)
	go func() { opened <- conn.Open(first) }()
	expect.Eventually(t, "the server is called", func() bool { return len(s.accepted()) == 1 })

	// The second waits for the first to open the connection for both.
	cancelSecond(enough)
	if err := conn.Open(second); !errors.Is(err, enough) {
		t.Errorf("the second: %v, want the cause of the cancellation", err)
	}
	if len(opened) != 0 {
		t.Error("the first was given up with the second")
	}
	cancelFirst(enough)
	if err := <-opened; !errors.Is(err, enough) {
		t.Errorf("the first: %v, want the cause of the cancellation", err)
	}
	s.drain(t)
	if got := len(s.accepted()); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}
