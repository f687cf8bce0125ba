package bootstrap

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// reachTimeout bounds what Reach spends on an endpoint.
const reachTimeout = 10 * time.Second

// Reached is an endpoint and why it cannot be used; Err is nil for one that is alive and that the cluster's CA
// vouches for. It is final (see package fault) for a server that is not to be trusted, and passing for one that is out
// of reach.
type Reached struct {
	Endpoint Endpoint
	Err      error
}

// Reach makes a TLS handshake with every endpoint of the cluster, all at the same time and none for longer than 10 s,
// and returns how they ended in the order of the endpoints. No credential is presented and no request is sent.
//
// It answers whether a CA bundle that is about to be committed would cut this machine off: with that bundle as the
// cluster's CA, not every endpoint may fail.
func Reach(ctx context.Context, cluster *Cluster) []Reached { return reach(ctx, cluster, reachTimeout) }

func reach(ctx context.Context, cluster *Cluster, timeout time.Duration) []Reached {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no TLS handshake within %s", timeout))
	defer cancel()
	conn := ConnectionTo(cluster, nil)
	reached := make([]Reached, len(cluster.Endpoints))
	var handshakes sync.WaitGroup
	for i, endpoint := range cluster.Endpoints {
		handshakes.Go(func() { reached[i] = Reached{Endpoint: endpoint, Err: conn.handshake(ctx, endpoint)} })
	}
	handshakes.Wait()
	return reached
}

// handshake opens a connection to the endpoint and closes it. HTTP/1.1 has nothing to say before the first request.
func (c *Connection) handshake(ctx context.Context, endpoint Endpoint) error {
	transport := c.transport(ctx, endpoint)
	transport.ForceAttemptHTTP2 = false
	conn, err := c.dial(ctx, endpoint, transport)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot connect to %s: %w", endpoint, context.Cause(ctx))
		}
		return err
	}
	_ = conn.Close() // it has served its purpose
	return nil
}
