package spool

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// wantIntact reads everything of a spool that had n test records. What is delivered must be what was appended; what is not must be told.
func wantIntact(s *Spool, n uint64) (lost uint64, err error) {
	got, err := readAll(s, 0, 7)
	if err != nil {
		return 0, err
	}
	at := s.Trimmed().Seq
	ranges := slices.Clone(got.lost)
	for i := range got.recs {
		r := got.recs[i]
		for len(ranges) > 0 && ranges[0].From == at+1 {
			lost += ranges[0].To - at
			at, ranges = ranges[0].To, ranges[1:]
		}
		if want := testRecord(r.Seq); r.Seq > n || !equal(&r, &want) {
			return 0, fmt.Errorf("delivered %+v", r)
		}
		if r.Seq != at+1 {
			return 0, fmt.Errorf("record %d follows on %d", r.Seq, at)
		}
		at = r.Seq
	}
	for _, r := range ranges {
		lost, at = lost+r.To-at, r.To
	}
	if at != n {
		return lost, fmt.Errorf("reading ended behind %d", at)
	}
	return lost, nil
}

// Ten thousand times a bit flips anywhere in the files, before the spool is opened or while it is open. No record is ever delivered other than it
// was appended; every flip within a segment is noticed; little is lost with it; and the spool goes on.
func TestBitFlips(t *testing.T) {
	const records = 60
	d := filled(t, records)
	var bits []string // names of files, once per byte
	for _, name := range d.Files() {
		for range len(d.Content(name)) {
			bits = append(bits, name)
		}
	}
	r := newRand(1)
	var lost, noticed, unused uint64
	for i := range 10_000 {
		c := copied(d)
		name := bits[r.IntN(len(bits))]
		bit := int64(r.IntN(8 * len(c.Content(name))))
		if i%2 == 0 {
			c.Flip(name, bit)
		}
		s, err := Open(testConfig(c))
		if err != nil {
			t.Fatalf("bit %d of %s: %v", bit, name, err)
		}
		if i%2 == 1 {
			c.Flip(name, bit)
		}
		n, err := wantIntact(s, records)
		if err != nil {
			t.Fatalf("bit %d of %s: %v", bit, name, err)
		}
		lost += n
		switch damaged := s.Status().Damaged; {
		case damaged > 1:
			t.Fatalf("bit %d of %s: counted %d times", bit, name, damaged)
		case damaged == 1:
			noticed++
		case n > 0:
			t.Fatalf("bit %d of %s: %d records lost without a word", bit, name, n)
		case strings.HasSuffix(name, segmentSuffix) && (i%2 == 0 || bit >= 8*headerSize): // an open spool has read the headers
			t.Fatalf("bit %d of %s: not noticed", bit, name)
		default:
			unused++
		}
		if n > chainEvery {
			t.Fatalf("bit %d of %s: %d records lost", bit, name, n)
		}
		var got uint64
		s.Append(1, 1, []byte("on it goes"), func(seq uint64, err error) { got = seq })
		if s.flush(); got != records+1 {
			t.Fatalf("bit %d of %s: the next record got number %d", bit, name, got)
		}
		mustClose(t, s)
		if i%10 > 0 {
			continue
		}
		if s, err = Open(testConfig(c)); err != nil || s.Last().Seq != records+1 {
			t.Fatalf("bit %d of %s: reopened: %v", bit, name, err)
		}
		mustClose(t, s)
	}
	t.Logf("noticed %d, without effect %d; %.2f records lost with each", noticed, unused, float64(lost)/float64(noticed))
}

// Missing, foreign and swapped files are told from one another, and what is in the others is still delivered.
func TestFilesThatAreNotWhatTheyWere(t *testing.T) {
	const records = 120
	segments := func(d *simdisk.Disk) []string {
		return slices.DeleteFunc(d.Files(), func(name string) bool { return !strings.HasSuffix(name, segmentSuffix) })
	}
	n := len(segments(filled(t, records)))
	for name, change := range map[string]func(d *simdisk.Disk, names []string){
		"oldest missing": func(d *simdisk.Disk, names []string) { remove(t, d, names[0]) },
		"middle missing": func(d *simdisk.Disk, names []string) { remove(t, d, names[2]) },
		"newest missing": func(d *simdisk.Disk, names []string) { remove(t, d, names[n-1]) },
		"all missing": func(d *simdisk.Disk, names []string) {
			for _, name := range names {
				remove(t, d, name)
			}
		},
		"cut short": func(d *simdisk.Disk, names []string) { d.Put(names[1], d.Content(names[1])[:500]) },
		"newest cut short": func(d *simdisk.Disk, names []string) {
			d.Put(names[n-1], d.Content(names[n-1])[:len(d.Content(names[n-1]))-3])
		},
		"cut to nothing": func(d *simdisk.Disk, names []string) { d.Put(names[1], nil) },
		"swapped": func(d *simdisk.Disk, names []string) {
			a, b := d.Content(names[1]), d.Content(names[2])
			d.Put(names[1], b)
			d.Put(names[2], a)
		},
		"of another spool": func(d *simdisk.Disk, names []string) {
			d.Put(names[1], filled(t, records).Content(names[1]))
		},
		"zeros": func(d *simdisk.Disk, names []string) { d.Put(names[n-1], make([]byte, 1000)) },
		"magic everywhere": func(d *simdisk.Disk, names []string) {
			d.Put(names[1], bytes.Repeat([]byte{frameMagic, 0, 3, 0, 1, 1, 1, 1, 3}, 20_000))
		},
	} {
		d := copied(filled(t, records))
		change(d, segments(d))
		s := mustOpen(t, testConfig(d))
		lost, err := wantIntact(s, records)
		if err != nil || lost == 0 {
			t.Errorf("%s: %d lost, %v", name, lost, err)
		}
		if name != "all missing" && (lost > records/2 || s.Status().Damaged == 0 && !strings.HasSuffix(name, "missing")) {
			t.Errorf("%s: %d records lost, %+v", name, lost, s.Status())
		}
		mustPut(t, s, records+50)
		mustTrim(t, s, records+50)
		mustClose(t, s)
	}
}

