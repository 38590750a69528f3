package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
)

func TestSession(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		p, ok := gateway.Peer(time.Now())
		if want, err := ident.FromCert(mustLeaf(t, w.device)); err != nil || !ok || p.ID != want {
			t.Errorf("the gateway sees %v, want %v", p.ID, want)
		}
		if p, ok := device.Peer(time.Now()); !ok || p.ID != ident.Gateway("plant", "berlin", "a") {
			t.Errorf("the device sees %v", p.ID)
		}
		w.ok(gateway.Send(wire.TypeGoAway, wire.GoAway{RetryAfterMS: 7}))
		var m wire.GoAway
		w.ok(wire.Unmarshal(w.recv(device, wire.TypeGoAway), &m))
		if m.RetryAfterMS != 7 {
			t.Errorf("received %+v", m)
		}
		if rtt := device.RTT(); rtt < 2*linktest.Latency || rtt > 4*linktest.Latency {
			t.Errorf("round trip of %v, want about %v", rtt, 2*linktest.Latency)
		}
		if device.RemoteAddr().String() != w.gateway.String() || device.TLS().DidResume || device.Carrier() != w.carrier || gateway.Carrier() != w.carrier {
			t.Errorf("connected to %v over %v, resumed %v", device.RemoteAddr(), device.Carrier(), device.TLS().DidResume)
		}
		device.Close()
		if _, _, err := gateway.RecvWithin(time.Second); !errors.Is(err, link.ErrClosed) {
			t.Errorf("after a close: %v, want ErrClosed", err)
		}
		<-gateway.Context().Done()
		if err := gateway.Send(wire.TypeAsk, wire.Ask{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("send after a close: %v, want ErrClosed", err)
		}
	})
}

// Every code comes through a close as itself, in both directions.
func TestClosingCodes(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		for c := wire.CodeMalformed; c <= wire.CodeInternal; c++ {
			for side := range 2 {
				from, to := w.sessions(link.Options{})
				if side == 1 {
					from, to = to, from
				}
				from.CloseWith(wire.Refuse(c, "because of %d", c))
				_, _, err := to.RecvWithin(time.Second)
				var e *wire.Error
				if !errors.As(err, &e) || e.Code != c || e.Detail != fmt.Sprintf("because of %d", c) {
					t.Errorf("code %v: received %v", c, err)
				}
				if err := from.Send(wire.TypeAsk, wire.Ask{}); !errors.Is(err, link.ErrClosed) {
					t.Errorf("code %v: send on the closing side: %v, want ErrClosed", c, err)
				}
			}
		}
	})
}

// The reason of a hostile peer is bounded and prints, and a code of 62 bits does not become a small one.
func TestHostileClosing(t *testing.T) {
	for name, tc := range map[string]struct {
		code   quic.ApplicationErrorCode
		reason string
	}{
		"large code": {1 << 33, "x"}, "largest": {1<<62 - 1, "x"}, "long": {3, strings.Repeat("x", 1000)}, "no text": {3, "\xff\xfe"},
	} {
		inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
			t.Helper()
			raw := w.rawDial(wire.ALPNAgent)
			s, err := raw.OpenStream()
			w.ok(err)
			frame, err := wire.AppendFrame(nil, wire.TypeAsk, wire.Ask{})
			w.ok(err)
			_, err = s.Write(frame)
			w.ok(err)
			p, err := w.ln.Accept(t.Context())
			w.ok(err)
			gateway, err := p.Session(t.Context(), time.Second)
			w.ok(err)
			w.recv(gateway, wire.TypeAsk)
			w.ok(raw.CloseWithError(tc.code, tc.reason))
			_, _, err = gateway.RecvWithin(time.Second)
			var e *wire.Error
			if !errors.As(err, &e) || e.Code == wire.CodeNone || len(e.Detail) > wire.MaxDetail {
				t.Fatalf("%s: received %v", name, err)
			}
			if _, err := wire.AppendFrame(nil, wire.TypeError, e); err != nil || strings.ToValidUTF8(e.Detail, "") != e.Detail {
				t.Errorf("%s: the reason %q is no text", name, e.Detail)
			}
		})
	}
}

// A refusal arrives as a message with its delay, and as the code of the close.
func TestRefuseDelivers(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		var wg sync.WaitGroup
		wg.Go(func() { gateway.Refuse(wire.Refuse(wire.CodeBusy, "later").After(3 * time.Second)) })
		var e wire.Error
		w.ok(wire.Unmarshal(w.recv(device, wire.TypeError), &e))
		if e.Code != wire.CodeBusy || e.RetryAfter() != 3*time.Second || e.Detail != "later" {
			t.Errorf("received %+v", e)
		}
		if _, _, err := device.RecvWithin(time.Second); !errors.Is(err, io.EOF) {
			t.Errorf("after the refusal: %v, want the end of the stream", err)
		}
		w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
		wg.Wait()
		<-device.Context().Done()
		if err := context.Cause(device.Context()); !isCode(err, wire.CodeBusy) {
			t.Errorf("the close says %v", err)
		}
	})
}

