package proxy

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/test/expect"
)

// patience bounds everything that should happen soon.
const patience = 10 * time.Second

// echo starts a server that sends back what it gets, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer connection.Close()
				_, _ = io.Copy(connection, connection) // ends with the client's connection, well or not
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func start(t *testing.T, target string, options Options) *Proxy {
	t.Helper()
	p, err := New(target, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	connection, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return connection.(*net.TCPConn)
}

// exchange sends a text and reads it back.
func exchange(connection net.Conn, text string) error {
	if _, err := io.WriteString(connection, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(connection, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("got " + string(got))
	}
	return nil
}

func mustExchange(t *testing.T, connection net.Conn, text string) {
	t.Helper()
	if err := exchange(connection, text); err != nil {
		t.Fatal(err)
	}
}

func TestCounts(t *testing.T) {
	p := start(t, echo(t), Options{})
	first, second := dial(t, p), dial(t, p)
	mustExchange(t, first, "hello")
	mustExchange(t, second, "world!")
	if p.Accepted() != 2 || p.Open() != 2 {
		t.Errorf("accepted %d, open %d; want 2, 2", p.Accepted(), p.Open())
	}
	expect.Eventually(t, "11 bytes each way", func() bool { return p.Sent() == 11 && p.Received() == 11 })
	first.Close()
	expect.Eventually(t, "one connection open", func() bool { return p.Open() == 1 })
	if p.Accepted() != 2 {
		t.Errorf("accepted %d, want 2", p.Accepted())
	}
}

// A large stream passes whole, both ways at once, and its end is passed on after its last byte.
func TestStream(t *testing.T) {
	for name, options := range map[string]Options{"plain": {}, "delayed": {RTT: 20 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			connection := dial(t, start(t, echo(t), options))
			sent := make([]byte, 8<<20)
			_, _ = rand.Read(sent) // never fails
			var writer sync.WaitGroup
			writer.Go(func() {
				if _, err := connection.Write(sent); err != nil {
					t.Error(err)
				}
				if err := connection.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			got, err := io.ReadAll(connection)
			writer.Wait()
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes (%v), want the %d that were sent", len(got), err, len(sent))
			}
		})
	}
}

// The first exchange takes a round trip for the handshake and one for itself; each further one takes one.
func TestRoundTrips(t *testing.T) {
	const rtt = 60 * time.Millisecond
	p := start(t, echo(t), Options{RTT: rtt})
	begin := time.Now()
	connection := dial(t, p)
	for trips := 2; trips <= 5; trips++ {
		mustExchange(t, connection, "ping")
		if took := time.Since(begin); took < time.Duration(trips)*rtt {
			t.Errorf("%d round trips took %s", trips, took)
		}
	}
	p.SetRTT(0)
	mustExchange(t, connection, "ping") // what is under way keeps its delay
	begin = time.Now()
	mustExchange(t, connection, "ping")
	if took := time.Since(begin); took > rtt {
		t.Errorf("an exchange took %s without a delay", took)
	}
}

// Chunks travel side by side: many that are sent apart take little longer than one.
func TestDelayIsPipelined(t *testing.T) {
	const rtt, chunks = 400 * time.Millisecond, 40
	connection := dial(t, start(t, echo(t), Options{RTT: rtt}))
	mustExchange(t, connection, "up")
	begin := time.Now()
	for range chunks {
		if _, err := connection.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // so that each is a chunk of its own
	}
	if _, err := io.ReadFull(connection, make([]byte, chunks)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < rtt || took > chunks/4*rtt/2 {
		t.Errorf("%d chunks took %s, want little more than %s", chunks, took, rtt)
	}
}

func TestThrottle(t *testing.T) {
	p := start(t, echo(t), Options{BytesPerSecond: 100_000})
	connection := dial(t, p)
	text := string(make([]byte, 20_000))
	begin := time.Now()
	mustExchange(t, connection, text)
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("20 kB at 100 kB/s took %s", took)
	}
	p.Throttle(0)
	mustExchange(t, connection, text) // no assertion on its time: the link may be busy still
}

func TestCut(t *testing.T) {
	p := start(t, echo(t), Options{})
	old := dial(t, p)
	mustExchange(t, old, "hello")
	p.Cut()
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that was cut: %v", err)
	}
	expect.Eventually(t, "no connection open", func() bool { return p.Open() == 0 })
	mustExchange(t, dial(t, p), "hello again")
}

func TestStall(t *testing.T) {
	p := start(t, echo(t), Options{})
	old := dial(t, p)
	mustExchange(t, old, "before")
	p.Stall(true)
	fresh := dial(t, p) // is accepted
	expect.Eventually(t, "two connections accepted", func() bool { return p.Accepted() == 2 })
	for _, connection := range []net.Conn{old, fresh} {
		if _, err := io.WriteString(connection, "during"); err != nil {
			t.Fatal(err)
		}
		silent(t, connection)
	}
	p.Stall(false)
	for _, connection := range []net.Conn{old, fresh} {
		got := make([]byte, len("during"))
		if _, err := io.ReadFull(connection, got); err != nil || string(got) != "during" {
			t.Errorf("after the stall comes %q (%v)", got, err)
		}
	}
	p.Stall(true)
	p.Cut() // works on a stalled connection too
	expect.Eventually(t, "no connection open", func() bool { return p.Open() == 0 })
}

// silent checks that nothing comes for a moment.
func silent(t *testing.T, connection net.Conn) {
	t.Helper()
	if err := connection.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := connection.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a stalled connection answers (%v)", err)
	}
	if err := connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

func TestRefuse(t *testing.T) {
	p := start(t, echo(t), Options{})
	old := dial(t, p)
	mustExchange(t, old, "before")
	for range 3 {
		if err := p.Refuse(true); err != nil {
			t.Fatal(err)
		}
		if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Address()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a new connection: %v", err)
		}
		mustExchange(t, old, "during")
		if err := p.Refuse(false); err != nil {
			t.Fatal(err)
		}
		mustExchange(t, dial(t, p), "after")
	}
}

// A target that does not listen resets the client.
func TestTargetDown(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	p := start(t, listener.Addr().String(), Options{})
	connection, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Address()) // may be reset before it is known to be up
	if err == nil {
		if exchange(connection, "anybody?") == nil {
			t.Error("somebody answers")
		}
		connection.Close()
	}
	expect.Eventually(t, "no connection open", func() bool { return p.Open() == 0 })
}

func TestClose(t *testing.T) {
	p := start(t, echo(t), Options{})
	connection := dial(t, p)
	mustExchange(t, connection, "hello")
	p.Stall(true)
	p.Close()
	p.Close()
	if _, err := connection.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	}
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Address()); err == nil {
		t.Error("the port answers")
	}
	if p.Refuse(false) == nil {
		t.Error("a closed proxy listens again")
	}
}
