package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestBackoffDoublesWithJitter(t *testing.T) {
	for range 200 { // the pauses are drawn at random
		var b backoff
		for i, pause := range []time.Duration{
			250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
			longPause, longPause, longPause,
		} {
			if got := b.next(io.EOF); got < pause/2 || got >= pause*3/2 {
				t.Fatalf("pause %d is %s, not within half of %s", i+1, got, pause)
			}
		}
	}
}

func TestBackoffHonoursRetryAfter(t *testing.T) {
	for _, test := range []struct {
		asked       int // seconds
		least, most time.Duration
	}{
		{0, 125 * time.Millisecond, 375 * time.Millisecond},
		{1, time.Second, time.Second},
		{20, 20 * time.Second, 20 * time.Second},
		{30, mostAsked, mostAsked},
		{3600, mostAsked, mostAsked}, // a server cannot send an agent to sleep
		{-5, 125 * time.Millisecond, 375 * time.Millisecond},
	} {
		var b backoff
		err := fmt.Errorf("cannot create: %w", apierrors.NewTooManyRequests("busy", test.asked))
		if got := b.next(err); got < test.least || got > test.most {
			t.Errorf("Retry-After %d: %s, not between %s and %s", test.asked, got, test.least, test.most)
		}
	}
}

func TestBackoffEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		began := time.Now()
		if err := b.wait(t.Context(), io.EOF); err != nil {
			t.Fatal(err)
		}
		if passed := time.Since(began); passed < firstPause/2 || passed >= firstPause*3/2 {
			t.Errorf("waited for %s", passed)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		began = time.Now()
		if err := b.wait(ctx, io.EOF); !errors.Is(err, cause) {
			t.Errorf("%v instead of %v", err, cause)
		}
		if passed := time.Since(began); passed != 0 {
			t.Errorf("waited for %s although the context had ended", passed)
		}
	})
}
