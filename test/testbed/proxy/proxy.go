// Package proxy is a TCP proxy that stands for the network between a machine and the API server in tests.
//
// It counts connections and bytes, gives the path a round-trip time and a bandwidth, cuts connections, goes silent and
// refuses. It does not look into what it relays, so TLS passes unbroken.
//
// The delay is that of a long wire: bytes that are sent one after another arrive one after another, each half a round
// trip late, however many are under way. A new connection costs a round trip before its first byte moves, which is
// TCP's handshake (loopback's own takes no time). So a conversation over the proxy takes as many round trips as over a
// real network, and time divided by RTT counts them.
//
// A Proxy does not fail once it listens: a connection that cannot be relayed is reset.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodejoin/nodejoin/test/internal/port"
)

// dialTimeout bounds the connection to the target, which is on the same machine.
const dialTimeout = 10 * time.Second

// Options are what the network is like at first. The zero value adds nothing to loopback.
type Options struct {
	Address        string        // IP address to listen on; empty: 127.0.0.1
	RTT            time.Duration // round-trip time
	BytesPerSecond int           // bandwidth of each direction, shared by all connections; 0: unlimited
}

// Proxy relays connections to one target. Its methods may be called from several goroutines.
type Proxy struct {
	target string
	held   *port.Held

	rtt      atomic.Int64 // time.Duration
	accepted atomic.Int64
	upward   link // client to target
	downward link

	flow gate // closed while the proxy is stalled

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	open     map[*connection]bool
	closed   bool
	running  sync.WaitGroup
}

// New starts a proxy for a target, HOST:PORT, that need not listen yet. Close ends it.
func New(target string, options Options) (*Proxy, error) {
	if options.Address == "" {
		options.Address = "127.0.0.1"
	}
	held, err := port.Hold(options.Address)
	if err != nil {
		return nil, fmt.Errorf("start a proxy for %s: %w", target, err)
	}
	p := &Proxy{target: target, held: held, open: make(map[*connection]bool)}
	p.SetRTT(options.RTT)
	p.Throttle(options.BytesPerSecond)
	if err := p.listen(); err != nil {
		held.Close()
		return nil, fmt.Errorf("start a proxy for %s: %w", target, err)
	}
	return p, nil
}

// Address returns HOST:PORT that the proxy listens on. It stays the same over Refuse.
func (p *Proxy) Address() string { return p.held.Address() }

// Accepted returns how many connections were accepted so far.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Open returns how many connections are open now.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// Sent returns how many bytes have been delivered to the target.
func (p *Proxy) Sent() int64 { return p.upward.delivered.Load() }

// Received returns how many bytes of the target's have been delivered to clients.
func (p *Proxy) Received() int64 { return p.downward.delivered.Load() }

// SetRTT changes the round-trip time, for what is sent from now on.
func (p *Proxy) SetRTT(rtt time.Duration) { p.rtt.Store(int64(rtt)) }

// Throttle changes the bandwidth of each direction, in bytes per second; 0 means unlimited.
func (p *Proxy) Throttle(bytesPerSecond int) {
	p.upward.rate.Store(int64(bytesPerSecond))
	p.downward.rate.Store(int64(bytesPerSecond))
}

// Stall makes the network swallow everything, or flow again: no byte moves on any connection, and new ones are accepted
// and left alone, without a connection to the target. What was sent meanwhile arrives after the stall.
func (p *Proxy) Stall(stalled bool) { p.flow.shut(stalled) }

// Refuse makes new connections be refused, or accepted again. Those that are open stay; see Cut.
func (p *Proxy) Refuse(refused bool) error {
	if !refused {
		return p.listen()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopListening()
}

// Cut resets all connections that are open.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.reset()
	}
}

// Close resets all connections, ends the proxy and waits for it. A second Close does nothing.
func (p *Proxy) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	_ = p.stopListening() // it ends either way
	p.mu.Unlock()
	p.Cut()
	p.running.Wait()
	p.held.Close()
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the proxy is closed")
	}
	if p.listener != nil {
		return nil
	}
	listener, err := p.held.Listen(context.Background())
	if err != nil {
		return err
	}
	p.listener = listener
	p.running.Go(func() { p.accept(listener) })
	return nil
}

// stopListening is called with mu held.
func (p *Proxy) stopListening() error {
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	return err
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptor is free, or the client has gone again
			_ = wait(context.Background(), 10*time.Millisecond)
			continue
		}
		p.accepted.Add(1)
		if c := p.admit(client.(*net.TCPConn)); c != nil {
			p.running.Go(func() {
				defer p.forget(c)
				c.relay()
			})
		}
	}
}

func (p *Proxy) admit(client *net.TCPConn) *connection {
	ctx, cancel := context.WithCancel(context.Background())
	c := &connection{proxy: p, client: client, opened: time.Now(), ctx: ctx, cancel: cancel}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.reset()
		return nil
	}
	p.open[c] = true
	return c
}

func (p *Proxy) forget(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}
