package netsim

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var a, b = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

func pair(t *testing.T, n *Net) (client, server net.Conn) {
	t.Helper()
	ln, err := n.Listen("10.0.0.2:1")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	client, err = n.DialFrom(t.Context(), a, "10.0.0.2:1")
	if err != nil {
		t.Fatal(err)
	}
	return client, <-got
}

func TestStreamsCarryWhatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, New(1, Weather{Latency: 20 * time.Millisecond}))
		text := strings.Repeat("0123456789", window/5) // more than the window
		go func() {
			if _, err := io.WriteString(client, text); err != nil {
				t.Error(err)
			}
			client.Close()
		}()
		begun := time.Now()
		got, err := io.ReadAll(server)
		if err != nil || string(got) != text {
			t.Errorf("%d bytes of %d: %v", len(got), len(text), err)
		}
		if time.Since(begun) < 20*time.Millisecond {
			t.Error("it arrived before the latency was over")
		}
		server.Close()
		if _, err := server.Write([]byte("x")); err == nil {
			t.Error("wrote to a closed stream")
		}
	})
}

// A cut holds back what is sent in its direction alone, and loses nothing.
func TestCutHoldsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Weather{})
		client, server := pair(t, n)
		n.Cut(a, b, true)
		if _, err := client.Write([]byte("up")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write([]byte("down")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		if k, err := client.Read(buf); err != nil || string(buf[:k]) != "down" {
			t.Errorf("the other direction: %q, %v", buf[:k], err)
		}
		if err := server.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("through the cut: %v", err)
		}
		time.AfterFunc(time.Hour, func() { n.Cut(a, b, false) })
		if err := server.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if k, err := server.Read(buf); err != nil || string(buf[:k]) != "up" {
			t.Errorf("after the cut: %q, %v", buf[:k], err)
		}
		client.Close()
		if _, err := server.Read(buf); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
	})
}
