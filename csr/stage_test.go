package csr

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
)

// stage is an API server with one object, for what the real one cannot be made to do at a given second. It lives in a
// synctest bubble, so its days pass in no time.
type stage struct {
	watch func(n int, version string) reply // the n-th watch, from 1
	get   func(n int) *answer               // the n-th read; nil, or an answer of nil: the object

	made    chan struct{} // closed when the object is there
	mu      sync.Mutex
	start   time.Time
	object  *certificates.CertificateSigningRequest
	posts   int
	gets    []time.Duration // when, from the start
	watches []string        // the resource versions
}

// reply is what a watch is answered with: an answer, or a stream of lines.
type reply struct {
	answer *answer
	err    error
	silent bool                 // nothing, not even headers, until the client gives up
	stream func(*io.PipeWriter) // closes it
}

func newStage() *stage { return &stage{start: time.Now(), made: make(chan struct{})} }

func (s *stage) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Method == http.MethodPost {
		s.posts++
		object := &certificates.CertificateSigningRequest{}
		if err := json.NewDecoder(req.Body).Decode(object); err != nil {
			return nil, err
		}
		object.UID, object.ResourceVersion = "uid-1", "1"
		s.object = object
		close(s.made)
		return s.show(http.StatusCreated), nil
	}
	if req.URL.Query().Get("watch") == "" {
		s.gets = append(s.gets, time.Since(s.start))
		if s.get != nil {
			if a := s.get(len(s.gets)); a != nil {
				return serve(a).RoundTrip(req)
			}
		}
		return s.show(http.StatusOK), nil
	}
	s.watches = append(s.watches, req.URL.Query().Get("resourceVersion"))
	r := s.watch(len(s.watches), s.watches[len(s.watches)-1])
	switch {
	case r.silent:
		s.mu.Unlock()
		defer s.mu.Lock()
		<-req.Context().Done()
		return nil, req.Context().Err()
	case r.err != nil:
		return nil, r.err
	case r.answer != nil:
		return serve(r.answer).RoundTrip(req)
	}
	reader, writer := io.Pipe()
	context.AfterFunc(req.Context(), func() { writer.CloseWithError(req.Context().Err()) })
	go r.stream(writer)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: reader, Request: req}, nil
}

func (s *stage) show(code int) *http.Response {
	data, err := json.Marshal(s.object)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data))}
}

// change is what somebody does to the object.
func (s *stage) change(change func(*certificates.CertificateSigningRequest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.object.ResourceVersion += "0"
	change(s.object)
}

func issue(o *certificates.CertificateSigningRequest) {
	o.Status.Certificate = []byte("chain")
	o.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateApproved, Status: "True"}}
}

// event writes the object, changed, as an event of a watch.
func (s *stage) event(w io.Writer, kind string, change func(*certificates.CertificateSigningRequest)) {
	<-s.made
	s.mu.Lock()
	object := s.object.DeepCopy()
	s.mu.Unlock()
	if change != nil {
		change(object)
	}
	data, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", kind, data)
}

// silence is a watch on which nothing happens until the client ends it.
var silence = reply{stream: func(*io.PipeWriter) {}}

// lasting is a watch that ends after a while and on which nothing happens.
func lasting(d time.Duration) reply {
	return reply{stream: func(w *io.PipeWriter) { time.AfterFunc(d, func() { _ = w.Close() }) }}
}

var forbidden = reply{answer: &answer{code: 403, body: status("Forbidden", "cannot watch")}}

// obtain runs Obtain on a stage.
func (s *stage) obtain(t *testing.T) (string, error) {
	t.Helper()
	chain, err := newClient(t, s).Obtain(t.Context(), newRequest(t, testTemplate), nil)
	return string(chain), err
}
