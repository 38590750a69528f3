package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Methods of the tests' owner.
const (
	echo uint8 = FirstMethod + iota
	fault
	notMe
	tooMuch
	hang
)

func (w *world) serveEcho() {
	w.handler = func(id string) func(context.Context, string, uint8, []byte) ([]byte, error) {
		return func(ctx context.Context, from string, method uint8, body []byte) ([]byte, error) {
			switch method {
			case echo:
				return fmt.Appendf(nil, "%s to %s: %s", from, id, body), nil
			case fault:
				return nil, errors.New(strings.Repeat("é", 2000))
			case notMe:
				return nil, &NotLeaderError{LeaderID: "core-9", LeaderAddr: "there"}
			case tooMuch:
				return make([]byte, MaxCallBody+1), nil
			default:
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}
	}
}

func TestMembersCallEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serveEcho()
		w.trio()
		defer w.stopAll()
		var wg sync.WaitGroup
		for _, from := range trio {
			for _, to := range trio {
				for i := range 30 { // more at a time than there are connections
					wg.Go(func() {
						b, err := w.nodes[from].Call(t.Context(), to, echo, fmt.Append(nil, i))
						check(t, err)
						if want := fmt.Sprintf("%s to %s: %d", from, to, i); string(b) != want {
							t.Errorf("answer %q, want %q", b, want)
						}
					})
				}
			}
		}
		wg.Wait()
		a, ctx := w.nodes["core-1"], t.Context()
		big := bytes.Repeat([]byte{7}, MaxCallBody-100)
		b, err := a.Call(ctx, "core-2", echo, big)
		if err != nil || !bytes.HasSuffix(b, big) {
			t.Errorf("a large call: %d bytes, %v", len(b), err)
		}
		for _, to := range []string{"core-1", "core-2"} { // this node and another one answer alike
			var remote *RemoteError
			if _, err = a.Call(ctx, to, fault, nil); !errors.As(err, &remote) || remote.Node != to || remote.Method != fault ||
				remote.Text != strings.Repeat("é", maxErrorText/2) {
				t.Errorf("%s: %v", to, err)
			}
			var hint *NotLeaderError
			if _, err = a.Call(ctx, to, notMe, nil); !errors.As(err, &hint) || hint.LeaderID != "core-9" || hint.LeaderAddr != "there" {
				t.Errorf("%s: %v", to, err)
			}
			if _, err = a.Call(ctx, to, tooMuch, nil); !errors.As(err, &remote) || !strings.Contains(remote.Text, "too large") {
				t.Errorf("%s: %v", to, err)
			}
		}
		_, err = a.Call(ctx, "core-2", methodVitals, nil)
		wantError(t, err, ErrConfig)
		_, err = a.Call(ctx, "core-2", echo, make([]byte, MaxCallBody+1))
		wantError(t, err, ErrTooLarge)
		_, err = a.Call(ctx, "core-9", echo, nil)
		wantError(t, err, ErrUnreachable)
		wantError(t, err, ErrNotMember)
		if _, err = a.ask(ctx, "core-2", 60, nil); err == nil {
			t.Error("an unknown method was answered")
		}
	})
}

func TestCallsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serveEcho()
		w.trio()
		defer w.stopAll()
		a := w.nodes["core-1"]
		start := time.Now()
		_, err := a.Call(withTimeout(t.Context(), 3*time.Second), "core-2", hang, nil)
		if err == nil || time.Since(start) > 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		start = time.Now()
		_, err = a.Call(t.Context(), "core-2", hang, nil)
		if err == nil || time.Since(start) > maxCallTime {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		w.net.mute("core-2", "core-1", true) // the request arrives, the answer does not
		start = time.Now()
		_, err = a.Call(withTimeout(t.Context(), 3*time.Second), "core-2", echo, nil)
		wantError(t, err, ErrUnreachable)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("gave up after %v", took)
		}
		w.net.mute("core-2", "core-1", false)

		// Calls of the owner that hang hold up neither the store's own nor the shutdown.
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 * maxCallsOut {
			wg.Go(func() { _, _ = a.Call(ctx, "core-3", hang, nil) })
		}
		synctest.Wait()
		start = time.Now()
		_, err = a.askVitals(t.Context(), "core-3")
		check(t, err)
		if took := time.Since(start); took > time.Second {
			t.Errorf("the store's own call took %v", took)
		}
		start = time.Now()
		w.stop("core-3")
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("calls held up the shutdown for %v", took)
		}
		cancel()
		wg.Wait()
	})
}

// A connection that was kept for later and ended meanwhile is noticed, so that no call is lost in it.
func TestNoCallIsSentIntoADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serveEcho()
		w.trio()
		defer w.stopAll()
		for range 5 {
			_, err := w.nodes["core-1"].Call(t.Context(), "core-2", echo, nil)
			check(t, err)
			w.stop("core-2")
			w.start("core-2")
			_, sent, err := w.nodes["core-1"].callMember(t.Context(), "core-2", echo, nil)
			if err != nil {
				t.Fatalf("sent %v: %v", sent, err)
			}
		}
		a := w.nodes["core-1"].calls
		<-time.After(2 * idleTime) // vitals keep one or the other connection in use
		a.mu.Lock()
		defer a.mu.Unlock()
		for id, p := range a.peers {
			if len(p.idle) > 1 {
				t.Errorf("%d idle connections to %s are kept", len(p.idle), id)
			}
		}
	})
}

