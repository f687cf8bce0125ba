package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// chunkSize is the most that is relayed at once. Under a throttle a chunk arrives whole, when its last byte has.
	chunkSize = 16 << 10
	// chunksUnderWay bounds what one direction of a connection holds: 4 MiB, more than a socket's buffers.
	chunksUnderWay = 256
)

// link is one direction of the network, which all connections share.
type link struct {
	rate      atomic.Int64 // bytes per second; 0: unlimited
	delivered atomic.Int64

	mu   sync.Mutex
	busy time.Time // the last byte that was sent leaves the sender then
}

// departure returns when a chunk that is ready to be sent has left the sender.
func (l *link) departure(ready time.Time, size int) time.Time {
	rate := l.rate.Load()
	if rate <= 0 {
		return ready
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy.Before(ready) {
		l.busy = ready
	}
	l.busy = l.busy.Add(time.Duration(size) * time.Second / time.Duration(rate))
	return l.busy
}

// gate holds back everybody who passes it while it is shut.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil: open; else closed when it opens
}

func (g *gate) shut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case shut && g.opened == nil:
		g.opened = make(chan struct{})
	case !shut && g.opened != nil:
		close(g.opened)
		g.opened = nil
	}
}

// pass waits until the gate is open, or returns the error of the context.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		opened := g.opened
		g.mu.Unlock()
		if opened == nil {
			return ctx.Err()
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connection is one client's connection, and the one to the target behind it.
type connection struct {
	proxy  *Proxy
	client *net.TCPConn
	opened time.Time
	ctx    context.Context
	cancel context.CancelFunc // ends both directions

	mu     sync.Mutex
	target *net.TCPConn
}

// reset ends the connection at once, with a TCP reset to both sides.
func (c *connection) reset() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, side := range []*net.TCPConn{c.client, c.target} {
		if side != nil {
			_ = side.SetLinger(0) // fails on a connection that is closed, as it should be
		}
	}
	c.close()
}

// close is called with mu held.
func (c *connection) close() {
	for _, side := range []*net.TCPConn{c.client, c.target} {
		if side != nil {
			_ = side.Close() // all that was delivered was written, and a reset is meant to lose the rest
		}
	}
}

// relay copies both directions until both have ended, or one has failed.
func (c *connection) relay() {
	defer c.reset() // does nothing to a connection that has ended well
	if c.proxy.flow.pass(c.ctx) != nil {
		return
	}
	target, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(c.ctx, "tcp", c.proxy.target)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.target = target.(*net.TCPConn)
	c.mu.Unlock()
	if c.ctx.Err() != nil {
		return // reset while it was dialled
	}
	var directions sync.WaitGroup
	// On the imagined network the client may send a round trip after it asked for the connection, and the server half
	// a round trip later, with the client's acknowledgement.
	rtt := time.Duration(c.proxy.rtt.Load())
	up := direction{to: c.target, from: c.client, via: &c.proxy.upward, begin: c.opened.Add(rtt)}
	down := direction{to: c.client, from: c.target, via: &c.proxy.downward, begin: c.opened.Add(rtt + rtt/2)}
	directions.Go(func() { c.copy(up) })
	directions.Go(func() { c.copy(down) })
	directions.Wait()
	if c.ctx.Err() == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.close()
	}
}

// direction is what copy needs to know.
type direction struct {
	to, from *net.TCPConn
	via      *link
	begin    time.Time // nothing is sent before
}

// chunk is bytes under way. One without bytes is the end of the stream: io.EOF, or what broke it.
type chunk struct {
	bytes []byte
	end   error
	due   time.Time
}

// copy relays one direction. Reading and writing go on side by side, so that any number of chunks is under way at once.
func (c *connection) copy(d direction) {
	underWay := make(chan chunk, chunksUnderWay)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(underWay)
		c.read(d, underWay)
	})
	defer reader.Wait()
	for next := range underWay {
		if c.deliver(d, next) != nil {
			c.reset() // unblocks the reader, and the other direction
			return
		}
	}
}

// read sends what it reads on its way, stamped with the time at which it is due at the other side.
func (c *connection) read(d direction, underWay chan<- chunk) {
	for {
		buffer := make([]byte, chunkSize)
		size, err := d.from.Read(buffer)
		ready := time.Now()
		if ready.Before(d.begin) {
			ready = d.begin
		}
		delay := time.Duration(c.proxy.rtt.Load()) / 2
		if size > 0 && !c.send(underWay, chunk{bytes: buffer[:size], due: d.via.departure(ready, size).Add(delay)}) {
			return
		}
		if err != nil {
			c.send(underWay, chunk{end: err, due: d.via.departure(ready, 0).Add(delay)})
			return
		}
	}
}

func (c *connection) send(underWay chan<- chunk, next chunk) bool {
	select {
	case underWay <- next:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// deliver writes a chunk when it is due and the proxy is not stalled.
func (c *connection) deliver(d direction, next chunk) error {
	if err := wait(c.ctx, time.Until(next.due)); err != nil {
		return err
	}
	if err := c.proxy.flow.pass(c.ctx); err != nil {
		return err
	}
	if errors.Is(next.end, io.EOF) {
		_ = d.to.CloseWrite() // fails when that side has gone already, which the other direction notices
		return nil
	}
	if next.end != nil {
		return next.end
	}
	size, err := d.to.Write(next.bytes)
	d.via.delivered.Add(int64(size))
	return err
}

// wait waits for a duration or for the end of the context, whose error it returns.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
