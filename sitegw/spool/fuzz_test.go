package spool

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// FuzzRecovery opens a spool over the bytes of a mark's two slots and of two segments. Whatever they are: it opens, what it delivers has a sound frame in one
// of the segments, everything else up to its last record is told as lost, it takes records, and a second opening finds the same.
func FuzzRecovery(f *testing.F) {
	d := filled(f, 25)
	mark := d.Content("state/spool/" + markName)
	mark = append(mark[:markSize:markSize], mark[slotSpace:]...)
	older, newer := d.Content("state/spool/"+fileName(1)), d.Content("state/spool/"+fileName(15))
	f.Add(mark, older, newer, false)
	f.Add(mark, older[:len(older)/2], newer, false)
	f.Add([]byte{}, older, newer[:300], true)
	f.Add([]byte{}, []byte{}, newer, true)
	f.Add(mark, newer, older, true)
	f.Add(mark[:markSize], append(bytes.Clone(older[:headerSize]), newer[headerSize:]...), older, true)
	f.Fuzz(func(t *testing.T, mark, older, newer []byte, mend bool) {
		if mend { // get past the checksums
			mark, older, newer = mended(mark), mended(older), mended(newer)
		}
		d := newDisk(1)
		if len(mark) > 0 {
			b := make([]byte, slotSpace, markFile)
			copy(b, mark[:min(len(mark), markSize)])
			d.Put("state/spool/"+markName, append(b, mark[min(len(mark), markSize):]...))
		}
		d.Put("state/spool/"+fileName(1), older)
		d.Put("state/spool/"+fileName(15), newer)
		c := testConfig(d)
		c.Quota = 64 << 20
		s, err := Open(c)
		if err != nil {
			if !strings.Contains(err.Error(), ErrVersion.Error()) {
				t.Fatal(err)
			}
			return
		}
		defer s.Close()
		got, err := readSome(t, s)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.recs {
			head := appendHead(nil, &got.recs[i])
			if !bytes.Contains(older, append(head, got.recs[i].Data...)) && !bytes.Contains(newer, append(head, got.recs[i].Data...)) {
				t.Fatalf("delivered %+v", got.recs[i])
			}
		}
		last := s.Last()
		mustClose(t, s)
		s = mustOpen(t, c)
		if s.Last() != last {
			t.Fatalf("the last record was %v, and is %v", last, s.Last())
		}
		if again, err := readSome(t, s); err != nil || again.check(got.recs) != nil && len(again.lost) == len(got.lost) && len(got.lost) == 0 {
			t.Fatalf("other records the second time: %v", err)
		}
		if last.Seq == 1<<64-1 {
			return
		}
		s.Append(1, 2, []byte("new"), func(seq uint64, err error) {
			if err != nil || seq != last.Seq+1 {
				t.Errorf("the next record got number %d behind %d, %v", seq, last.Seq, err)
			}
		})
		s.flush()
		if p, err := s.Read(last.Seq, 0, 0); err != nil || len(p.Records) != 1 || p.Before != last {
			t.Fatalf("%+v, %v", p, err)
		}
	})
}

// readSome is readAll for chains that need not be those of the records: whoever can compute checksums can write any.
func readSome(t *testing.T, s *Spool) (f found, err error) {
	t.Helper()
	for after := s.Trimmed().Seq; ; {
		p, err := s.Read(after, 0, 0)
		if err != nil || len(p.Records) == 0 && p.Lost.Empty() {
			return f, err
		}
		if !p.Lost.Empty() {
			if p.Lost.From != after+1 || p.Lost.To != p.Before.Seq {
				t.Fatalf("behind %d %v is lost, and reading goes on behind %d", after, p.Lost, p.Before.Seq)
			}
			f.lost = append(f.lost, p.Lost)
		}
		for i := range p.Records {
			if p.Records[i].Seq != p.Before.Seq+uint64(i)+1 {
				t.Fatalf("record %d is %d behind %d", p.Records[i].Seq, i+1, p.Before.Seq)
			}
		}
		f.recs = append(f.recs, p.Records...)
		after = p.After()
	}
}

// mended sets the checksums where there would be some, as long as lengths make sense.
func mended(b []byte) []byte {
	b = bytes.Clone(b)
	if bytes.HasPrefix(b, markMagic) {
		for _, at := range []int{0, markSize} {
			if len(b) >= at+markSize {
				seal(b[at:], markSize)
			}
		}
		return b
	}
	if len(b) < headerSize {
		return b
	}
	seal(b, headerSize)
	seed := seeded([16]byte(b[12:]))
	for rest := b[headerSize:]; len(rest) >= frameHead; {
		n, ok := bodyLength(rest)
		if !ok || frameHead+n > len(rest) {
			break
		}
		binary.BigEndian.PutUint32(rest[4:], frameSum(seed, rest[:frameHead+n]))
		rest = rest[frameHead+n:]
	}
	return b
}
