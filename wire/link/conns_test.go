package link_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
)

// inTCP is inWorldOver for TCP.
func inTCP(t *testing.T, o link.Options, f func(t *testing.T, w *world)) {
	t.Helper()
	inWorldOver(t, link.TCP, o, f)
}

// conn opens a stream to the gateway.
func (w *world) conn() net.Conn {
	w.t.Helper()
	c, err := w.net.Dial(w.t.Context(), w.gateway.String())
	w.ok(err)
	return c
}

// rawTLS shakes hands as a device that follows no rules of package link, and returns the gateway's side, too.
func (w *world) rawTLS() (*tls.Conn, *link.Pending) {
	w.t.Helper()
	c := tls.Client(w.conn(), identtest.Client{Cert: w.device}.Raw(wire.ALPNAgent))
	w.ok(c.HandshakeContext(w.t.Context()))
	p, err := w.ln.Accept(w.t.Context())
	w.ok(err)
	return c, p
}

func record(kind byte, body ...byte) []byte {
	return append([]byte{kind, byte(len(body) >> 8), byte(len(body))}, body...)
}

var hello = record(1, 0, 0, 0x13, 0x88) // 5 s

func askFrame(t *testing.T) []byte {
	t.Helper()
	b, err := wire.AppendFrame(nil, wire.TypeAsk, wire.Ask{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hungUp waits until the other side has hung up, reading what it says, and tells how long that took.
func hungUp(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	if c.SetReadDeadline(start.Add(10*time.Minute)) != nil {
		return 0 // it has hung up long ago
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it does not hang up")
	}
	return time.Since(start)
}

// What is not TLS, comes too slowly or is too much does not become a connection, costs a slot for ten seconds at most, and is in
// nobody's way.
func TestHostileHandshakes(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(w *world, c net.Conn)
		most time.Duration
	}{
		"nothing":  {func(*world, net.Conn) {}, 10 * time.Second},
		"HTTP":     {func(w *world, c net.Conn) { write(w, c, []byte("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")) }, time.Second},
		"nonsense": {func(w *world, c net.Conn) { write(w, c, bytes.Repeat([]byte{0x16, 3, 3, 0xff}, 100)) }, time.Second},
		"half a hello": {func(w *world, c net.Conn) {
			write(w, c, clientHello(w)[:200])
		}, 10 * time.Second},
		"slowly": {func(w *world, c net.Conn) {
			for _, b := range clientHello(w) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				pause(time.Second)
			}
		}, 10 * time.Second},
		"without its end": {func(w *world, c net.Conn) { // a client hello, and no answer to the server's
			write(w, c, clientHello(w))
		}, 10 * time.Second},
		"a hello without end": {func(_ *world, c net.Conn) {
			head := []byte{0x16, 3, 1, 0x40, 0}
			body := append([]byte{1, 0, 0xff, 0xff}, make([]byte, 1<<14-4)...)
			for c.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
				if _, err := c.Write(append(head, body...)); err != nil {
					return
				}
				body = make([]byte, 1<<14)
			}
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inTCP(t, link.Options{Connections: 2}, func(t *testing.T, w *world) {
				t.Helper()
				c := w.conn()
				var wg sync.WaitGroup
				defer wg.Wait()
				start := time.Now()
				wg.Go(func() { tc.do(w, c) })
				device, gateway := w.sessions(link.Options{}) // beside it
				hungUp(t, c)
				if d := time.Since(start); d > tc.most+4*linktest.Latency {
					t.Errorf("hung up after %v, want %v at most", d, tc.most)
				}
				w.ok(gateway.Send(wire.TypeGoAway, wire.GoAway{}))
				w.recv(device, wire.TypeGoAway)
				pause(time.Millisecond)
				w.sessions(link.Options{}) // the slot is free again
			})
		})
	}
}

