package agent

import (
	"context"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Pauses between attempts.
const (
	firstPause = 250 * time.Millisecond
	longPause  = 10 * time.Second
	mostAsked  = 30 * time.Second // of what a Retry-After may ask for
)

// backoff doubles the pause between attempts, with full jitter over a floor of half, so that machines that lost their
// API server together do not come back together. The zero value begins with the first pause.
type backoff struct {
	first, longest time.Duration // firstPause and longPause, if they are zero
	pause          time.Duration // the last
}

// next returns the pause before the next attempt, after err.
func (b *backoff) next(err error) time.Duration {
	b.pause = min(max(2*b.pause, orDefault(b.first, firstPause)), orDefault(b.longest, longPause))
	pause := b.pause/2 + rand.N(b.pause) //nolint:gosec // jitter is no secret
	if seconds, asked := apierrors.SuggestsClientDelay(err); asked {
		pause = max(pause, min(time.Duration(seconds)*time.Second, mostAsked))
	}
	return pause
}

// wait pauses before the next attempt, and fails when ctx ends first.
func (b *backoff) wait(ctx context.Context, err error) error {
	timer := time.NewTimer(b.next(err))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
