package csr

import (
	"context"
	"math/rand/v2"
	"time"

	certificates "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

// Pauses between two looks at a request whose watch ended or is forbidden.
const (
	firstPause = 500 * time.Millisecond
	longPause  = 15 * time.Second
)

// follower gives the states of one object as they come. It watches; when a watch ends, for whatever reason, it reads
// the object, so that nothing that happened in between is missed, and watches on from what it has read.
type follower struct {
	client *Client
	name   string
	alive  func() // called at every beat while there is nothing to give
	beat   *time.Ticker

	opened  chan stream   // the watch that is being opened
	current stream        // the watch that is open
	blind   bool          // watching is forbidden: poll
	pause   time.Duration // before the next look
	version string        // the last resource version seen
}

// stream is a watch, or why there is none.
type stream struct {
	watch.Interface
	cancel context.CancelFunc
	err    error
}

// end ends a watch and waits for what reads it.
func (s stream) end() {
	if s.cancel != nil {
		s.cancel()
	}
	if s.Interface != nil {
		s.Stop()
		for range s.ResultChan() {
		}
	}
}

// follow starts a follower, whose first watch is being opened when it returns. The caller calls wait when it is done,
// after cancelling ctx.
func (c *Client) follow(ctx context.Context, name string, alive func()) *follower {
	f := &follower{client: c, name: name, alive: alive, beat: time.NewTicker(heartbeat), pause: firstPause}
	f.open(ctx)
	return f
}

// open opens a watch, and gives it up when its headers do not come: something between here and the API server may keep
// them until the first event. Then what follows is a look, and the next try.
func (f *follower) open(ctx context.Context) {
	result := make(chan stream, 1)
	f.opened = result
	version := f.version
	go func() {
		ctx, cancel := context.WithCancel(ctx)
		limit := time.AfterFunc(requestTimeout, cancel)
		opened, err := f.client.watch(ctx, f.name, version)
		limit.Stop() // if it is too late, the watch that was opened ends at once
		result <- stream{opened, cancel, err}
	}()
}

// wait ends the watch and waits for what was started.
func (f *follower) wait() {
	f.beat.Stop()
	if f.opened != nil {
		(<-f.opened).end()
	}
	f.current.end()
}

// next returns the next state of the object. It fails when the object is gone, or when ctx ends.
func (f *follower) next(ctx context.Context) (*certificates.CertificateSigningRequest, error) {
	for {
		if f.opened != nil {
			if err := f.await(ctx); err != nil {
				return nil, err
			}
		}
		if f.current.Interface == nil {
			return f.look(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.beat.C:
			f.alive()
		case event, open := <-f.current.ResultChan():
			if !open || event.Type == watch.Error { // ended by the server, broken off, or 410 Gone: read anew
				f.current.end()
				f.current = stream{}
				continue
			}
			object, ok := event.Object.(*certificates.CertificateSigningRequest)
			if !ok || object.Name != f.name {
				continue
			}
			if event.Type == watch.Deleted { // it, or one of the name that was there before: ask
				return f.client.get(ctx, f.name)
			}
			f.version = object.ResourceVersion
			return object, nil
		}
	}
}

// await waits for the watch that is being opened.
func (f *follower) await(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.beat.C:
			f.alive()
		case result := <-f.opened:
			f.opened = nil
			if result.err == nil {
				f.current = result
				f.pause = firstPause // being cut again and again must not make it look away for longer and longer
				return nil
			}
			result.end()
			switch {
			case apierrors.IsForbidden(result.err), apierrors.IsMethodNotSupported(result.err):
				f.blind = true
			case apierrors.IsUnauthorized(result.err):
				return explain(result.err, "watch")
			}
			return nil
		}
	}
}

// look pauses, reads the object, and opens the next watch from there.
func (f *follower) look(ctx context.Context) (*certificates.CertificateSigningRequest, error) {
	if err := f.rest(ctx); err != nil {
		return nil, err
	}
	object, err := f.client.get(ctx, f.name)
	if err != nil {
		return nil, err
	}
	f.version = object.ResourceVersion
	if !f.blind {
		f.open(ctx)
	}
	return object, nil
}

// rest pauses, and lets the next pause be longer.
func (f *follower) rest(ctx context.Context) error {
	timer := time.NewTimer(f.pause/2 + rand.N(f.pause)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	f.pause = min(2*f.pause, longPause)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.beat.C:
			f.alive()
		case <-timer.C:
			return nil
		}
	}
}
