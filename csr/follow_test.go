package csr

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificates "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// TestWatchEnds cuts the watch again and again: what happens to the object is seen within two seconds, and the API
// server is not asked without a pause.
func TestWatchEnds(t *testing.T) {
	for name, lifetime := range map[string]time.Duration{"every second": time.Second, "at once": 0, "every minute": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply { return lasting(lifetime) }
				const signed = 2 * time.Minute
				time.AfterFunc(signed, func() { s.change(issue) })
				chain, err := s.obtain(t)
				if err != nil || chain != "chain" {
					t.Fatalf("got %q, %v", chain, err)
				}
				if late := time.Since(s.start) - signed; late > 2*time.Second+lifetime {
					t.Errorf("seen %s later", late)
				}
				if s.posts != 1 {
					t.Errorf("%d requests were made", s.posts)
				}
				for i := range len(s.gets) - 1 {
					if pause := s.gets[i+1] - s.gets[i]; pause < lifetime+firstPause/2 {
						t.Fatalf("reads at %s and %s", s.gets[i], s.gets[i+1])
					}
				}
			})
		})
	}
}

// TestPolls is of a role that may create and get, and not watch.
func TestPolls(t *testing.T) {
	for name, refusal := range map[string]reply{
		"forbidden":     forbidden,
		"not supported": {answer: &answer{code: 405, body: status("MethodNotAllowed", "cannot watch")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply { return refusal }
				const signed = 2 * time.Hour
				time.AfterFunc(signed, func() { s.change(issue) })
				if chain, err := s.obtain(t); err != nil || chain != "chain" {
					t.Fatalf("got %q, %v", chain, err)
				}
				if late := time.Since(s.start) - signed; late > 3*longPause/2 {
					t.Errorf("seen %s later", late)
				}
				if len(s.watches) != 1 || s.posts != 1 {
					t.Errorf("%d watches, %d requests", len(s.watches), s.posts)
				}
				if first := s.gets[0]; first < firstPause/2 || first > 3*firstPause/2 {
					t.Errorf("the first read after %s", first)
				}
				if second := s.gets[1] - s.gets[0]; second < firstPause || second > 3*firstPause {
					t.Errorf("the second read %s later", second)
				}
				for i := 10; i < len(s.gets)-1; i++ {
					if pause := s.gets[i+1] - s.gets[i]; pause < longPause/2 || pause > 3*longPause/2 {
						t.Fatalf("a pause of %s", pause)
					}
				}
				if mean := signed / time.Duration(len(s.gets)); mean < longPause*8/10 || mean > longPause*12/10 {
					t.Errorf("a read every %s", mean)
				}
			})
		})
	}
}

// TestWatchFails has the first watch fail, and expects the second to begin where the reading ended.
func TestWatchFails(t *testing.T) {
	expired := answer{code: 410, body: status("Expired", "too old resource version")}
	for _, test := range []struct {
		name  string
		first func(s *stage) reply
	}{
		{"410 in the place of a stream", func(*stage) reply { return reply{answer: &expired} }},
		{"410 in the stream", func(*stage) reply {
			return reply{stream: func(w *io.PipeWriter) { // what follows is nothing to wait for
				_, _ = io.WriteString(w, `{"type":"ERROR","object":`+strings.Replace(expired.body, `"code":0`, `"code":410`, 1)+"}\n")
			}}
		}},
		{"a broken stream", func(*stage) reply {
			return reply{stream: func(w *io.PipeWriter) {
				_, _ = io.WriteString(w, `{"type":"MODIFIED","object":{"ki`)
				_ = w.CloseWithError(io.ErrUnexpectedEOF)
			}}
		}},
		{"a stream of HTML", func(*stage) reply {
			return reply{stream: func(w *io.PipeWriter) { _, _ = io.WriteString(w, html) }}
		}},
		{"a reset connection", func(*stage) reply { return reply{err: errors.New("connection reset by peer")} }},
		{"the end of the connection", func(*stage) reply { return reply{err: io.ErrUnexpectedEOF} }},
		{"unavailable", func(*stage) reply {
			return reply{answer: &answer{code: 503, retryAfter: "3600", body: statusDelay("ServiceUnavailable", "x", 3600)}}
		}},
		{"too many requests", func(*stage) reply { return reply{answer: &answer{code: 429, retryAfter: "3600", body: "slow down"}} }},
		{"a bad gateway", func(*stage) reply { return reply{answer: &answer{code: 502, body: html}} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(n int, _ string) reply {
					if n == 1 {
						return test.first(s)
					}
					return reply{stream: func(w *io.PipeWriter) { s.event(w, "MODIFIED", issue) }}
				}
				chain, err := s.obtain(t)
				if err != nil || chain != "chain" {
					t.Fatalf("got %q, %v", chain, err)
				}
				if took := time.Since(s.start); took > 2*time.Second {
					t.Errorf("it took %s", took)
				}
				if !slices.Equal(s.watches, []string{"", "1"}) || len(s.gets) != 1 || s.posts != 1 {
					t.Errorf("watches from %q, %d reads, %d requests", s.watches, len(s.gets), s.posts)
				}
			})
		})
	}
}

