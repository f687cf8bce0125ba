package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

const (
	// SocketName is the name of the status socket in the agent's runtime directory.
	SocketName = "nodejoin.sock"

	askTimeout = 10 * time.Second
	maxAnswer  = 4 << 20
)

// ErrNotRunning says that no agent listens on the socket.
var ErrNotRunning = errors.New("no agent runs on this machine")

// Ask asks the agent that listens on a socket for its status. Where none does, the error wraps [ErrNotRunning]; where
// this user may not ask, its class is [fault.Usage]. An agent that says nothing is given ten seconds.
func Ask(ctx context.Context, socket string) (*status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := request(ctx, socket, http.MethodGet, "/status", "")
	if err != nil {
		return nil, err
	}
	var s status.Status
	if err := json.Unmarshal(answer, &s); err != nil {
		return nil, fmt.Errorf("cannot read the answer of the agent, which may be of another version: %w", err)
	}
	return &s, nil
}

// Rotate has the agent that listens on a socket ask for a new client certificate, and waits for its answer. An error is
// the agent's, with its class and its remedy, or one as of [Ask].
func Rotate(ctx context.Context, socket string) error {
	_, err := request(ctx, socket, http.MethodPost, "/rotate", `{"force":true}`)
	return err
}

func request(ctx context.Context, socket, method, path, body string) ([]byte, error) {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialUnix(ctx, socket) },
		DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://nodejoin"+path, strings.NewReader(body)) // the host is the socket
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, explain(err, socket)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, explain(err, socket)
	}
	if resp.StatusCode/100 != 2 {
		return nil, refused(resp.StatusCode, answer)
	}
	return answer, nil
}

// explain says what it means that the agent could not be asked.
func explain(err error, socket string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNobody), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w (%w)", ErrNotRunning, err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Usage, "run it as root, or as the user that the agent runs as", "this user may not ask the agent: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Unexpected, "look at its log ("+fault.Log()+"), then: nodejoin service restart", "the agent does not answer on %s: %w", socket, err)
	}
	return fmt.Errorf("cannot ask the agent: %w", err)
}

// refused returns the error that the agent answered with.
func refused(code int, answer []byte) error {
	var r refusal
	if err := json.Unmarshal(answer, &r); err != nil || r.Error == "" {
		return fmt.Errorf("the agent answered %d %s", code, http.StatusText(code))
	}
	if r.Class == 0 {
		return errors.New(r.Error)
	}
	return fault.New(r.Class, r.Remedy, "%s", r.Error)
}
