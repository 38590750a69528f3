package fetch

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

var errHangUp = errors.New("the gateway hangs up")

func TestFetch(t *testing.T) {
	within(t, func(t *testing.T, s *site) {
		list, answer := contents(60, 20_000)
		s.gws[0].answer = answer
		s.ok(s.fetch(list))
		if n := len(s.gws[0].asked); n != len(list) {
			t.Errorf("asked %d times for %d chunks", n, len(list))
		}
		s.doubted()
	})
}

// Up to wire.MaxFetches are under way, and no more.
func TestPipelined(t *testing.T) {
	within(t, func(t *testing.T, s *site) {
		list, answer := contents(60, 1000)
		var held []wire.Fetch
		s.gws[0].answer = func(ls *link.Session, f wire.Fetch) error {
			if held = append(held, f); len(held) < wire.MaxFetches && len(s.gws[0].asked) < len(list) {
				return nil // the client must not wait for it
			}
			for _, f := range held {
				if err := answer(ls, f); err != nil {
					return err
				}
			}
			held = nil
			return nil
		}
		begin := time.Now()
		s.ok(s.fetch(list))
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("took %v: the gateway waited for more to be under way", d)
		}
	})
}

// What a gateway does to chunk 40, whether it is named for it, and for how long it may hold the client.
func TestHostileGateway(t *testing.T) {
	list, answer := contents(80, 4_000)
	at := func(do func(ls *link.Session, f wire.Fetch) error) func(*link.Session, wire.Fetch) error {
		return func(ls *link.Session, f wire.Fetch) error {
			if f.Digest == list[40].Digest {
				return do(ls, f)
			}
			return answer(ls, f)
		}
	}
	send := func(b wire.Blob) func(*link.Session, wire.Fetch) error {
		return at(func(ls *link.Session, _ wire.Fetch) error { return ls.Send(wire.TypeBlob, b) })
	}
	wrong := bytes.Repeat([]byte{7}, 4_000)
	for name, tt := range map[string]struct {
		answer func(*link.Session, wire.Fetch) error
		named  bool
		within time.Duration
	}{
		"other bytes":         {send(wire.Blob{Data: wrong}), true, time.Second},
		"truncated":           {send(wire.Blob{Data: wrong[:10]}), true, time.Second},
		"nothing":             {send(wire.Blob{}), true, time.Second},
		"a bomb":              {send(wire.Blob{Codec: wire.CodecZstd, Data: []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0}}), true, time.Second},
		"an unknown codec":    {send(wire.Blob{Codec: 99, Data: wrong}), true, time.Second},
		"another message":     {at(func(ls *link.Session, _ wire.Fetch) error { return ls.Send(wire.TypeWelcome, wire.Welcome{}) }), true, time.Second},
		"no message":          {at(func(ls *link.Session, _ wire.Fetch) error { return ls.Send(wire.TypeBlob, "x") }), true, time.Second},
		"it hangs up":         {at(func(*link.Session, wire.Fetch) error { return errHangUp }), false, time.Second},
		"it does not have it": {send(wire.Blob{Code: wire.CodeNoContent}), false, time.Second},
		"it is cut off":       {send(wire.Blob{Code: wire.CodeUnavailable, RetryAfterMS: 60_000}), false, time.Second},
		"it refuses": {at(func(ls *link.Session, _ wire.Fetch) error {
			return ls.Send(wire.TypeError, wire.Refuse(wire.CodeBusy, ""))
		}), false, time.Second},
		"silence": {at(func(ls *link.Session, _ wire.Fetch) error {
			<-ls.Context().Done()
			return errHangUp
		}), false, paceWithin + time.Second},
		"it trickles": {func(ls *link.Session, f wire.Fetch) error {
			time.Sleep(50 * time.Second) // 80 bytes a second
			return answer(ls, f)
		}, false, paceWithin + time.Second},
	} {
		within(t, func(t *testing.T, s *site) {
			s.gws[0].answer, s.gws[1].answer = tt.answer, answer
			begin := time.Now()
			if err := s.fetch(list); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if d := time.Since(begin); d > tt.within+10*time.Second {
				t.Errorf("%s: took %v", name, d)
			}
			first := len(s.gws[1].asked)
			if want := len(list) - 40; name != "it trickles" && (first < want || first > want+wire.MaxFetches) { // what was under way may be lost
				t.Errorf("%s: the other gateway was asked for %d, want %d", name, first, want)
			}
			if !tt.named {
				s.doubted()
				return
			}
			s.doubted("gw-a")
			s.gws[0].asked = nil
			s.ok(s.fetch(list[:3]))
			if len(s.gws[0].asked) > 0 {
				t.Errorf("%s: asked again, before the other one", name)
			}
		})
	}
}

