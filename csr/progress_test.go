package csr

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	certificates "k8s.io/api/certificates/v1"
)

// TestProgress: while things happen, the report comes when something has changed, and not again.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		approved := func(o *certificates.CertificateSigningRequest) {
			issue(o)
			o.Status.Certificate = nil
		}
		s.watch = func(int, string) reply {
			return reply{stream: func(w *io.PipeWriter) {
				for range 3 {
					s.event(w, "MODIFIED", nil)
				}
				for range 3 {
					s.event(w, "MODIFIED", approved)
				}
				s.event(w, "MODIFIED", issue)
			}}
		}
		var got []Progress
		request := newRequest(t, testTemplate)
		if _, err := newClient(t, s).Obtain(t.Context(), request, func(p Progress) { got = append(got, p) }); err != nil {
			t.Fatal(err)
		}
		waits := Progress{Name: request.Name, SignerName: request.Template.SignerName}
		approval := waits
		approval.Approved = true
		if want := []Progress{waits, approval}; !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestHeartbeat: a caller hears at least once a minute that the request still waits, whatever the waiting is made of,
// and nothing after the end.
func TestHeartbeat(t *testing.T) {
	for name, test := range map[string]struct {
		watch reply
		slow  time.Duration // that each read takes
	}{
		"while it watches":                           {watch: silence},
		"while watches end":                          {watch: lasting(time.Minute)},
		"while it polls":                             {watch: forbidden},
		"while it polls a slow server":               {watch: forbidden, slow: requestTimeout - time.Second},
		"while watches do not open":                  {watch: reply{silent: true}},
		"while watches of a slow server do not open": {watch: reply{silent: true}, slow: requestTimeout - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply { return test.watch }
				slow := roundTrip(func(req *http.Request) (*http.Response, error) {
					if req.Method == http.MethodGet && req.URL.Query().Get("watch") == "" {
						time.Sleep(test.slow)
					}
					return s.RoundTrip(req)
				})
				const all = 3 * time.Hour
				ctx, cancel := context.WithTimeout(t.Context(), all)
				defer cancel()
				var beats []time.Duration
				request := newRequest(t, testTemplate)
				want := Progress{Name: request.Name, SignerName: request.Template.SignerName}
				_, err := newClient(t, slow).Obtain(ctx, request, func(p Progress) {
					if p != want {
						t.Errorf("got %+v, want %+v", p, want)
					}
					beats = append(beats, time.Since(s.start))
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				n := len(beats)
				if n < 2 || beats[0] != 0 || all-beats[n-1] > time.Minute {
					t.Fatalf("%d beats: %s", n, beats)
				}
				for i := range n - 1 {
					if gap := beats[i+1] - beats[i]; gap > time.Minute {
						t.Errorf("nothing between %s and %s", beats[i], beats[i+1])
					}
				}
				if most := int(all/heartbeat) + 1; n > most {
					t.Errorf("%d beats, want at most %d", n, most)
				}
				time.Sleep(time.Hour)
				if len(beats) != n {
					t.Error("it beats after its end")
				}
			})
		})
	}
}

// TestLifetimeChanged has an admission webhook change what the object asks for.
func TestLifetimeChanged(t *testing.T) {
	for name, test := range map[string]struct {
		seconds *int32
		want    time.Duration
	}{"shorter": {new(int32(600)), 10 * time.Minute}, "longer": {new(int32(86400)), 24 * time.Hour}, "none": {nil, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.watch = func(int, string) reply {
					return reply{stream: func(w *io.PipeWriter) { s.event(w, "MODIFIED", issue) }}
				}
				webhook := roundTrip(func(req *http.Request) (*http.Response, error) {
					response, err := s.RoundTrip(req)
					if req.Method == http.MethodPost && err == nil {
						s.change(func(o *certificates.CertificateSigningRequest) { o.Spec.ExpirationSeconds = test.seconds })
						return s.show(http.StatusCreated), nil
					}
					return response, err
				})
				var got []Progress
				chain, err := newClient(t, webhook).Obtain(t.Context(), newRequest(t, KubeletClient("node-1", time.Hour)), func(p Progress) { got = append(got, p) })
				if err != nil || string(chain) != "chain" || len(got) == 0 || got[0].Lifetime != test.want {
					t.Errorf("got %q, %v, %+v", chain, err, got)
				}
			})
		})
	}
}
