package monitor

import (
	"bytes"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/nodejoin/nodejoin/agent/status"
)

// newExposition returns what answers a scrape, always in the text format and without compression: promhttp's choice of
// formats and its gzip would cost a quarter of a megabyte of program and up to one of memory.
func newExposition(snapshot func() status.Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(snapshot),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(), // it stops the world
			collectors.WithoutGoCollectorRuntimeMetrics(regexp.MustCompile("")),
		),
	)
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		families, err := registry.Gather()
		var text bytes.Buffer
		encoder := expfmt.NewEncoder(&text, format)
		for _, family := range families {
			if err == nil {
				err = encoder.Encode(family)
			}
		}
		if err != nil {
			writeLine(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", string(format))
		_, _ = text.WriteTo(w) // if it cannot be written, nobody reads it
	})
}

// collector turns a status into metrics at each scrape.
type collector struct {
	snapshot func() status.Status

	build, notAfter, notBefore, nextRotation, rotations, pending     *prometheus.Desc
	caNotAfter, endpointUp, skew, progress, problem, ready, watching *prometheus.Desc
}

func newCollector(snapshot func() status.Status) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nodejoin_"+name, help, labels, nil)
	}
	return &collector{
		snapshot:     snapshot,
		build:        desc("build_info", "1, labelled with the versions of the program and of Go that it was built with.", "version", "goversion"),
		notAfter:     desc("certificate_expiration_timestamp_seconds", "When the certificate on disk expires. There is none where this is missing.", "certificate"),
		notBefore:    desc("certificate_not_before_timestamp_seconds", "When the certificate on disk became valid.", "certificate"),
		nextRotation: desc("next_rotation_timestamp_seconds", "When the certificate is replaced, as far as the agent decides that.", "certificate"),
		rotations:    desc("rotations_total", "Certificates obtained (success) and attempts that failed (failure) since the agent started.", "certificate", "result"),
		pending:      desc("request_pending", "1 while a certificate signing request waits to be approved, or approved to be signed.", "certificate", "waiting_for"),
		caNotAfter:   desc("ca_expiration_timestamp_seconds", "When the first certificate of the CA bundle on disk expires."),
		endpointUp:   desc("endpoint_up", "Whether the API server answered when it was last tried.", "endpoint"),
		skew:         desc("clock_skew_seconds", "This machine's clock minus the API server's; 0 if it is not known."),
		progress:     desc("last_progress_timestamp_seconds", "When the agent's loop last made progress, which it does at least once a minute."),
		problem:      desc("problem", "1 for each problem that is not over, by its class: an exit status of nodejoin, 0 for what may pass by itself.", "certificate", "class"),
		ready:        desc("ready", "Whether the node's client certificate can be used."),
		watching:     desc("watching_files", "Whether file events work; without them files are looked at once a minute."),
	}
}

// Describe sends every description.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.build, c.notAfter, c.notBefore, c.nextRotation, c.rotations, c.pending, c.caNotAfter,
		c.endpointUp, c.skew, c.progress, c.problem, c.ready, c.watching,
	} {
		out <- desc
	}
}

// Collect sends what the agent knows now.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	now, s := time.Now(), c.snapshot()
	m := sender{out: out, sent: map[string]bool{}}
	m.gauge(c.build, 1, s.Version, runtime.Version())
	m.flag(c.ready, s.Ready(now))
	m.flag(c.watching, s.Watching)
	m.gauge(c.skew, s.ClockSkew.Seconds())
	m.moment(c.progress, s.Beat)
	for i := range s.Certificates {
		c.collectCertificate(&m, &s.Certificates[i])
	}
	for _, e := range s.Endpoints {
		if !e.CheckedAt.IsZero() {
			m.flag(c.endpointUp, e.Alive, e.Address)
		}
	}
	var first time.Time
	for _, ca := range s.CA.Certificates {
		if first.IsZero() || ca.NotAfter.Before(first) {
			first = ca.NotAfter
		}
	}
	m.moment(c.caNotAfter, first)
	if s.Problem != nil {
		c.collectProblem(&m, s.Problem, s.Problem.Certificate)
	}
	c.collectProblem(&m, s.CA.Problem, "")
}

func (c *collector) collectCertificate(m *sender, cert *status.Certificate) {
	m.moment(c.notAfter, cert.NotAfter, cert.Name)
	m.moment(c.notBefore, cert.NotBefore, cert.Name)
	m.moment(c.nextRotation, cert.RotateAt, cert.Name)
	m.counter(c.rotations, cert.Rotations, cert.Name, "success")
	m.counter(c.rotations, cert.Failures, cert.Name, "failure")
	m.flag(c.pending, cert.Request != nil && !cert.Request.Approved, cert.Name, "approval")
	m.flag(c.pending, cert.Request != nil && cert.Request.Approved, cert.Name, "signature")
	c.collectProblem(m, cert.Problem, cert.Name)
}

func (c *collector) collectProblem(m *sender, p *status.Problem, certificate string) {
	if p == nil {
		return
	}
	class := p.Class
	if !p.IsFinal() {
		class = 0 // whoever is called for the others need not come
	}
	m.gauge(c.problem, 1, certificate, strconv.Itoa(int(class)))
}

// sender sends metrics. Of two with the same labels it sends the first, since the second would spoil the whole scrape.
type sender struct {
	out  chan<- prometheus.Metric
	sent map[string]bool
}

func (m *sender) send(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	for i, label := range labels {
		labels[i] = strings.ToValidUTF8(label, "\ufffd")
	}
	key := desc.String() + strings.Join(labels, "\x00")
	if m.sent[key] {
		return
	}
	m.sent[key] = true
	m.out <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
}

func (m *sender) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	m.send(desc, prometheus.GaugeValue, value, labels)
}

func (m *sender) counter(desc *prometheus.Desc, value uint64, labels ...string) {
	m.send(desc, prometheus.CounterValue, float64(value), labels)
}

func (m *sender) flag(desc *prometheus.Desc, value bool, labels ...string) {
	if value {
		m.gauge(desc, 1, labels...)
	} else {
		m.gauge(desc, 0, labels...)
	}
}

// moment sends a time, unless it is not known.
func (m *sender) moment(desc *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		m.gauge(desc, float64(t.Unix()), labels...)
	}
}