// When no gateway brings it, the call ends with the error that says most.
func TestNobodyHasIt(t *testing.T) {
	within(t, func(t *testing.T, s *site) {
		list, answer := contents(5, 1000)
		refuse := func(c wire.Code) func(*link.Session, wire.Fetch) error {
			return func(ls *link.Session, _ wire.Fetch) error {
				return ls.Send(wire.TypeBlob, wire.Blob{Code: c, RetryAfterMS: 5000})
			}
		}
		s.gws[0].answer, s.gws[1].answer = refuse(wire.CodeNoContent), refuse(wire.CodeUnavailable)
		if e, ok := errors.AsType[*wire.Error](s.fetch(list)); !ok || e.Code != wire.CodeUnavailable || e.RetryAfter() != 5*time.Second {
			t.Errorf("got %v", e)
		}
		s.gws[1].answer = refuse(wire.CodeNoContent)
		if err := s.fetch(list); !errors.Is(err, wire.Refuse(wire.CodeNoContent, "")) {
			t.Errorf("got %v", err)
		}
		s.gws[0].answer = answer // an error of the caller's own is no gateway's
		s.gws[1].asked = nil
		if err := s.client.Fetch(t.Context(), list, func(i int, _ []byte) error {
			if i == 2 {
				return errHangUp
			}
			return nil
		}); !errors.Is(err, errHangUp) || len(s.gws[1].asked) > 0 {
			t.Errorf("got %v; the other one was asked %d times", err, len(s.gws[1].asked))
		}
		s.doubted()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s.gws[0].answer = func(*link.Session, wire.Fetch) error { return nil }
		if err := s.client.Fetch(ctx, list, func(int, []byte) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestManifest(t *testing.T) {
	whole := bytes.Repeat([]byte("manifest"), 100_000)
	d := wire.DigestOf(whole)
	parts := func(b []byte, size int, total uint64) func(*link.Session, wire.Fetch) error {
		return func(ls *link.Session, f wire.Fetch) error {
			if f.Kind != wire.ContentManifest || f.Digest != d || f.Offset > uint64(len(b)) {
				return ls.Send(wire.TypeBlob, wire.Blob{Code: wire.CodeNoContent})
			}
			rest := b[f.Offset:]
			return ls.Send(wire.TypeBlob, wire.Blob{Data: rest[:min(size, len(rest))], Total: total})
		}
	}
	good := parts(whole, wire.MaxPart, uint64(len(whole)))
	changed := bytes.Clone(whole)
	changed[700_000]++
	for name, tt := range map[string]struct {
		answer func(*link.Session, wire.Fetch) error
		named  bool
	}{
		"whole":       {good, false},
		"small parts": {parts(whole, 100_000, uint64(len(whole))), false},
		"changed":     {parts(changed, wire.MaxPart, uint64(len(whole))), true},
		"too long":    {parts(append(bytes.Clone(whole), 'x'), wire.MaxPart, uint64(len(whole))), true},
		"no end":      {parts(append(bytes.Clone(whole), whole...), wire.MaxPart, uint64(2*len(whole))), true},
		"empty parts": {parts(whole, 0, uint64(len(whole))), true},
		"not there":   {parts(nil, 0, 0), true},
	} {
		within(t, func(t *testing.T, s *site) {
			s.gws[0].answer, s.gws[1].answer = tt.answer, good
			b, err := s.client.Manifest(t.Context(), d, uint64(len(whole)))
			if err != nil || !bytes.Equal(b, whole) {
				t.Errorf("%s: %d bytes, %v", name, len(b), err)
			}
			if tt.named {
				s.doubted("gw-a")
			} else {
				s.doubted()
			}
		})
	}
	for _, size := range []uint64{0, wire.MaxManifest + 1} {
		if _, err := New(nil, time.Now, nil).Manifest(t.Context(), d, size); !errors.Is(err, artifact.ErrManifest) {
			t.Errorf("of %d bytes: %v", size, err)
		}
	}
}

// What has no digest is shown to the caller, as one gateway after the other has it.
func TestRelease(t *testing.T) {
	within(t, func(t *testing.T, s *site) {
		say := func(text string) func(*link.Session, wire.Fetch) error {
			return func(ls *link.Session, f wire.Fetch) error {
				if f.Kind == wire.ContentPublishers && f.Number != 3 {
					return ls.Send(wire.TypeBlob, wire.Blob{Code: wire.CodeNoContent})
				}
				return ls.Send(wire.TypeBlob, wire.Blob{Data: []byte(text)})
			}
		}
		verdict := seal.ErrSignature
		check := func(b []byte) error {
			if string(b) != "true" {
				return verdict
			}
			return nil
		}
		s.gws[0].answer, s.gws[1].answer = say("false"), say("true")
		s.ok(s.client.Release(t.Context(), wire.Digest{1}, check))
		s.doubted("gw-a")
		s.gws[1].answer = say("false")
		verdict = errHangUp // a verdict for which no gateway is to blame
		if err := s.client.Publishers(t.Context(), 3, check); !errors.Is(err, errHangUp) {
			t.Errorf("got %v", err)
		}
		s.doubted()
		if err := s.client.Publishers(t.Context(), 4, check); !errors.Is(err, wire.Refuse(wire.CodeNoContent, "")) {
			t.Errorf("got %v", err)
		}
	})
}
