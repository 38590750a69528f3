package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smallSegment makes a segment hold a handful of test records.
const smallSegment = 1200

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// newDisk makes a disk with the directory in which the spool's will be.
func newDisk(seed uint64) *simdisk.Disk {
	d := simdisk.New(seed)
	if err := errors.Join(d.MkdirAll("state", 0o700), d.SyncDir(".")); err != nil {
		panic(err)
	}
	return d
}

// testConfig is that of a small spool in the directory "state/spool" of a simulated disk.
func testConfig(fsys disk.FS) Config {
	c := Config{Dir: "state/spool", FS: fsys, Segment: smallSegment, Quota: 1 << 20, Reserve: 1000}
	if os.Getenv("SPOOL_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return c
}

func mustOpen(tb testing.TB, c Config) *Spool {
	tb.Helper()
	s, err := Open(c)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

func mustClose(tb testing.TB, s *Spool) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatalf("close: %v", err)
	}
}

func mustTrim(tb testing.TB, s *Spool, through uint64) {
	tb.Helper()
	if err := s.Trim(through); err != nil {
		tb.Fatalf("trim: %v", err)
	}
}

// testRecord makes record number seq so that its content follows from the number.
func testRecord(seq uint64) Record {
	return Record{
		Seq: seq, Kind: Kind(seq % 5), TimeMS: 1_700_000_000_000 + int64(seq),
		Data: fmt.Appendf(nil, "%d:%s", seq, strings.Repeat("x", int(seq*7%90))),
	}
}

func testRecords(n uint64) []Record {
	var out []Record
	for seq := uint64(1); seq <= n; seq++ {
		out = append(out, testRecord(seq))
	}
	return out
}

// put appends the test records up to number through, in batches of several sizes, and returns the first error.
func put(s *Spool, through uint64) error {
	var failed error
	for seq := s.Last().Seq + 1; seq <= through; seq++ {
		r := testRecord(seq)
		s.Append(r.Kind, r.TimeMS, r.Data, func(got uint64, err error) {
			if err == nil && got != seq {
				err = fmt.Errorf("record %d got number %d", seq, got)
			}
			failed = errors.Join(failed, err)
		})
		if seq%5 == 0 || seq%7 == 0 || seq == through {
			if s.flush(); failed != nil {
				return failed
			}
		}
	}
	return nil
}

func mustPut(tb testing.TB, s *Spool, through uint64) {
	tb.Helper()
	if err := put(s, through); err != nil {
		tb.Fatalf("append: %v", err)
	}
}

// a stretch is what readAll found: a record, or a range that is lost.
type found struct {
	recs []Record
	lost []Range
}

// readAll reads from number after to the end, and checks that pages follow on each other and that chains are those of the records.
func readAll(s *Spool, after uint64, maxRecords int) (found, error) {
	var out found
	var at Point
	for first := true; ; first = false {
		p, err := s.Read(after, maxRecords, 0)
		if err != nil {
			return out, err
		}
		if !p.Lost.Empty() {
			if p.Lost.From != max(after, s.Trimmed().Seq)+1 || p.Lost.To != p.Before.Seq {
				return out, fmt.Errorf("behind %d, %v is lost, and reading goes on behind %d", after, p.Lost, p.Before.Seq)
			}
			out.lost = append(out.lost, p.Lost)
		} else if !first && p.Before != at {
			return out, fmt.Errorf("a page begins at %v, the one before ended at %v", p.Before, at)
		}
		at = p.Before
		for i := range p.Records {
			if p.Records[i].Seq != at.Seq+1 {
				return out, fmt.Errorf("record %d follows on %d", p.Records[i].Seq, at.Seq)
			}
			at = at.then(&p.Records[i])
		}
		out.recs = append(out.recs, p.Records...)
		if len(p.Records) == 0 && p.Lost.Empty() {
			break
		}
		after = p.After()
	}
	if last := s.Last(); at != last {
		return out, fmt.Errorf("reading ended at %v, the last record is %v", at, last)
	}
	return out, nil
}

func equal(a, b *Record) bool {
	return a.Seq == b.Seq && a.Kind == b.Kind && a.TimeMS == b.TimeMS && bytes.Equal(a.Data, b.Data)
}

// check checks that what was found are want, all and in order.
func (f *found) check(want []Record) error {
	if len(f.lost) > 0 {
		return fmt.Errorf("lost: %v", f.lost)
	}
	if len(f.recs) != len(want) {
		return fmt.Errorf("%d records, want %d", len(f.recs), len(want))
	}
	for i := range want {
		if !equal(&f.recs[i], &want[i]) {
			return fmt.Errorf("got %+v, want %+v", f.recs[i], want[i])
		}
	}
	return nil
}

func wantStored(tb testing.TB, s *Spool, want []Record) {
	tb.Helper()
	for _, page := range []int{3, 0} {
		got, err := readAll(s, 0, page)
		if err != nil {
			tb.Fatalf("read: %v", err)
		}
		if err := got.check(want); err != nil {
			tb.Fatal(err)
		}
	}
}

// then is the point behind r, which follows on p, computed as the format says.
func (p Point) then(r *Record) Point {
	b := slices.Concat(p.Chain[:], binary.BigEndian.AppendUint64(nil, r.Seq), []byte{byte(r.Kind)}, binary.BigEndian.AppendUint64(nil, uint64(r.TimeMS)), r.Data)
	return Point{r.Seq, sha256.Sum256(b)}
}

// pointOf is the point behind recs, which begin with number 1.
func pointOf(recs []Record) Point {
	var p Point
	for i := range recs {
		p = p.then(&recs[i])
	}
	return p
}

// filled makes a disk with a spool of n test records that was closed properly.
func filled(tb testing.TB, n uint64) *simdisk.Disk {
	tb.Helper()
	d := newDisk(1)
	s := mustOpen(tb, testConfig(d))
	mustPut(tb, s, n)
	mustClose(tb, s)
	return d
}

// copied makes a disk with the files of another, all of them durable.
func copied(d *simdisk.Disk) *simdisk.Disk {
	next := newDisk(1)
	for _, name := range d.Files() {
		next.Put(name, d.Content(name))
	}
	return next
}

// seal gives bytes of a fixed size the checksum that they must end in.
func seal(b []byte, size int) []byte {
	binary.BigEndian.PutUint32(b[size-4:], crc32.Checksum(b[:size-4], castagnoli))
	return b
}