func write(w *world, c net.Conn, b []byte) {
	w.t.Helper()
	if _, err := c.Write(b); err != nil {
		w.t.Error(err)
	}
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

// clientHello is the first flight of an honest client.
func clientHello(w *world) []byte {
	w.t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	wg.Go(func() {
		tls.Client(there, identtest.Client{Cert: w.device}.Raw(wire.ALPNAgent)).HandshakeContext(ctx) //nolint:errcheck // it is given up
	})
	b := make([]byte, 8<<10)
	n, err := here.Read(b)
	w.ok(err)
	return b[:n]
}

// Who breaks the rules of records is told so and hung up on.
func TestHostileRecords(t *testing.T) {
	long := make([]byte, 3+0xffff)
	long[0], long[1], long[2] = 2, 0xff, 0xff
	for name, bytes := range map[string][]byte{
		"data before the hello":  record(2, 1, 2, 3),
		"unknown before a hello": record(200, 1),
		"short hello":            record(1, 0, 0, 1),
		"two hellos":             append(slices.Clip(hello), hello...),
		"empty data":             append(slices.Clip(hello), record(2)...),
		"data after the end":     append(append(slices.Clip(hello), record(3)...), record(2, 1)...),
		"a long record":          append(slices.Clip(hello), long...),
		"a ping of another size": append(slices.Clip(hello), record(4, 1, 2, 3)...),
		"a long ping":            append(slices.Clip(hello), record(4, make([]byte, 200)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			inTCP(t, link.Options{}, func(t *testing.T, w *world) {
				t.Helper()
				raw, p := w.rawTLS()
				var wg sync.WaitGroup
				wg.Go(func() { raw.Write(bytes) }) // the other side may hang up on the rest
				var got []byte
				wg.Go(func() { got, _ = io.ReadAll(raw); raw.Close() })
				if s, err := p.Session(t.Context(), time.Minute); err == nil {
					if _, _, err := s.RecvWithin(time.Minute); err == nil {
						t.Error("a frame came of it")
					}
					<-s.Context().Done()
				}
				wg.Wait()
				var e wire.Error
				if len(got) < 3 || got[0] != 6 || wire.Unmarshal(got[3:], &e) != nil || e.Code != wire.CodeMalformed {
					t.Errorf("was told %x", got)
				}
			})
		})
	}
}

// A stream that ends at any place ends the session; nothing of a frame that was cut is taken for one.
func TestTruncatedStream(t *testing.T) {
	all := append(slices.Clip(hello), record(2, askFrame(t)...)...)
	for n := range all {
		inTCP(t, link.Options{}, func(t *testing.T, w *world) {
			t.Helper()
			raw, p := w.rawTLS()
			_, err := raw.Write(all[:n])
			w.ok(err)
			w.ok(raw.Close())
			s, err := p.Session(t.Context(), time.Minute)
			if err != nil {
				if !errors.Is(err, link.ErrClosed) {
					t.Errorf("cut at %d: %v", n, err)
				}
				return
			}
			if _, _, err := s.RecvWithin(time.Minute); !errors.Is(err, link.ErrClosed) {
				t.Errorf("cut at %d: %v, want ErrClosed", n, err)
			}
		})
	}
}

// What a later build may send is passed over: kinds that are not known, more in a hello, a close without a reason.
func TestLaterRecords(t *testing.T) {
	inTCP(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		raw, p := w.rawTLS()
		b := record(1, 0, 0, 0x13, 0x88, 1, 2, 3)
		b = append(b, record(7, bytes.Repeat([]byte{1}, 1000)...)...)
		b = append(b, record(255)...)
		b = append(b, record(2, askFrame(t)...)...)
		b = append(b, record(6)...)
		_, err := raw.Write(b)
		w.ok(err)
		s, err := p.Session(t.Context(), time.Second)
		w.ok(err)
		w.recv(s, wire.TypeAsk)
		if _, _, err := s.RecvWithin(time.Second); !errors.Is(err, link.ErrClosed) {
			t.Errorf("after the close: %v", err)
		}
		hungUp(t, raw)
	})
}

