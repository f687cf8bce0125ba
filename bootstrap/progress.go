package bootstrap

import "context"

type progressKey struct{}

// WithProgress returns a context under which whatever is done calls progress when it gets on: at each server that is
// tried, say. Nothing in this package is silent for much longer than a minute, however many servers there are and
// however slowly they answer: whoever is has come to a standstill.
func WithProgress(ctx context.Context, progress func()) context.Context {
	return context.WithValue(ctx, progressKey{}, progress)
}

// Progress says that what is done under ctx gets on.
func Progress(ctx context.Context) {
	if progress, ok := ctx.Value(progressKey{}).(func()); ok {
		progress()
	}
}
