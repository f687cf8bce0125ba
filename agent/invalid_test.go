package agent

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

const expiredFile = "/etc/nodejoin/joining.pem"

// expired gives the machine a client certificate that expired an hour ago as its credential.
func (h *host) expired() {
	h.t.Helper()
	h.write(DefaultCAFile, string(h.cluster.signer.pem()), 0o644)
	pair := h.pair(-2*time.Hour, -time.Hour)
	h.write(expiredFile, h.both(pair), 0o600)
	h.change = func(o *Options) {
		o.Credentials = []config.Credential{{ClientCertificate: &config.ClientCertificate{CertificateFile: expiredFile, PrivateKeyFile: expiredFile}}}
	}
}

// both returns a certificate and its key in one file.
func (h *host) both(pair *rotate.KeyPair) string {
	h.t.Helper()
	key, err := csr.MarshalKey(pair.Key().(crypto.Signer))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})) + string(key)
}

// roundTrips is a transport that is a function.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// cutOff has the requests of an agent end as those with an expired certificate do: now with 401, now with the connection,
// as answers says in turn.
func (h *host) cutOff(a *Agent, answers ...int) {
	ways := a.identity.role.ways
	var n atomic.Int64
	a.identity.role.ways = func(s *sight) []way {
		all := ways(s)
		for i := range all {
			all[i].authenticate = func(http.RoundTripper) http.RoundTripper {
				return roundTrips(func(r *http.Request) (*http.Response, error) {
					if r.Method != http.MethodPost { // the watch, which is opened meanwhile: its turn would not be the same each time
						return nil, errors.New("http2: client conn not usable")
					}
					if answers[int(n.Add(1)-1)%len(answers)] == 0 {
						return nil, errors.New("http2: client conn not usable")
					}
					answer := httptest.NewRecorder()
					refuse(answer, apierrors.NewUnauthorized("Unauthorized"))
					return answer.Result(), nil
				})
			}
		}
		return all
	}
}

// What a credential says of itself is the cause, whatever the connections end with that it is shown on.
func TestExpiredCredential(t *testing.T) {
	const why = "it expired at "
	for _, test := range []struct {
		name    string
		answers []int // 0 is a connection that is ended
		final   bool
	}{
		{"refused", []int{401}, true},
		{"refused, or the connection is ended", []int{401, 0}, true},
		{"the other way round", []int{0, 401}, true},
		{"the connection is ended", []int{0}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.expired()
				a := h.offline(h.agent())
				h.cutOff(a, test.answers...)
				a.daemon = false
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := a.identity.pass(ctx)
				if class := fault.ClassOf(err); class != fault.Refused || fault.IsFinal(err) != test.final || !strings.Contains(fault.Remedy(err), expiredFile) {
					t.Errorf("class %d (final: %t), with the remedy %q: %v", class, fault.IsFinal(err), fault.Remedy(err), err)
				}
				if text := err.Error(); !strings.Contains(text, why) || test.final && !strings.HasSuffix(text, "(401)") {
					t.Errorf("the error is %q", text)
				}
			})
		})
	}
	t.Run("no API server", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *host) {
			h.expired()
			h.cut(errors.New("connection refused"))
			a := h.start()
			defer a.stop()
			time.Sleep(10 * time.Minute)
			p := a.view().Problem
			if p == nil || p.Class != fault.Refused || !strings.Contains(p.Text, why) || !strings.HasSuffix(p.Text, "(connection refused)") || !strings.Contains(p.Remedy, expiredFile) {
				t.Errorf("the problem is %+v", p)
			}
		})
	})
	t.Run("valid", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *host) {
			h.expired()
			h.write(expiredFile, h.both(h.pair(-time.Hour, time.Hour)), 0o600)
			h.cut(errors.New("connection refused"))
			a := h.start()
			defer a.stop()
			time.Sleep(10 * time.Minute)
			if p := a.view().Problem; p == nil || p.Class != 0 || p.Text != "connection refused" {
				t.Errorf("the problem is %+v", p)
			}
		})
	})
}
