package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var errSick = errors.New("the loop does not answer")

func well(context.Context) error { return nil }
func sick(context.Context) error { return errSick }

func config() Config {
	return Config{Metrics: NewRegistry("prog", "v1.2.3"), Healthy: well, Ready: well, Log: slog.New(slog.DiscardHandler)}
}

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
	return w
}

func TestChecks(t *testing.T) {
	c := config()
	c.Ready = sick
	h := Handler(c)
	for path, want := range map[string]string{"/healthz": "200 ok\n", "/readyz": "503 the loop does not answer\n"} {
		if w := get(h, http.MethodGet, path); fmt.Sprint(w.Code, " ", w.Body) != want || w.Header().Get("Content-Type") != contentText {
			t.Errorf("%s: %d %q, %v", path, w.Code, w.Body, w.Header())
		}
	}
}

// A check that hangs is not waited for.
func TestCheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Healthy = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		w := get(Handler(c), http.MethodGet, "/healthz")
		if d := time.Since(start); w.Code != http.StatusServiceUnavailable || d != checkTime {
			t.Errorf("%d after %v", w.Code, d)
		}
	})
}

func TestOnlyReading(t *testing.T) {
	h := Handler(config())
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, "WHATEVER"} {
			if w := get(h, method, path); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
		if w := get(h, http.MethodHead, path); w.Code != http.StatusOK {
			t.Errorf("HEAD %s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/", "/favicon.ico"} {
		if w := get(h, http.MethodGet, path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestRegistry(t *testing.T) {
	w := get(Handler(config()), http.MethodGet, "/metrics")
	for _, want := range []string{`holdfast_build_info{goversion="go`, `program="prog"`, `version="v1.2.3"`, "\ngo_goroutines ", "\nprocess_open_fds "} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	problems, err := promlint.New(w.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "holdfast_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// broken collects nothing but an error.
type broken struct{}

var brokenDesc = prometheus.NewDesc("broken", "Fails.", nil, nil)

func (broken) Describe(ch chan<- *prometheus.Desc) { ch <- brokenDesc }

func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(brokenDesc, errSick)
}

// A collector that fails is an error of the scrape and is said in the log.
func TestMetricsFail(t *testing.T) {
	c := config()
	var log strings.Builder
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := prometheus.NewRegistry()
	r.MustRegister(broken{})
	c.Metrics = r
	if w := get(Handler(c), http.MethodGet, "/metrics"); w.Code != http.StatusInternalServerError || !strings.Contains(log.String(), "does not answer") {
		t.Errorf("%d, log %q", w.Code, log.String())
	}
}

// On a real socket, until it is told to end.
func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, ln, config()); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	resp, err := http.Get("http://" + ln.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok\n" {
		t.Errorf("answered %q, %v", b, err)
	}
}

// pipes is a listener without a network, for bubbles.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn, 2*maxConns), done: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.done) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A client is one connection, and what the server said on it.
type client struct {
	net.Conn
	mu   sync.Mutex
	said strings.Builder
	over bool
}

func (p *pipes) dial(wg *sync.WaitGroup) *client {
	near, far := net.Pipe()
	p.conns <- far
	c := &client{Conn: near}
	wg.Go(func() {
		b := make([]byte, 4<<10)
		for {
			n, err := near.Read(b)
			c.mu.Lock()
			c.said.Write(b[:n])
			c.over = err != nil
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return c
}

func (c *client) ask(wg *sync.WaitGroup, request string) *client {
	wg.Go(func() { fmt.Fprint(c, request) })
	return c
}

// heard is the first line that the server said, and whether it closed.
func (c *client) heard() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, _, _ := strings.Cut(c.said.String(), "\r\n")
	return line, c.over
}

const request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// inBubble serves in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, p *pipes, wg *sync.WaitGroup)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPipes()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := Serve(ctx, p, config()); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
		f(t, p, &wg)
		cancel()
		wg.Wait()
	})
}

// Connections beyond the limit wait until there is room.
func TestConnectionsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, wg *sync.WaitGroup) {
		var all []*client
		for range maxConns + 1 {
			all = append(all, p.dial(wg).ask(wg, request))
			synctest.Wait()
		}
		for i, c := range all {
			if line, _ := c.heard(); (line == "HTTP/1.1 200 OK") != (i < maxConns) {
				t.Errorf("connection %d heard %q", i, line)
			}
		}
		all[0].Close()
		synctest.Wait()
		if line, _ := all[maxConns].heard(); line != "HTTP/1.1 200 OK" {
			t.Errorf("with room there is %q", line)
		}
		for _, c := range all[1:] {
			c.Close()
		}
	})
}

// Clients that are slow or that idle lose their place, and a header without end is refused.
func TestClientsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, wg *sync.WaitGroup) {
		mute, slow := p.dial(wg), p.dial(wg).ask(wg, request[:20])
		idle := p.dial(wg).ask(wg, request)
		huge := p.dial(wg).ask(wg, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 4*maxHeader)+"\r\n\r\n")
		time.Sleep(readTime + time.Second)
		synctest.Wait()
		if line, over := huge.heard(); !strings.Contains(line, "431") || !over {
			t.Errorf("a huge header: %q, closed %v", line, over)
		}
		for name, c := range map[string]*client{"mute": mute, "slow": slow} {
			if _, over := c.heard(); !over {
				t.Errorf("the %s client is still there", name)
			}
		}
		if _, over := idle.heard(); over {
			t.Error("the idle client is gone already")
		}
		time.Sleep(idleTime)
		synctest.Wait()
		if _, over := idle.heard(); !over {
			t.Error("the idle client is still there")
		}
		for _, c := range []*client{mute, slow, idle, huge} {
			c.Close()
		}
	})
}

func TestServeFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), ln, config()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed listener: %v", err)
	}
}
