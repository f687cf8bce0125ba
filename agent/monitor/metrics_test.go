//go:build unix

package monitor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/nodejoin/nodejoin/agent/status"
)

// scrape returns the metrics of a status.
func scrape(t *testing.T, s status.Status) string {
	t.Helper()
	r := run(t, &Server{Source: source(s), Listen: "127.0.0.1:0"})
	defer r.stop()
	code, answer := get(t, r.listening(t), http.MethodGet, "/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, answer)
	}
	return answer
}

func TestMetrics(t *testing.T) {
	s := healthy()
	text := scrape(t, s)
	c := s.Certificates[0]
	number := func(t time.Time) string { return fmt.Sprint(float64(t.Unix())) }
	for _, want := range []string{
		`nodejoin_build_info{goversion="go1.`,
		`nodejoin_certificate_expiration_timestamp_seconds{certificate="kubelet-client"} ` + number(c.NotAfter),
		`nodejoin_certificate_not_before_timestamp_seconds{certificate="kubelet-client"} ` + number(c.NotBefore),
		`nodejoin_next_rotation_timestamp_seconds{certificate="kubelet-client"} ` + number(c.RotateAt),
		`nodejoin_rotations_total{certificate="kubelet-client",result="success"} 3`,
		`nodejoin_rotations_total{certificate="kubelet-client",result="failure"} 2`,
		`nodejoin_rotations_total{certificate="kubelet-serving",result="success"} 0`,
		`nodejoin_request_pending{certificate="kubelet-client",waiting_for="approval"} 0`,
		`nodejoin_request_pending{certificate="kubelet-serving",waiting_for="approval"} 1`,
		`nodejoin_request_pending{certificate="kubelet-serving",waiting_for="signature"} 0`,
		`nodejoin_ca_expiration_timestamp_seconds ` + number(slices.MinFunc([]time.Time{s.CA.Certificates[0].NotAfter, s.CA.Certificates[1].NotAfter}, time.Time.Compare)),
		`nodejoin_endpoint_up{endpoint="api1:6443"} 1`,
		`nodejoin_endpoint_up{endpoint="api2:6443"} 0`,
		`nodejoin_clock_skew_seconds 1.5`,
		`nodejoin_last_progress_timestamp_seconds ` + number(s.Beat),
		`nodejoin_problem{certificate="kubelet-serving",class="5"} 1`,
		`nodejoin_ready 1`,
		`nodejoin_watching_files 1`,
		`process_resident_memory_bytes `, `process_open_fds `, `go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	for _, unwanted := range []string{`timestamp_seconds{certificate="kubelet-serving"`, `endpoint="api3`, "go_memstats_heap", `waiting_for="approval"} 2`} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%s is in\n%s", unwanted, text)
		}
	}
	s.Certificates[1].Request.Approved = true
	if text := scrape(t, s); !strings.Contains(text, `pending{certificate="kubelet-serving",waiting_for="approval"} 0`) || !strings.Contains(text, `pending{certificate="kubelet-serving",waiting_for="signature"} 1`) {
		t.Errorf("the approved request is not told of in\n%s", text)
	}
	s.Problem.Passes = true
	if text := scrape(t, s); !strings.Contains(text, "\n"+`nodejoin_problem{certificate="kubelet-serving",class="0"} 1`) || strings.Contains(text, `class="5"`) {
		t.Errorf("a problem that may pass by itself has the class of one that does not:\n%s", text)
	}
	if lines := strings.Count(text, "\n"); lines > 120 {
		t.Errorf("%d lines", lines)
	}
}

func TestMetricsLint(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, healthy()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Two of a kind, text that is no UTF-8 and an empty status do not spoil the scrape.
func TestMetricsOfOddStatus(t *testing.T) {
	s := healthy()
	s.Certificates = append(s.Certificates, s.Certificates...)
	s.Endpoints = append(s.Endpoints, s.Endpoints...)
	s.Certificates[1].Name, s.Endpoints[0].Address = "\xff\n\"", "a\x00\xfe"
	s.CA.Problem = s.Problem
	if text := scrape(t, s); strings.Count(text, "nodejoin_endpoint_up{") != 3 || strings.Count(text, `nodejoin_certificate_expiration_timestamp_seconds{certificate="kubelet-client"}`) != 1 {
		t.Errorf("it is\n%s", text)
	}
	text := scrape(t, status.Status{})
	if strings.Contains(text, "timestamp_seconds ") && strings.Contains(text, "nodejoin_last_progress") || !strings.Contains(text, "\nnodejoin_ready 0\n") || !strings.Contains(text, "\nnodejoin_watching_files 0\n") {
		t.Errorf("it is\n%s", text)
	}
}

// Metrics are open to every user of the machine: nothing that is free text gets into them, and no part of a status has
// a place for a secret.
func TestMetricsTellNoText(t *testing.T) {
	var s status.Status
	fill(reflect.ValueOf(&s).Elem(), "CANARY")
	s.Version, s.Endpoints[0].Address = "v1", "api:6443"
	s.Certificates[0].Name, s.Problem.Certificate, s.CA.Problem.Certificate = "kubelet-client", "kubelet-client", "kubelet-client"
	s.Certificates[0].Problem.Certificate = "kubelet-client"
	if text := scrape(t, s); strings.Contains(text, "CANARY") {
		t.Errorf("free text is in\n%s", text)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"token", "secret", "password", "privatekey", "bearer"} {
		if strings.Contains(strings.ToLower(string(data)), word) {
			t.Errorf("the status has a place for a %s: %s", word, data)
		}
	}
}

// fill sets every text below v, and makes what is a pointer or a list.
func fill(v reflect.Value, text string) {
	switch v.Kind() { //nolint:exhaustive // the rest holds no text
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Now()))
			return
		}
		for _, field := range v.Fields() {
			fill(field, text)
		}
	}
}
