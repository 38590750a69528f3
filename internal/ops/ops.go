// Package ops is how operators watch a daemon that has no API of its own: a small HTTP server with its metrics and its health.
//
// It asks nobody who he is, so it belongs on a loopback address or on a management network. It answers GET and HEAD alone,
// reads no bodies, and holds no more than a few connections.
//
//	/metrics  what is counted, in the Prometheus text format
//	/healthz  200 while the daemon passes its own check, 503 with the reason otherwise
//	/readyz   200 while the daemon can do its work, 503 with the reason otherwise
package ops

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// Bounds of what a client can make the server hold.
const (
	maxConns    = 32
	maxScrapes  = 4 // under way at once
	maxHeader   = 8 << 10
	readTime    = 5 * time.Second // for the whole request
	writeTime   = 15 * time.Second
	idleTime    = time.Minute
	checkTime   = 2 * time.Second // for a health check
	drainTime   = 2 * time.Second // for requests under way at the end
	scrapeTime  = 10 * time.Second
	contentText = "text/plain; charset=utf-8"
)

// A Check tells whether all is well: nil, or what is not. It ends with its context.
type Check func(context.Context) error

// Config of a Server. All fields are required.
type Config struct {
	Metrics prometheus.Gatherer
	Healthy Check // /healthz
	Ready   Check // /readyz
	Log     *slog.Logger
}

// NewRegistry is a registry with what every program tells: its build, the Go runtime and the process. The build's metric is
// holdfast_build_info, whose value is 1.
func NewRegistry(program, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "holdfast_build_info", Help: "The build that runs: always 1, its labels say which.",
			ConstLabels: prometheus.Labels{"program": program, "version": version, "goversion": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return r
}

// Handler answers the three paths.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{
		ErrorLog: errorLog{c.Log}, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTime,
	}))
	mux.Handle("GET /healthz", check(c.Healthy))
	mux.Handle("GET /readyz", check(c.Ready))
	return mux
}

// check answers what a check says.
func check(f Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTime)
		defer cancel()
		w.Header().Set("Content-Type", contentText)
		w.Header().Set("Cache-Control", "no-store")
		status, text := http.StatusOK, "ok"
		if err := f(ctx); err != nil {
			status, text = http.StatusServiceUnavailable, err.Error()
		}
		w.WriteHeader(status)
		fmt.Fprintln(w, text) //nolint:errcheck // the client is gone
	}
}

// Serve answers on ln, which it closes, until ctx ends; requests under way may then end within two seconds.
func Serve(ctx context.Context, ln net.Listener, c Config) error {
	s := &http.Server{
		Handler: Handler(c), ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-sctx.Done()
		ended <- shutdown(context.WithoutCancel(ctx), s)
	}()
	err := s.Serve(netutil.LimitListener(ln, maxConns))
	stopped := ctx.Err() != nil
	cancel()
	if e := <-ended; stopped {
		return e
	}
	return fmt.Errorf("operations port %v: %w", ln.Addr(), err)
}

// shutdown lets the requests under way end for a while.
func shutdown(ctx context.Context, s *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		return s.Close()
	}
	return nil
}

// errorLog takes what promhttp has to say.
type errorLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) { l.log.Warn("metrics not told", "err", fmt.Sprint(v...)) }
