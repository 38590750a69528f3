package roster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// bookEvery is how often the spans that go on are written down, if anything changed: what a gateway counts in that time is lost when it
// is killed. It does not depend on how often devices beat, so that no heartbeat costs a write.
const bookEvery = 30 * time.Second

// A book is the checkpoint of the spans that are not in custody: those that go on, and those that wait for it. A device's attach is
// several times as long as what is counted of it and rarely changes, so the attaches have files of their own. They are written first:
// any attach of a device here proves that it was here.
type book struct {
	spans, attaches *durable.Slots
	log             *slog.Logger
	stored          [2][sha256.Size]byte // of what spans and attaches hold
}

// A storedAttach is the newest attach of a device whose span goes on.
type storedAttach struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
	Attach []byte         `cbor:"2,keyasint"`
}

// Kept makes the roster keep its spans: those that end go to the sink of Keep, and those that go on to files of which base is the path
// without its ending. What the files hold of the run before has ended with it. It must be called before Watch and Keep.
func (r *Roster) Kept(base string, log *slog.Logger) {
	r.book = &book{spans: durable.OpenSlots(base), attaches: durable.OpenSlots(base + ".attaches"), log: log}
	r.over.add(r.book.load()...)
	signal(r.ended)
}

// end takes note of the span that the verdict ended. The caller holds e.mu.
func (r *Roster) end(e *Entry, ms func(time.Time) int64) {
	if r.book == nil {
		return
	}
	s := e.span(ms)
	s.ToMS = steady(&e.downMS, ms(e.wentDown))
	r.over.add(s)
	signal(r.ended)
}

// Keep hands spans that end to the sink, and keeps the checkpoint, until ctx ends. Whoever stops the roster calls Checkpoint once more
// when no heartbeat can come any more.
func (r *Roster) Keep(ctx context.Context, sink Sink) {
	t := time.NewTicker(bookEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ended:
			r.over.offer(sink)
		case <-t.C:
			r.over.offer(sink)
			r.Checkpoint()
		case <-ctx.Done():
			return
		}
	}
}

// Checkpoint writes down the spans that are not in custody. It is for one goroutine at a time. A disk that fails costs what was counted
// since the last time if the gateway ends; it is tried again with the next one.
func (r *Roster) Checkpoint() {
	if r.book == nil {
		return
	}
	var open []wire.Span
	_, ms := r.clock()
	r.mu.Lock()
	for _, e := range r.devices {
		e.mu.Lock()
		if e.online {
			open = append(open, e.span(ms))
		}
		e.mu.Unlock()
	}
	r.mu.Unlock()
	slices.SortFunc(open, func(a, b wire.Span) int { return slices.Compare(a.Device[:], b.Device[:]) })
	r.book.save(open, r.over.spans())
}

// save writes the files that are to change.
func (b *book) save(open, over []wire.Span) {
	var spans, attaches []byte
	for i := range open {
		s := open[i]
		attaches = appendPiece(attaches, storedAttach{s.Device, s.Attach})
		s.Attach = nil
		spans = appendPiece(spans, &s)
	}
	for i := range over {
		spans = appendPiece(spans, &over[i])
	}
	err := b.write(1, b.attaches, attaches)
	if err == nil {
		err = b.write(0, b.spans, spans)
	}
	if err != nil {
		b.log.Error("the spans of presence are not stored: what is counted is lost if the gateway ends now", "err", err)
	}
}

func (b *book) write(n int, to *durable.Slots, data []byte) error {
	sum := sha256.Sum256(data)
	if sum == b.stored[n] {
		return nil
	}
	if err := to.Save(data, 0o600); err != nil {
		return err
	}
	b.stored[n] = sum
	return nil
}

// load reads the spans of the run before.
func (b *book) load() []wire.Span {
	proof := make(map[ident.DeviceID][]byte)
	err := readPieces(b.attaches, func(a *storedAttach) { proof[a.Device] = a.Attach })
	var out []wire.Span
	err = errors.Join(err, readPieces(b.spans, func(s *wire.Span) {
		if s.Attach == nil {
			s.Attach = proof[s.Device]
		}
		out = append(out, *s)
	}))
	if err != nil {
		b.log.Error("spans of presence of before do not read: what they counted is lost", "err", err)
	}
	all := len(out)
	if out = slices.DeleteFunc(out, func(s wire.Span) bool { return s.Attach == nil }); len(out) < all {
		b.log.Error("spans of presence of before without a proof: what they counted is lost", "count", all-len(out))
	}
	return out
}

// appendPiece appends a length of two bytes, big endian, and the CBOR of v. Encoding these types cannot fail, and they are far
// shorter than 64 KiB: an attach comes in a frame of 2 KiB.
func appendPiece(b []byte, v any) []byte {
	p, err := wire.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("roster: %T does not encode: %v", v, err))
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...) //nolint:gosec // G115: see above
}

// readPieces calls f with everything that a file holds. A file that is not there holds nothing.
func readPieces[T any](from *durable.Slots, f func(*T)) error {
	b, err := from.Load()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for err == nil && len(b) > 0 {
		n := 2
		if len(b) >= n {
			n += int(binary.BigEndian.Uint16(b))
		}
		if len(b) < n {
			return fmt.Errorf("%d bytes at the end: %w", len(b), durable.ErrDamaged)
		}
		v := new(T)
		if err = wire.Unmarshal(b[2:n], v); err == nil {
			f(v)
		}
		b = b[n:]
	}
	return err
}