func remove(t *testing.T, d *simdisk.Disk, name string) {
	t.Helper()
	if err := d.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncDir(filepath.Dir(name)); err != nil {
		t.Fatal(err)
	}
}

// Without its mark the spool is the same, but for what was trimmed of a segment that is there.
func TestMarkIsLost(t *testing.T) {
	d := filled(t, 120)
	before := mustOpen(t, testConfig(d))
	mustTrim(t, before, 60)
	mustClose(t, before)
	for name, change := range map[string]func(*simdisk.Disk){
		"missing": func(d *simdisk.Disk) { remove(t, d, "state/spool/"+markName) },
		"empty":   func(d *simdisk.Disk) { d.Put("state/spool/"+markName, nil) },
		"damaged": func(d *simdisk.Disk) {
			d.Flip("state/spool/"+markName, 300)
			d.Flip("state/spool/"+markName, 8*slotSpace+300)
		},
	} {
		c := copied(d)
		change(c)
		s := mustOpen(t, testConfig(c))
		if s.Incarnation() != before.Incarnation() || s.Last() != pointOf(testRecords(120)) || s.Status().Damaged != 1 {
			t.Errorf("%s: %+v", name, s.Status())
		}
		if at := s.Trimmed(); at.Seq > 60 || at.Seq < 30 || at != pointOf(testRecords(at.Seq)) {
			t.Errorf("%s: trimmed up to %d", name, at.Seq)
		}
		wantStored(t, s, testRecords(120)[s.Trimmed().Seq:])
		mustClose(t, s)
	}
}

// When nothing says to which spool the files belong, they are set aside, and a new incarnation begins.
func TestNothingSaysWhoseFilesTheyAre(t *testing.T) {
	d := filled(t, 10)
	old := mustOpen(t, testConfig(d))
	mustClose(t, old)
	d.Flip("state/spool/"+markName, 300)
	d.Flip("state/spool/"+markName, 8*slotSpace+300)
	name := "state/spool/" + fileName(1)
	d.Flip(name, 200)
	s := mustOpen(t, testConfig(d))
	if s.Incarnation() == old.Incarnation() || s.Last().Seq != 0 || s.Status().Damaged == 0 || len(d.Content(name+badSuffix)) == 0 {
		t.Errorf("%+v, %v", s.Status(), d.Files())
	}
	mustPut(t, s, 10)
	wantStored(t, s, testRecords(10))
}

// A disk that cannot be read for a while is no damage. A sector that never reads is, in the end.
func TestReadErrors(t *testing.T) {
	d := filled(t, 120)
	s := mustOpen(t, testConfig(d))
	bad := "state/spool/" + fileName(1)
	d.SetHook(func(op simdisk.Op) error {
		if op.Kind == simdisk.OpRead && op.Name == bad && op.Offset < 512 && op.Offset+op.Bytes > 300 {
			return syscall.EIO
		}
		return nil
	})
	for range patience - 1 {
		if p, err := s.Read(0, 0, 0); err == nil {
			t.Fatalf("read %+v", p)
		}
	}
	if s.Status().Damaged > 0 {
		t.Fatal("taken for damage")
	}
	d.SetHook(nil)
	wantStored(t, s, testRecords(120))
	d.SetHook(func(op simdisk.Op) error {
		if op.Kind == simdisk.OpRead && op.Name == bad && op.Offset < 512 && op.Offset+op.Bytes > 300 {
			return syscall.EIO
		}
		return nil
	})
	var err error
	for range patience {
		if _, err = wantIntact(s, 120); err == nil {
			break
		}
	}
	if err != nil || s.Status().Damaged != 1 {
		t.Errorf("%v, %+v", err, s.Status())
	}
}
