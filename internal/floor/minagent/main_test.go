package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/internal/floor/beat"
	"github.com/holdfast-edge/holdfast/internal/floor/pki"
)

func TestArguments(t *testing.T) {
	for _, args := range [][]string{
		nil, {"127.0.0.1:1", "dir"}, {"127.0.0.1:1", "dir", "soon"}, {"127.0.0.1:1", "dir", "0s"}, {"127.0.0.1:1", "dir", "-1s"},
	} {
		if err := run(t.Context(), args); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want errUsage", args, err)
		}
	}
	if err := run(t.Context(), []string{"127.0.0.1:1", t.TempDir(), "1s"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no credentials: %v, want os.ErrNotExist", err)
	}
}

// TestBeats answers three heartbeats and then hangs up, at which the agent must end with an error.
func TestBeats(t *testing.T) {
	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := authority.WriteDevice(dir, 0); err != nil {
		t.Fatal(err)
	}
	tlsConf, err := authority.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: udp}
	listener, err := transport.Listen(tlsConf, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{udp.LocalAddr().String(), dir, "1ms"}) }()
	answerThree(ctx, t, listener)
	var closed *quic.ApplicationError
	if err := <-ended; !errors.As(err, &closed) {
		t.Errorf("agent ended with %v, want the server's close", err)
	}
	if err := errors.Join(listener.Close(), transport.Close(), udp.Close()); err != nil {
		t.Error(err)
	}
}

func answerThree(ctx context.Context, t *testing.T, listener *quic.Listener) {
	t.Helper()
	conn, err := listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	messages := beat.NewReader(stream)
	for range 3 {
		message, err := messages.Next()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := beat.AppendAnswer(nil, message, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(answer); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := messages.Next(); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := conn.CloseWithError(0, "done"); err != nil {
		t.Error(err)
	}
}
