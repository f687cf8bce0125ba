package monitor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

const (
	lookEvery      = time.Minute      // how often a failed listener is tried again, and a socket looked after
	requestTimeout = 10 * time.Second // for a request to come in, and for an answer to go out
	idleTimeout    = 2 * time.Minute  // a Prometheus scrapes once a minute or more often
	grace          = time.Second      // for answers under way, when the agent ends
	maxConnections = 32
	maxHeader      = 8 << 10
	maxBody        = 4 << 10
)

// Source is the agent that is looked at. Its functions are called from many goroutines.
type Source struct {
	// Snapshot returns what the agent knows at this moment. Its times keep their monotonic reading, so that a step of
	// the clock is not taken for a loop that hangs.
	Snapshot func() status.Status
	// Rotate has a new client certificate asked for. Its context ends with the request and with the server. An error
	// goes to whoever asked, with its class and its remedy.
	Rotate func(context.Context) error
}

// Server answers those who look.
type Server struct {
	Source Source
	Socket string       // path of the status socket; "" for none
	Listen string       // where to serve metrics: IP:PORT or unix:PATH; "" for nowhere
	Log    *slog.Logger // required

	every   time.Duration      // lookEvery, if 0
	timeout time.Duration      // requestTimeout, if 0
	heard   func(net.Listener) // told of each listener, if not nil
}

// listener is one of the two places where the server answers.
type listener struct {
	what    string // for the log
	address string
	open    func(context.Context) (net.Listener, error)
	handler http.Handler
}

// Run answers until ctx ends, then returns nil when every answer is given and every goroutine has ended. It fails at
// once, with [fault.Usage], if the address for metrics cannot be one.
func (s *Server) Run(ctx context.Context) error {
	var listeners []listener
	if s.Socket != "" {
		listeners = append(listeners, listener{"status", s.Socket, openSocket(s.Socket), s.statusHandler()})
	}
	if s.Listen != "" {
		open, err := opener(s.Listen)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener{"metrics", s.Listen, open, s.metricsHandler()})
	}
	var parts sync.WaitGroup
	for _, l := range listeners {
		parts.Go(func() { s.keep(ctx, l) })
	}
	<-ctx.Done()
	parts.Wait()
	return nil
}

// opener returns what listens on the address for metrics.
func opener(address string) (func(context.Context) (net.Listener, error), error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path != "" {
		return openSocket(path), nil
	}
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fault.New(fault.Usage, "write it as 127.0.0.1:10263 or unix:/run/nodejoin/metrics.sock", "metrics cannot be served at %q: it is neither IP:PORT nor unix:PATH", address)
	}
	return func(ctx context.Context) (net.Listener, error) {
		opened, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if errors.Is(err, errInUse) {
			return nil, fault.New(fault.Usage, "see who has it (ss -ltnp), or give another address as metrics.listen", "%w", err)
		}
		return opened, err
	}, nil
}

// keep has one place answer, whatever happens to it.
func (s *Server) keep(ctx context.Context, l listener) {
	look := time.NewTicker(cmp.Or(s.every, lookEvery))
	defer look.Stop()
	told := ""
	for ctx.Err() == nil {
		opened, err := l.open(ctx)
		if err == nil {
			s.Log.Info("listening", "for", l.what, "address", opened.Addr().String())
			if s.heard != nil {
				s.heard(opened)
			}
			err = s.serve(ctx, opened, l.handler, look.C)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errDeleted) {
			s.Log.Warn("the socket was deleted or replaced; making it again", "for", l.what, "address", l.address)
			continue
		}
		if text := err.Error(); text != told {
			s.Log.Warn("cannot listen; trying again every minute", "for", l.what, "address", l.address, "err", err, "remedy", fault.Remedy(err))
			told = text
		}
		select {
		case <-ctx.Done():
		case <-look.C:
		}
	}
}

// serve answers on one listener until ctx ends or the listener is of no use any more, and closes it. Each value from
// look has it looked after.
func (s *Server) serve(ctx context.Context, opened net.Listener, handler http.Handler, look <-chan time.Time) error {
	var connections sync.WaitGroup
	timeout := cmp.Or(s.timeout, requestTimeout)
	server := &http.Server{
		Handler: handler, BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state { //nolint:exhaustive // only the first and the last of a connection matter
			case http.StateNew:
				connections.Add(1)
			case http.StateClosed, http.StateHijacked:
				connections.Done()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(opened, maxConnections)) }()
	err := s.watch(ctx, opened, served, look)

	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if server.Shutdown(ending) != nil {
		_ = server.Close() // of connections that did not end in time; the listener is closed
	}
	connections.Wait()
	return err
}

// watch returns why a listener is to be closed. When it returns, no further connection is accepted.
func (s *Server) watch(ctx context.Context, opened net.Listener, served <-chan error, look <-chan time.Time) error {
	for {
		select {
		case err := <-served:
			return err
		case <-look:
			if socket, ok := opened.(*socket); !ok || socket.inPlace() {
				continue
			}
			_ = opened.Close() // it is gone from where it was
			<-served           //nolint:errcheck // http.ErrServerClosed or that it is closed
			return errDeleted
		case <-ctx.Done():
			_ = opened.Close() // nothing was written to it
			<-served           //nolint:errcheck // http.ErrServerClosed or that it is closed
			return ctx.Err()
		}
	}
}

func (s *Server) statusHandler() http.Handler {
	mux := s.metricsHandler()
	mux.HandleFunc("GET /status", s.tellStatus)
	mux.HandleFunc("POST /rotate", s.rotate)
	return mux
}

func (s *Server) metricsHandler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", newExposition(s.Source.Snapshot))
	mux.HandleFunc("GET /healthz", s.tellHealth)
	mux.HandleFunc("GET /readyz", s.tellReadiness)
	return mux
}

func (s *Server) tellStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Source.Snapshot())
}

func (s *Server) tellHealth(w http.ResponseWriter, _ *http.Request) {
	now, snapshot := time.Now(), s.Source.Snapshot()
	if !snapshot.Alive(now) {
		writeLine(w, http.StatusServiceUnavailable, snapshot.Summary(now))
		return
	}
	writeLine(w, http.StatusOK, "ok")
}

func (s *Server) tellReadiness(w http.ResponseWriter, _ *http.Request) {
	now, snapshot := time.Now(), s.Source.Snapshot()
	if !snapshot.Ready(now) {
		writeLine(w, http.StatusServiceUnavailable, snapshot.Summary(now))
		return
	}
	writeLine(w, http.StatusOK, "ok")
}

// wish is the body of POST /rotate. What is asked for is said in full, so that what a later version can be asked for
// besides is refused by this one, not passed over.
type wish struct {
	Force bool `json:"force"`
}

// refusal is the body of an answer that is no success.
type refusal struct {
	Error  string      `json:"error"`
	Remedy string      `json:"remedy,omitempty"`
	Class  fault.Class `json:"class,omitzero"` // 0 for what may pass
}

func (s *Server) rotate(w http.ResponseWriter, r *http.Request) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	var asked wish
	if err := decoder.Decode(&asked); err != nil || !asked.Force {
		writeJSON(w, http.StatusBadRequest, refusal{Error: fmt.Sprintf(`the body is not {"force":true} (%v)`, err), Class: fault.Usage})
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // to the end, so that it is noticed when whoever asked is gone
	// The agent takes the time that it takes.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // where it cannot be set, the time-out stays
	_ = control.SetWriteDeadline(time.Time{})
	if err := s.Source.Rotate(r.Context()); err != nil {
		answer := refusal{Error: err.Error(), Remedy: fault.Remedy(err)}
		if fault.IsFinal(err) {
			answer.Class = fault.ClassOf(err)
		}
		writeJSON(w, http.StatusConflict, answer)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // if it cannot be written, nobody reads it
}

func writeLine(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, line+"\n") // if it cannot be written, nobody reads it
}