func TestWatchEvents(t *testing.T) {
	other := func(o *certificates.CertificateSigningRequest) {
		issue(o)
		o.Name = "node-csr-other"
	}
	earlier := func(o *certificates.CertificateSigningRequest) {
		issue(o)
		o.UID = "uid-0"
	}
	for _, test := range []struct {
		name   string
		stream func(s *stage, w io.Writer)
		is     error
		class  fault.Class
		want   string
		gone   bool                                          // a read finds nothing
		now    func(*certificates.CertificateSigningRequest) // or the object, changed
	}{
		{"issued", func(s *stage, w io.Writer) { s.event(w, "ADDED", nil); s.event(w, "MODIFIED", issue) }, nil, 0, "", false, nil},
		{"another's first", func(s *stage, w io.Writer) {
			s.event(w, "ADDED", other)
			s.event(w, "DELETED", other)
			s.event(w, "ADDED", issue)
		}, nil, 0, "", false, nil},
		{"a bookmark first", func(s *stage, w io.Writer) {
			_, _ = io.WriteString(w, `{"type":"BOOKMARK","object":{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","metadata":{"resourceVersion":"9"}}}`+"\n")
			s.event(w, "MODIFIED", issue)
		}, nil, 0, "", false, nil},
		{"deleted", func(s *stage, w io.Writer) { s.event(w, "DELETED", nil) }, ErrGone, 0, "was deleted", true, nil},
		{"deleted after it was issued", func(s *stage, w io.Writer) { s.event(w, "DELETED", issue) }, ErrGone, 0, "was deleted", true, nil},
		{"deleted before ours was made", func(s *stage, w io.Writer) {
			s.event(w, "DELETED", earlier)
			s.event(w, "MODIFIED", issue)
		}, nil, 0, "", false, nil},
		{"there before ours was made", func(s *stage, w io.Writer) {
			s.event(w, "ADDED", earlier)
			s.event(w, "MODIFIED", issue)
		}, nil, 0, "", false, nil},
		{
			"another UID", func(s *stage, w io.Writer) { s.event(w, "ADDED", earlier) },
			ErrReplaced, fault.Untrusted, "was replaced by another object of that name", false, earlier,
		},
		{"another request", func(s *stage, w io.Writer) {
			s.event(w, "MODIFIED", func(o *certificates.CertificateSigningRequest) {
				issue(o)
				asking(t, keyOf(t, "other"))(o)
			})
		}, ErrReplaced, fault.Untrusted, "has the key another's", false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply { return reply{stream: func(w *io.PipeWriter) { test.stream(s, w) }} }
				s.get = func(int) *answer {
					if test.gone {
						return &answer{code: 404, body: status("NotFound", "x")}
					}
					if test.now != nil {
						test.now(s.object)
					}
					return nil
				}
				chain, err := s.obtain(t)
				if test.is == nil {
					if err != nil || chain != "chain" {
						t.Fatalf("got %q, %v", chain, err)
					}
					return
				}
				expect.Fault(t, err, test.class, test.want)
				wantEnded(t, err, newRequest(t, testTemplate).Name)
				if !errors.Is(err, test.is) {
					t.Errorf("got %v, want %v", err, test.is)
				}
			})
		})
	}
}

// TestReadAfterWatch is of what the reading that follows a broken watch can find.
func TestReadAfterWatch(t *testing.T) {
	for _, test := range []struct {
		name   string
		get    *answer
		change func(*certificates.CertificateSigningRequest)
		is     error
		class  fault.Class
		want   string
	}{
		{name: "it is gone", get: &answer{code: 404, body: status("NotFound", "x")}, is: ErrGone, want: "was deleted, or collected"},
		{name: "another took its place", change: func(o *certificates.CertificateSigningRequest) { o.UID = types.UID("uid-2") }, is: ErrReplaced, class: fault.Untrusted, want: "was replaced"},
		{name: "another with our name", change: func(o *certificates.CertificateSigningRequest) { asking(t, keyOf(t, "other"))(o) }, is: ErrReplaced, class: fault.Untrusted, want: "has the key another's"},
		{name: "an error that passes", get: &answer{code: 503, retryAfter: "7", body: html}, want: "unable to handle the request"},
		{name: "the credential is dead", get: &answer{code: 401, body: status("Unauthorized", "Unauthorized")}, is: ErrUnauthorized, want: "(401)"},
		{name: "the right to read is gone", get: &answer{code: 403, body: status("Forbidden", `certificatesigningrequests is forbidden: User \"x\" cannot get`)}, class: fault.Refused, want: "may not get"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.get = func(int) *answer { return test.get }
				s.watch = func(int, string) reply {
					return reply{stream: func(w *io.PipeWriter) {
						time.AfterFunc(time.Minute, func() {
							if test.change != nil {
								s.change(test.change)
							}
							_ = w.Close()
						})
					}}
				}
				_, err := s.obtain(t)
				expect.Fault(t, err, test.class, test.want)
				if test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("got %v, want %v", err, test.is)
				}
				if delay, _ := apierrors.SuggestsClientDelay(err); test.get != nil && test.get.retryAfter != "" && delay != 7 {
					t.Errorf("a delay of %d in %v", delay, err)
				}
			})
		})
	}
}

func TestWatchUnauthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.watch = func(int, string) reply {
			return reply{answer: &answer{code: 401, body: status("Unauthorized", "Unauthorized")}}
		}
		if _, err := s.obtain(t); !errors.Is(err, ErrUnauthorized) || fault.IsFinal(err) {
			t.Errorf("got %v", err)
		}
	})
}

// TestDeadlines: a server that accepts and says nothing costs 30 seconds, and an end of the context none.
func TestDeadlines(t *testing.T) {
	silent := roundTrip(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	})
	t.Run("a silent server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			_, err := newClient(t, silent).Obtain(t.Context(), newRequest(t, testTemplate), nil)
			expect.Fault(t, err, 0, "deadline exceeded")
			if took := time.Since(start); took != requestTimeout {
				t.Errorf("it took %s", took)
			}
		})
	})
	stopped := errors.New("stopped")
	for name, watch := range map[string]reply{"while it watches": silence, "while it polls": forbidden} {
		t.Run("stopped "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply { return watch }
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Hour, func() { cancel(stopped) })
				_, err := newClient(t, s).Obtain(ctx, newRequest(t, testTemplate), nil)
				if !errors.Is(err, stopped) || time.Since(s.start) != time.Hour {
					t.Errorf("after %s: %v", time.Since(s.start), err)
				}
			})
		})
	}
	t.Run("stopped before it began", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := newClient(t, silent).Obtain(ctx, newRequest(t, testTemplate), nil); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	})
}

// TestWatchSilent has something between here and the API server keep the headers of every watch.
func TestWatchSilent(t *testing.T) {
	t.Run("always", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage()
			s.watch = func(int, string) reply { return reply{silent: true} }
			const signed = 2 * time.Hour
			time.AfterFunc(signed, func() { s.change(issue) })
			if chain, err := s.obtain(t); err != nil || chain != "chain" {
				t.Fatalf("got %q, %v", chain, err)
			}
			if late := time.Since(s.start) - signed; late > requestTimeout+3*longPause/2 {
				t.Errorf("seen %s later", late)
			}
			for i := range len(s.gets) - 1 {
				if pause := s.gets[i+1] - s.gets[i]; pause < requestTimeout {
					t.Fatalf("reads at %s and %s", s.gets[i], s.gets[i+1])
				}
			}
			// The last watch is cancelled before or after it got here.
			if most := int(signed/requestTimeout) + 1; len(s.gets) > most || len(s.watches) < len(s.gets) || len(s.watches) > len(s.gets)+1 || s.posts != 1 {
				t.Errorf("%d reads, %d watches, %d requests; want at most %d", len(s.gets), len(s.watches), s.posts, most)
			}
		})
	})
	t.Run("twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage()
			const signed = 10 * time.Minute
			s.watch = func(n int, _ string) reply {
				if n <= 2 {
					return reply{silent: true}
				}
				return reply{stream: func(w *io.PipeWriter) {
					time.AfterFunc(signed-time.Since(s.start), func() { s.event(w, "MODIFIED", issue) })
				}}
			}
			if chain, err := s.obtain(t); err != nil || chain != "chain" || time.Since(s.start) != signed {
				t.Fatalf("got %q, %v, after %s", chain, err, time.Since(s.start))
			}
			if !slices.Equal(s.watches, []string{"", "1", "1"}) || len(s.gets) != 2 {
				t.Errorf("watches from %q, %d reads", s.watches, len(s.gets))
			}
		})
	})
	t.Run("an open one is left alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage()
			s.watch = func(int, string) reply { return silence }
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			_, err := newClient(t, s).Obtain(ctx, newRequest(t, testTemplate), nil)
			if !errors.Is(err, context.DeadlineExceeded) || len(s.watches) != 1 || len(s.gets) != 0 {
				t.Errorf("%d watches, %d reads, %v", len(s.watches), len(s.gets), err)
			}
		})
	})
}
