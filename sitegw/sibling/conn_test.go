package sibling

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// fill makes n bytes that are not all the same.
func fill(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// All bytes arrive in order, both ways at once, in whatever pieces they are written and read; each half ends by itself, and
// what was written before a close arrives.
func TestConnCarriesAStream(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		want := fill(300_000)
		for i, c := range []*Conn{a, b} {
			go func() {
				r := rand.New(rand.NewPCG(uint64(i), 3))
				for rest := want; len(rest) > 0; {
					n := min(1+r.IntN(40_000), len(rest))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			}()
		}
		for _, c := range []*Conn{a, b} {
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		}
		close(s.b.done)
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for i := range 2 { // each side
			a, b := s.pair()
			from, to := a, b
			if i == 1 {
				from, to = b, a
			}
			want := fill(1000)
			go func() {
				if _, err := from.Write(want); err != nil {
					t.Error(err)
				}
				from.Close()
			}()
			if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, want) {
				t.Errorf("side %d: %d bytes, %v", i, len(got), err)
			}
			to.Close()
			if _, err := to.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after close: %v", err)
			}
			if _, err := to.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after close: %v", err)
			}
			s.b.done <- struct{}{}
		}
	})
}

// A close with a sibling that never ends its half takes no longer than lingerTime.
func TestCloseIsBounded(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, _ := s.pair()
		s.net.Cut(s.b.tr.Addr(), true)
		start := time.Now()
		a.Close()
		if took := time.Since(start); took > lingerTime+time.Second {
			t.Errorf("close took %v", took)
		}
		close(s.b.done)
	})
}

func TestReadDeadline(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		start := time.Now()
		s.ok(a.SetReadDeadline(start.Add(time.Second)))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("again: %v", err)
		}
		// A deadline that moves while a read waits: later, and then into the past.
		s.ok(a.SetReadDeadline(start.Add(2 * time.Second)))
		time.AfterFunc(500*time.Millisecond, func() { a.SetReadDeadline(start.Add(time.Minute)) }) //nolint:errcheck // it never fails
		time.AfterFunc(5*time.Second, func() { a.SetReadDeadline(time.Unix(1, 0)) })               //nolint:errcheck // it never fails
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 6*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		// Without a deadline the stream goes on where it was.
		s.ok(a.SetDeadline(time.Time{}))
		_, err := b.Write([]byte("x"))
		s.ok(err)
		if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		close(s.b.done)
	})
}

// A sibling that does not read holds the writer up with a bounded number of bytes between them, until the deadline of the write.
func TestSlowReaderHoldsTheWriter(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for side := range 2 {
			a, b := s.pair()
			c := []*Conn{a, b}[side]
			var done atomic.Int64
			s.ok(c.SetWriteDeadline(time.Now().Add(5 * time.Second)))
			failed := make(chan error, 1)
			start := time.Now()
			go func() {
				piece := fill(1000)
				for {
					n, err := c.Write(piece)
					done.Add(int64(n))
					if err != nil {
						failed <- err
						return
					}
				}
			}()
			time.Sleep(4 * time.Second)
			synctest.Wait()
			held := done.Load()
			if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 6*time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			if more := done.Load() - held; held > 1<<20 || more > 1000 { // one piece may have been with the carrier
				t.Errorf("%d bytes are held, and %d more", held, more)
			}
			s.b.done <- struct{}{}
		}
	})
}

// What is no stream of bytes ends the session.
func TestOnlyBytesAreTaken(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for _, frame := range []struct {
			t wire.Type
			m any
		}{{wire.TypeAsk, wire.Ask{}}, {wire.TypeBytes, wire.Bytes{}}, {wire.TypeBytes, map[int]int{1: 1}}} {
			a, b := s.pair()
			s.ok(a.ls.Send(frame.t, frame.m))
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%v %v: %v", frame.t, frame.m, err)
			}
			if _, err := a.Read(make([]byte, 1)); !refused(err, wire.CodeMalformed) {
				t.Errorf("%v %v: the sender reads %v", frame.t, frame.m, err)
			}
			s.b.done <- struct{}{}
		}
	})
}
