package api

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What a device stated is shown in the order in which it stated it. The history has it in the order in which it was committed,
// which is another one when two gateways brought parts of it, or when something came late. So it is read like packets that
// overtake one another: what is certain to be next is shown at once, and what may have a gap before it waits until the gap is
// filled, or until there is nothing more to read.
//
// Usually each record is certain to be next, and a page reads what it shows. Where one is not, the page reads on, in the worst
// case to the end of the device's history, and keeps no more than a page of it.

// A spot is where something is in a device's statements. A range that was given up comes before what came late of it.
type spot struct {
	epoch, seq uint64
	statement  bool
}

func (p spot) compare(o spot) int {
	at := func(p spot) int {
		if p.statement {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(p.epoch, o.epoch), cmp.Compare(p.seq, o.seq), cmp.Compare(at(p), at(o)))
}

// A stated is one record of the history: a statement, or a range that was given up.
type stated struct {
	spot
	record history.Record
	st     *seal.SealedStatement // nil: a range
	rec    registry.StatementRecord
	lost   registry.Lost
	before history.Cursor // of what was read before it
	read   int            // it was read as the nth
}

func newStated(r history.Record) (*stated, error) {
	s := &stated{record: r}
	if registry.RecordKind(r.Kind) == registry.KindLost {
		err := wire.Unmarshal(r.Data, &s.lost)
		s.spot = spot{epoch: s.lost.Epoch, seq: s.lost.From}
		return s, err
	}
	err := wire.Unmarshal(r.Data, &s.rec)
	if err == nil {
		s.st, err = seal.ParseStatement(s.rec.Sealed)
	}
	if err == nil {
		s.spot = spot{s.st.Epoch, s.st.Seq, true}
	}
	return s, err
}

// A bookmark says where a page ended.
type bookmark struct {
	spot                // of the last item shown; zero: none was
	next spot           // of the only one that can follow it, as a statement; zero: not known
	from history.Cursor // everything up to here was shown, or comes before spot
}

const bookmarkSize = 12 + 17 + 16

func (l list) bookmarkCursor(b *bookmark) string {
	out := binary.BigEndian.AppendUint64(nil, b.from.Index)
	out = binary.BigEndian.AppendUint32(out, b.from.N)
	for _, n := range []uint64{b.epoch, b.seq, b.next.epoch, b.next.seq} {
		out = binary.BigEndian.AppendUint64(out, n)
	}
	kind := byte(0)
	if b.statement {
		kind = 1
	}
	return l.cursor(append(out, kind))
}

func (l list) bookmark(text string) (bookmark, error) {
	var b bookmark
	pos, err := l.position(text)
	if err != nil || pos == nil {
		return b, err
	}
	if len(pos) != bookmarkSize {
		return b, errCursor("it is damaged")
	}
	b.from.Index, b.from.N = binary.BigEndian.Uint64(pos), binary.BigEndian.Uint32(pos[8:])
	for i, n := range []*uint64{&b.epoch, &b.seq, &b.next.epoch, &b.next.seq} {
		*n = binary.BigEndian.Uint64(pos[12+8*i:])
	}
	b.statement, b.next.statement = pos[44] != 0, b.next.epoch != 0
	return b, nil
}

// A sorter puts into order what a device stated. Invariant: waiting is in the order asked for, has no more than room entries,
// and all of it comes behind at.
type sorter struct {
	newest  bool
	at      bookmark
	room    int // of the page
	out     []*stated
	waiting []*stated
	dropped *stated        // of what found no room, that which was read first
	read    history.Cursor // how far the history was read
	n       int            // records that were taken
}

// takeAll takes what was read, as far as it is no newer than a log index. It tells whether all that follows is newer still.
func (s *sorter) takeAll(recs []history.Record, index uint64) (all bool, err error) {
	for i := range recs {
		newer := recs[i].Index > index
		if newer && !s.newest {
			return true, nil
		}
		before := s.read
		s.read = recs[i].Cursor()
		if newer {
			continue
		}
		r, err := newStated(recs[i])
		if err != nil {
			return false, fmt.Errorf("history record %v: %w", s.read, err)
		}
		r.before, r.read = before, s.n
		s.n++
		s.take(r)
	}
	return false, nil
}

// compare orders two places as they are asked for.
func (s *sorter) compare(a, b spot) int {
	if s.newest {
		a, b = b, a
	}
	return a.compare(b)
}

// take takes the next record, and shows what is certain to be next.
func (s *sorter) take(r *stated) {
	if s.at.spot != (spot{}) && s.compare(r.spot, s.at.spot) <= 0 {
		return // an earlier page showed it, or would have
	}
	i, _ := slices.BinarySearchFunc(s.waiting, r, func(a, b *stated) int { return s.compare(a.spot, b.spot) })
	s.waiting = slices.Insert(s.waiting, i, r)
	for len(s.waiting) > 0 && s.room > 0 && s.certain(s.waiting[0]) {
		s.show()
	}
	for len(s.waiting) > s.room {
		n := len(s.waiting) - 1
		s.drop(s.waiting[n])
		s.waiting = s.waiting[:n]
	}
}

func (s *sorter) drop(r *stated) {
	if s.dropped == nil || r.read < s.dropped.read {
		s.dropped = r
	}
}

// certain tells whether nothing can come between what was shown and r, whatever has not been read yet.
func (s *sorter) certain(r *stated) bool {
	next := s.at.next
	if r.st != nil && r.spot == next {
		return true
	}
	switch {
	case s.newest:
		return r.st == nil && next != spot{} && r.lost.Epoch == next.epoch && r.lost.To == next.seq
	case r.st == nil:
		return next != spot{} && r.epoch == next.epoch && r.seq == next.seq
	case r.seq != 1:
		return false
	case r.st.Before == nil:
		return s.at.spot == spot{}
	}
	b := r.st.Before // the end of the epoch before it, as the device states it
	return b.Lost == "" && s.at.statement && s.at.epoch == b.Epoch && s.at.seq == b.Seq
}

// show shows the first of what waits.
func (s *sorter) show() {
	r := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.out, s.room = append(s.out, r), s.room-1
	s.at.spot, s.at.next = r.spot, spot{}
	switch {
	case !s.newest && r.st != nil:
		s.at.next = spot{r.epoch, r.seq + 1, true}
	case !s.newest: // what came late of the range may follow, and nothing says how much did
	case r.st == nil && r.seq > 1:
		s.at.next = spot{r.epoch, r.seq - 1, true}
	case r.st == nil || r.rec.Late: // its range may begin right before it
	case r.seq > 1:
		s.at.next = spot{r.epoch, r.seq - 1, true}
	case r.st.Before != nil && r.st.Before.Lost == "":
		s.at.next = spot{r.st.Before.Epoch, r.st.Before.Seq, true}
	}
}

// finish ends the page: with all that waits if there is nothing more to read. It tells whether there is more to show.
func (s *sorter) finish(all bool) bool {
	for all && len(s.waiting) > 0 && s.room > 0 {
		s.show()
	}
	for _, r := range s.waiting {
		s.drop(r)
	}
	s.at.from = s.read
	if s.dropped != nil {
		s.at.from = s.dropped.before
	}
	return s.dropped != nil || !all
}

// statements reads one page of what a device stated, as it was at a log index.
func (s *server) statements(ctx context.Context, index uint64, d *registry.Device, in *historyInput) ([]*stated, string, error) {
	l := listOf("history", d.ID.String(), in.Order, fmt.Sprint(registry.KindStatement, registry.KindLost))
	mark, err := l.bookmark(in.Cursor)
	if err != nil {
		return nil, "", err
	}
	if head := d.Epoch; in.newest() && in.Cursor == "" && head.Seq > 0 {
		mark.next = spot{head.N, head.Seq, true}
	}
	sort := &sorter{newest: in.newest(), at: mark, room: in.Limit}
	sort.read = mark.from
	for {
		recs, next, err := s.History.Read(ctx, history.StreamID(registry.DeviceStream(d.ID)), history.Query{
			After: sort.read, Newest: in.newest(), Limit: in.Limit, Kinds: []history.Kind{history.Kind(registry.KindStatement), history.Kind(registry.KindLost)},
		})
		if err != nil {
			return nil, "", fmt.Errorf("device %v: %w", d.ID, err)
		}
		all, err := sort.takeAll(recs, index)
		if err != nil {
			return nil, "", fmt.Errorf("device %v: %w", d.ID, err)
		}
		if all = all || next.IsZero(); !all && sort.room > 0 {
			continue
		}
		if !sort.finish(all) {
			return sort.out, "", nil
		}
		return sort.out, l.bookmarkCursor(&sort.at), nil
	}
}
