// Package monitor lets others look at a running agent: its status, its metrics, and whether it lives. It keeps nothing
// of its own: every answer is made of a [status.Status] that the agent hands out when it is asked for.
//
// # The status socket
//
// HTTP over a unix socket that only the agent's own user can use (mode 0600 from its first moment, in a directory that
// nobody else can write to):
//
//	GET  /status    the status as JSON
//	POST /rotate    have a new client certificate asked for; the body is {"force":true}; 204, or {"error":…,"remedy":…,"class":…}
//	GET  /metrics   as below
//	GET  /healthz   as below
//	GET  /readyz    as below
//
// # The metrics listener
//
// At an address of loopback, or on a unix socket of its own, and without /status and /rotate:
//
//	GET  /metrics   Prometheus' text format
//	GET  /healthz   200 as long as the loop makes progress, else 503: it beats at least once a minute in every wait, and
//	                has five ([status.StaleAfter])
//	GET  /readyz    200 as long as the node's client certificate can be used, else 503 and what is waited for
//
// # How it fails
//
// It does not: watching an agent must not end it. A socket or an address that cannot be listened on is logged, once as
// long as the reason is the same, and tried again every minute, and a socket that was deleted is made again. Requests
// are limited in size, time and number.
package monitor
