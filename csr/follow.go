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

	opened  chan opened // the watch that is being opened
	stream  watch.Interface
	blind   bool          // watching is forbidden: poll
	pause   time.Duration // before the next look
	version string        // the last resource version seen
}

type opened struct {
	stream watch.Interface
	err    error
}

// follow starts a follower, whose first watch is being opened when it returns. The caller calls wait when it is done,
// after cancelling ctx.
func (c *Client) follow(ctx context.Context, name string) *follower {
	f := &follower{client: c, name: name, pause: firstPause}
	f.open(ctx)
	return f
}

func (f *follower) open(ctx context.Context) {
	result := make(chan opened, 1)
	f.opened = result
	version := f.version
	go func() {
		stream, err := f.client.watch(ctx, f.name, version)
		result <- opened{stream, err}
	}()
}

// wait ends the watch and waits for what was started.
func (f *follower) wait() {
	if f.opened != nil {
		f.stream = (<-f.opened).stream
		f.opened = nil
	}
	if f.stream == nil {
		return
	}
	f.stream.Stop()
	for range f.stream.ResultChan() {
	}
}

// next returns the next state of the object. It fails when the object is gone, or when ctx ends.
func (f *follower) next(ctx context.Context) (*certificates.CertificateSigningRequest, error) {
	for {
		if f.opened != nil {
			if err := f.await(ctx); err != nil {
				return nil, err
			}
		}
		if f.stream == nil {
			return f.look(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case event, open := <-f.stream.ResultChan():
			if !open || event.Type == watch.Error { // ended by the server, broken off, or 410 Gone: read anew
				f.stream.Stop()
				f.stream = nil
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
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case result := <-f.opened:
		f.opened, f.stream = nil, result.stream
		switch err := result.err; {
		case err == nil:
			f.pause = firstPause // being cut again and again must not make it look away for longer and longer
		case apierrors.IsForbidden(err), apierrors.IsMethodNotSupported(err):
			f.blind = true
		case apierrors.IsUnauthorized(err):
			return explain(err, "watch")
		}
	}
	return nil
}

// look pauses, reads the object, and opens the next watch from there.
func (f *follower) look(ctx context.Context) (*certificates.CertificateSigningRequest, error) {
	timer := time.NewTimer(f.pause/2 + rand.N(f.pause)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timer.C:
	}
	f.pause = min(2*f.pause, longPause)
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
