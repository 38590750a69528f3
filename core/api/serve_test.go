package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// pipes is a real net/http server whose network is pipes, so that it runs in a bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	stop   context.CancelFunc // ends the base context of all requests
	client *http.Client
}

// serve runs the handler until the test ends.
func serve(t *testing.T, h http.Handler) *pipes {
	t.Helper()
	return serveWith(t, h, false)
}

// serveWith chooses the protocol that the client speaks.
func serveWith(t *testing.T, h http.Handler, http2 bool) *pipes {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{}), stop: cancel}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.connect(ctx) },
		Protocols:   new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	p.client = &http.Client{Transport: tr}
	// The read timeout is shorter than any stream here lives.
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, Protocols: both,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error)
	go func() { done <- srv.Serve(p) }()
	t.Cleanup(func() {
		cancel()
		tr.CloseIdleConnections()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p
}

func (p *pipes) connect(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial opens a raw connection that ends with the test.
func (p *pipes) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := p.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// send writes a request by hand.
func send(t *testing.T, w io.Writer, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		t.Fatal(err)
	}
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }
