package api

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows. Each label has few values: the routes' ids, status codes, and fixed words.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	log      *slog.Logger
}

// newMetrics makes the API's metrics beside those of others. One that cannot be shown is left out and logged: a node must not
// stop for it.
func newMetrics(others []prometheus.Collector, streams *places, log *slog.Logger) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_api_requests_total", Help: "Requests answered, by operation and status code; streams count when they end.",
		}, []string{"operation", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_api_request_seconds", Help: "Time from a request's head to the end of its answer, but for streams.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"operation"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_api_refusals_total", Help: "Failed authentications, and requests of operators that were not permitted, by reason.",
		}, []string{"reason"}),
		log: log,
	}
	m.add(m.requests, m.seconds, m.refusals, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.watch("holdfast_api_streams", "Streams of events and of the audit trail that are open.", streams)
	m.add(others...)
	return m
}

func (m *metrics) add(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := m.registry.Register(c); err != nil {
			m.log.Error("metric left out", "err", err)
		}
	}
}

// watch shows how many places are taken.
func (m *metrics) watch(name, help string, p *places) {
	m.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(p.count()) }))
}

// answered counts a request.
func (m *metrics) answered(t *ticket, status int) {
	id := "none"
	if t.route != nil {
		id = t.route.OperationID
	}
	m.requests.WithLabelValues(id, strconv.Itoa(status)).Inc()
	if t.route != nil && t.route.time != 0 {
		m.seconds.WithLabelValues(id).Observe(time.Since(t.begun).Seconds())
	}
}

var textSchema = &huma.Schema{Type: huma.TypeString}

func (s *server) showMetrics(context.Context, *call, *struct{}) (*huma.StreamResponse, error) {
	// One collector that fails must not hide the rest.
	h := promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
	})
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Type", "text/plain")
			return
		}
		h.ServeHTTP(w, r)
	}}, nil
}