// The reason of a hostile peer is bounded and prints.
func TestHostileClosingOverTCP(t *testing.T) {
	long, err := wire.Marshal(wire.Error{Code: 3, Detail: strings.Repeat("x", 900)})
	if err != nil {
		t.Fatal(err)
	}
	large, err := wire.Marshal(wire.Error{Code: 1<<32 - 1, Detail: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"long": long, "large": large, "no CBOR": {0xff, 0xfe}, "too long": make([]byte, 4000)} {
		inTCP(t, link.Options{}, func(t *testing.T, w *world) {
			t.Helper()
			raw, p := w.rawTLS()
			_, err := raw.Write(append(append(slices.Clip(hello), record(2, askFrame(t)...)...), record(6, body...)...))
			w.ok(err)
			s, err := p.Session(t.Context(), time.Second)
			w.ok(err)
			w.recv(s, wire.TypeAsk)
			_, _, err = s.RecvWithin(time.Second)
			if e, ok := errors.AsType[*wire.Error](err); !ok && !errors.Is(err, link.ErrClosed) || ok && len(e.Detail) > wire.MaxDetail {
				t.Errorf("%s: received %v", name, err)
			}
			hungUp(t, raw)
		})
	}
}

// A hostile peer that sends and is not read gets rid of a record, and of what the network holds; pings without end cost no more.
func TestUnreadDataIsBoundedOverTCP(t *testing.T) {
	for name, body := range map[string][]byte{"data": record(2, make([]byte, 16<<10-3)...), "pings": bytes.Repeat(record(4, make([]byte, 8)...), 1000)} {
		t.Run(name, func(t *testing.T) {
			inTCP(t, link.Options{}, func(t *testing.T, w *world) {
				t.Helper()
				raw, p := w.rawTLS()
				_, err := raw.Write(hello)
				w.ok(err)
				_, err = p.Session(t.Context(), time.Second)
				w.ok(err)
				sent := 0
				w.ok(raw.SetWriteDeadline(time.Now().Add(time.Minute)))
				for range 1000 {
					n, err := raw.Write(body)
					if sent += n; err != nil {
						break
					}
				}
				if sent > 400<<10 && name == "data" {
					t.Errorf("%d bytes were taken", sent)
				}
				w.ok(raw.NetConn().Close())
			})
		})
	}
}

// Beyond the rate a client is hung up on before any handshake.
func TestHandshakeRateOverTCP(t *testing.T) {
	inTCP(t, link.Options{Handshakes: 1}, func(t *testing.T, w *world) {
		t.Helper()
		w.sessions(link.Options{})
		start := time.Now()
		if _, err := w.dial(link.Options{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("the second in a second: %v, want ErrClosed", err)
		}
		if d := time.Since(start); d > 4*linktest.Latency {
			t.Errorf("it was told after %v", d)
		}
		pause(time.Second)
		w.sessions(link.Options{})
	})
}

// A peer whose frames nobody takes for a while is not dead, and does not take this side for dead.
func TestBusyReaderIsNotDead(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		big := wire.Renewed{Chain: [][]byte{make([]byte, 20_000)}}
		w.ok(gateway.Send(wire.TypeGoAway, wire.GoAway{}))
		w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
		select {
		case <-device.Context().Done():
		case <-gateway.Context().Done():
		case <-time.After(5 * time.Minute):
		}
		w.recv(device, wire.TypeGoAway)
		w.recv(gateway, wire.TypeAsk)
		var wg sync.WaitGroup
		wg.Go(func() { w.ok(gateway.Send(wire.TypeRenewed, big)) })
		w.recv(device, wire.TypeRenewed)
		wg.Wait()
	})
}

// Closing the listener ends its sessions, and waits for them.
func TestClosingTheListenerEndsSessionsOverTCP(t *testing.T) {
	inTCP(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		w.ok(w.ln.Close())
		for _, s := range []*link.Session{device, gateway} {
			if _, _, err := s.RecvWithin(time.Second); !errors.Is(err, link.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		if _, err := w.ln.Accept(t.Context()); err == nil {
			t.Error("a closed listener accepts")
		}
	})
}

// On real sockets: a reason arrives though its receiver's bytes lie unread at the one who gives it.
func TestReasonOnRealSockets(t *testing.T) {
	fleet := identtest.New(t, "plant", time.Now())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gw := fleet.Certificate(ident.Gateway("plant", "berlin", "a"), time.Now())
	dev := fleet.Certificate(ident.Device("plant", ident.NewDeviceID()), time.Now())
	l := link.ListenConns(ln, fleet.Endpoint(gw).Server(fleet.Ports()["agent"].Protocols...), link.Options{})
	defer func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	for i := range 50 {
		c, err := link.DialTCP(t.Context(), ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		device, err := link.DialConn(t.Context(), c, fleet.Endpoint(dev).Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := device.Send(wire.TypeStatement, wire.Statement{Sealed: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
		}
		p, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gateway, err := p.Session(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		gateway.CloseWith(wire.Refuse(wire.CodeRetired, "number %d", i))
		_, _, err = device.RecvWithin(time.Minute)
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeRetired || e.Detail != fmt.Sprintf("number %d", i) {
			t.Errorf("received %v", err)
		}
		device.Close()
	}
}
