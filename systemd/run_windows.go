package systemd

import (
	"context"
	"fmt"

	"github.com/kardianos/service"
)

// Run runs the program's loop as its service manager wants it: a service answers to the service control manager, and ends
// with the loop's error when that ends by itself. In a console it is the loop alone.
func Run(ctx context.Context, loop func(context.Context) error) error {
	if service.Interactive() {
		return loop(ctx)
	}
	h := newHosted(ctx, loop)
	s, err := service.New(h, settings("", nil))
	if err != nil {
		return fmt.Errorf("cannot answer to the service control manager: %w", err)
	}
	return host(h, s)
}