// Whoever is slow after the handshake is cut off as well, and holds up nobody.
func TestSlowCallersAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serveEcho()
		w.trio()
		defer w.stopAll()
		frame := (&request{method: echo, patience: time.Second, body: make([]byte, 100)}).encode()
		for name, c := range map[string]struct {
			send  []byte
			after time.Duration
		}{
			"says nothing":       {nil, callIdle},
			"stops in a length":  {frame[:2], frameTime},
			"stops in a frame":   {frame[:20], frameTime},
			"announces too much": {[]byte{0xff, 0xff, 0xff, 0xff}, 0},
			"announces nothing":  {[]byte{0, 0, 0, 0}, 0},
		} {
			s, conn, err := w.dialAs("core-2", "core-1", kindCall)
			check(t, err)
			_, err = conn.Write(c.send)
			check(t, err)
			start := time.Now()
			if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(start) != c.after {
				t.Errorf("%s: cut off after %v, %v", name, time.Since(start), err)
			}
			_ = conn.plain.Close()
			_ = conn.Close()
			check(t, s.Close())
		}
		// A byte now and then is not enough to stay.
		s, conn, err := w.dialAs("core-2", "core-1", kindCall)
		check(t, err)
		start := time.Now()
		for _, b := range frame {
			if _, err = conn.Write([]byte{b}); err != nil {
				break
			}
			<-time.After(time.Second)
		}
		if took := time.Since(start); err == nil || took > frameTime+2*time.Second {
			t.Errorf("a byte a second was taken for %v", took)
		}
		_ = conn.plain.Close()
		_ = conn.Close()
		check(t, s.Close())
		// Nor is a handshake without a word after it.
		plain, err := w.net.dialFrom("core-2")(t.Context(), "core-1")
		check(t, err)
		start = time.Now()
		if _, err := plain.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) != 10*time.Second {
			t.Errorf("cut off after %v, %v", time.Since(start), err)
		}
		check(t, plain.Close())
	})
}

func TestCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var now, most atomic.Int64
		w.handler = func(string) func(context.Context, string, uint8, []byte) ([]byte, error) {
			return func(context.Context, string, uint8, []byte) ([]byte, error) {
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-time.After(time.Second)
				now.Add(-1)
				return nil, nil
			}
		}
		w.trio()
		defer w.stopAll()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := w.nodes["core-1"].Call(t.Context(), "core-2", echo, nil)
				check(t, err)
			})
		}
		wg.Wait()
		if got := most.Load(); got != maxCallsOut-ownCalls {
			t.Errorf("%d calls at a time", got)
		}
	})
}

func TestFrames(t *testing.T) {
	req := request{method: 70, patience: 1500 * time.Millisecond, body: []byte("hello")}
	b := req.encode()
	got, err := decodeRequest(bytes.NewReader(b))
	if err != nil || got.method != 70 || got.patience != req.patience || string(got.body) != "hello" {
		t.Errorf("request %+v, %v", got, err)
	}
	ans := answer{status: statusError, body: []byte("no")}
	a := ans.encode()
	back, err := decodeAnswer(bytes.NewReader(a))
	if err != nil || back.status != statusError || string(back.body) != "no" {
		t.Errorf("answer %+v, %v", back, err)
	}
	for n := range b {
		if _, err := decodeRequest(bytes.NewReader(b[:n])); err == nil || (n > 0 && errors.Is(err, io.EOF)) {
			t.Errorf("the first %d bytes of a request: %v", n, err)
		}
	}
	for n := range a {
		if _, err := decodeAnswer(bytes.NewReader(a[:n])); err == nil {
			t.Errorf("the first %d bytes of an answer were accepted", n)
		}
	}
	_, err = decodeAnswer(bytes.NewReader([]byte{0, 0, 0, 1, 3}))
	wantError(t, err, errFrameStatus)
	for _, length := range []string{"\x00\x00\x00\x04", "\x00\x40\x00\x06"} {
		_, err := decodeRequest(strings.NewReader(length))
		wantError(t, err, errFrameLength)
	}
	patient := request{patience: time.Hour}
	if got, err := decodeRequest(bytes.NewReader(patient.encode())); err != nil || got.patience != maxCallTime {
		t.Errorf("patience %v, %v", got.patience, err)
	}
	late := request{patience: -time.Hour}
	if got, err := decodeRequest(bytes.NewReader(late.encode())); err != nil || got.patience != 0 {
		t.Errorf("patience %v, %v", got.patience, err)
	}
}

func FuzzDecodeFrames(f *testing.F) {
	f.Add((&request{method: 70, patience: time.Second, body: []byte("hello")}).encode())
	f.Add((&answer{status: statusNotLeader, body: []byte("core-1\n10.0.0.1:7")}).encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := decodeRequest(bytes.NewReader(b)); err == nil {
			again := req.encode()
			// The patience may have been cut; everything else is as it was.
			if len(again) > len(b) || !bytes.Equal(again[:5], b[:5]) || !bytes.Equal(again[9:], b[9:len(again)]) {
				t.Fatalf("request %x became %x", b, again)
			}
		}
		if a, err := decodeAnswer(bytes.NewReader(b)); err == nil {
			if again := a.encode(); !bytes.HasPrefix(b, again) {
				t.Fatalf("answer %x became %x", b, again)
			}
			if _, err := a.result("core-1", 70); a.status != statusOK && err == nil {
				t.Fatal("an error became an answer")
			}
		}
	})
}