func isCode(err error, c wire.Code) bool {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Code == c
	}
	var app *quic.ApplicationError
	return errors.As(err, &app) && app.ErrorCode == quic.ApplicationErrorCode(c)
}

// A session is finished while another goroutine receives, from a peer that sends on: the race detector watches.
func TestFinishBesideRecv(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				_, b, err := gateway.Recv()
				if err != nil {
					return
				}
				if len(b) == 0 {
					t.Error("an empty message")
				}
			}
		})
		wg.Go(func() {
			for device.Send(wire.TypeAsk, wire.Ask{}) == nil {
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(100 * time.Millisecond)
		gateway.Finish(time.Second)
		gateway.Close()
		wg.Wait()
		device.Close()
	})
}

// What was sent before Finish arrives, though the close follows at once: a close alone discards it.
func TestFinishDeliversTheLastFrame(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		last := wire.Renewed{Chain: [][]byte{bytes.Repeat([]byte{1}, 20_000)}}
		var wg sync.WaitGroup
		wg.Go(func() {
			w.ok(gateway.Send(wire.TypeRenewed, last))
			w.ok(gateway.Send(wire.TypeGoAway, wire.GoAway{}))
			gateway.Finish(5 * time.Second)
			gateway.Close()
		})
		w.recv(device, wire.TypeRenewed)
		w.recv(device, wire.TypeGoAway)
		device.Close()
		wg.Wait()
	})
}

// CloseSend gives the same to a session that another goroutine goes on reading, and does not wait for ever.
func TestCloseSend(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		w.ok(gateway.Send(wire.TypeGoAway, wire.GoAway{}))
		start := time.Now()
		gateway.CloseSend(2 * time.Second)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("a peer that stays was waited for %v, want 2s", d)
		}
		w.recv(device, wire.TypeGoAway)
		w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
		w.recv(gateway, wire.TypeAsk)
		gateway.Close()
	})
}

func TestNoControlStream(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, err := w.dial(link.Options{})
		w.ok(err) // the stream exists for the device, and no packet has told of it
		p, err := w.ln.Accept(t.Context())
		w.ok(err)
		if p.Protocol() != wire.ALPNAgent {
			t.Errorf("protocol %q", p.Protocol())
		}
		start := time.Now()
		if _, err := p.Session(t.Context(), 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("waited %v, want 5s", d)
		}
		var e *wire.Error
		if _, _, err := device.RecvWithin(time.Second); !errors.As(err, &e) || e.Code != wire.CodeBusy {
			t.Errorf("the device is told %v", err)
		}
	})
}

func TestPendingRefuse(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, err := w.dial(link.Options{})
		w.ok(err)
		p, err := w.ln.Accept(t.Context())
		w.ok(err)
		p.Refuse(wire.Refuse(wire.CodeBusy, "full"))
		var e *wire.Error
		if _, _, err := device.RecvWithin(time.Second); !errors.As(err, &e) || e.Code != wire.CodeBusy || e.Detail != "full" {
			t.Errorf("the device is told %v", err)
		}
	})
}

// A peer that does not read blocks a Send for ten seconds. Everybody who waits behind it is told at once, and nothing is
// written after the frame that was cut.
func TestSendToAPeerThatDoesNotRead(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				var err error
				for err == nil {
					err = gateway.Send(wire.TypeRenewed, wire.Renewed{Chain: [][]byte{make([]byte, 30_000)}})
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want a deadline", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("20 senders were blocked for %v, want 10s", d)
		}
		if err := gateway.Send(wire.TypeAsk, wire.Ask{}); err == nil {
			t.Error("a frame was sent after half of another")
		}
		gateway.Close()
		device.Close()
	})
}

func TestRecvWithin(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{})
		start := time.Now()
		if _, _, err := gateway.RecvWithin(3 * time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("waited %v, want 3s", d)
		}
		w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
		w.recv(gateway, wire.TypeAsk)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := gateway.Recv(); err != nil { // no deadline is left over
				t.Errorf("a Recv after RecvWithin: %v", err)
			}
		})
		time.AfterFunc(2*time.Minute, func() {
			if err := device.Send(wire.TypeAsk, wire.Ask{}); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		wg.Wait()
		synctest.Wait()
	})
}
