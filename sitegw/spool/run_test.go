package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// started runs a spool until the test ends, or stop is called.
func started(tb testing.TB, s *Spool) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("run: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// add appends one record and waits for the answer.
func add(s *Spool, data []byte) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	c := make(chan answer, 1)
	s.Append(1, time.Now().UnixMilli(), data, func(seq uint64, err error) { c <- answer{seq, err} })
	a := <-c
	return a.seq, a.err
}

// addUntil appends until it is refused, and returns how many records were taken.
func addUntil(t *testing.T, s *Spool, data []byte, want error) (taken uint64) {
	t.Helper()
	for {
		_, err := add(s, data)
		if errors.Is(err, want) {
			return taken
		}
		if err != nil || taken > 1_000_000 {
			t.Fatalf("record %d: %v, want %v", taken, err, want)
		}
		taken++
	}
}

// At the quota the spool holds; what it has stays; it takes more when a segment is trimmed, and gives the bytes back when it is drained.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		c := testConfig(d)
		c.Quota = 20_000
		s := mustOpen(t, c)
		defer started(t, s)()
		data := make([]byte, 100)
		for round := range 3 {
			n := addUntil(t, s, data, ErrHold)
			st := s.Status()
			if !st.Holding || st.Failed != nil || st.Bytes > c.Quota-c.Reserve || st.Bytes < c.Quota*9/10 || st.Failures > 0 {
				t.Fatalf("%+v", st)
			}
			if used := d.Used(); used > c.Quota+markFile {
				t.Fatalf("%d bytes on the disk", used)
			}
			at := s.Trimmed().Seq
			if got, err := readAll(s, at, 0); err != nil || uint64(len(got.recs)) != st.Records || round == 0 && st.Records != n {
				t.Fatalf("%d records, %+v, %v", len(got.recs), st, err)
			}
			if round == 0 { // no segment becomes free
				mustTrim(t, s, 1)
				if _, err := add(s, nil); !errors.Is(err, ErrHold) {
					t.Fatalf("without room: %v", err)
				}
			}
			mustTrim(t, s, at+st.Records/2)
			if st := s.Status(); st.Holding || st.Bytes > c.Quota*2/3 {
				t.Fatalf("half is trimmed: %+v", st)
			}
			if _, err := add(s, data); err != nil {
				t.Fatal(err)
			}
			mustTrim(t, s, s.Last().Seq)
			if used := d.Used(); used > c.Segment+markFile {
				t.Fatalf("%d bytes when drained: %v", used, d.Files())
			}
		}
	})
}

// What waits and what is being written counts towards the quota.
func TestQuotaOfBatches(t *testing.T) {
	c := testConfig(newDisk(1))
	c.Quota = 20_000
	s := mustOpen(t, c)
	for held := false; !held; s.flush() {
		for range 7 {
			s.Append(1, 1, make([]byte, 100), func(_ uint64, err error) { held = held || errors.Is(err, ErrHold) })
		}
	}
	if st := s.Status(); st.Bytes > c.Quota-c.Reserve || !st.Holding {
		t.Errorf("%+v", st)
	}
}

// One record that fills a small spool alone does not fill it for ever.
func TestQuotaOfOneRecord(t *testing.T) {
	d := newDisk(1)
	c := testConfig(d)
	c.Quota = 2*c.Segment + c.Reserve
	s := mustOpen(t, c)
	answers := make(map[error]int)
	for range 3 {
		s.Append(1, 1, make([]byte, 1050), func(_ uint64, err error) { answers[err]++ })
		s.flush()
	}
	s.Append(1, 1, make([]byte, c.Quota), func(_ uint64, err error) { answers[err]++ })
	if answers[nil] != 2 || answers[ErrHold] != 1 || answers[ErrTooLarge] != 1 {
		t.Fatal(answers)
	}
	mustTrim(t, s, 2)
	if st := s.Status(); st.Holding || st.Bytes > 0 {
		t.Errorf("%+v", st)
	}
}

// A full disk is survived: what is there stays, can be read and trimmed, and the spool takes records again by itself when there is room.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		s := mustOpen(t, testConfig(d))
		defer started(t, s)()
		data := make([]byte, 100)
		for round := range 3 {
			d.Limit(d.Used() + 5000)
			addUntil(t, s, data, ErrHold)
			st := s.Status()
			if !st.Holding || !errors.Is(st.Failed, syscall.ENOSPC) {
				t.Fatalf("%+v", st)
			}
			if got, err := readAll(s, 0, 0); err != nil || uint64(len(got.recs)) != st.Records {
				t.Fatalf("%d records, %v", len(got.recs), err)
			}
			time.Sleep(time.Minute)
			if _, err := add(s, data); !errors.Is(err, ErrHold) {
				t.Fatalf("without room: %v", err)
			}
			switch round {
			case 0: // others give room
				d.Limit(-1)
				time.Sleep(lastRetry)
			case 1: // the spool does: at once
				mustTrim(t, s, s.Last().Seq-5)
				synctest.Wait()
			case 2: // when it is opened on a full disk
				mustTrim(t, s, s.Last().Seq-5)
				d.Limit(d.Used())
			}
			_, err := add(s, data)
			if st := s.Status(); round < 2 && (err != nil || st.Holding || st.Failed != nil) {
				t.Fatalf("with room: %v, %+v", err, st)
			}
		}
	})
}

func TestOpenOnAFullDisk(t *testing.T) {
	d := filled(t, 100)
	d.Limit(0)
	s := mustOpen(t, testConfig(d))
	wantStored(t, s, testRecords(100))
	mustTrim(t, s, 90)
	if err := put(s, 101); !errors.Is(err, ErrHold) {
		t.Errorf("appended: %v", err)
	}
	d.Limit(-1)
	if !s.flush() {
		t.Error(s.Status())
	}
	mustPut(t, s, 101)
	mustClose(t, s)
	wantStored(t, mustOpen(t, testConfig(d)), testRecords(101)[90:])
}

// A disk that fails for a while refuses records; the spool repairs itself when it can.
func TestFailingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		s := mustOpen(t, testConfig(d))
		defer started(t, s)()
		var taken int
		for round := range 20 {
			if _, err := add(s, []byte("before")); err != nil {
				t.Fatal(err)
			}
			down := round%2 == 0
			d.SetHook(func(op simdisk.Op) error {
				if op.Kind.Changes() {
					return syscall.EIO
				}
				return nil
			})
			if !down { // once
				d.SetHook(simdisk.FailNth(simdisk.OpSync, 1, syscall.EIO))
			}
			if _, err := add(s, []byte("during")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if st := s.Status(); (st.Failed != nil) != down || st.Holding || st.Failures != uint64(round)+1 {
				t.Fatalf("round %d: %+v", round, st)
			}
			d.SetHook(nil)
			if down {
				time.Sleep(firstRetry)
				synctest.Wait()
			}
			if _, err := add(s, []byte("after")); err != nil {
				t.Fatal(err)
			}
			taken += 2
		}
		var files int
		for _, name := range d.Files() {
			files += len(d.Content(name))
		}
		if st := s.Status(); int64(files) != st.Bytes+markFile {
			t.Errorf("the files have %d bytes, %+v", files, st)
		}
		got, err := readAll(s, 0, 0)
		if err != nil || len(got.recs) != taken || len(got.lost) > 0 {
			t.Errorf("%d records, %v, %v", len(got.recs), got.lost, err)
		}
		for _, r := range got.recs {
			if string(r.Data) == "during" {
				t.Errorf("record %d was refused", r.Seq)
			}
		}
	})
}

// While the disk takes its time, records gather up to a bound, and are then written at once.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		c := testConfig(d)
		c.Segment, c.Quota = 100_000, 1<<20
		s := mustOpen(t, c)
		syncs := 0
		d.SetHook(func(op simdisk.Op) error {
			if op.Kind == simdisk.OpSync && filepath.Ext(op.Name) == segmentSuffix {
				syncs++
				time.Sleep(time.Second)
			}
			return nil
		})
		stop := started(t, s)
		var taken atomic.Int64
		var busy int64
		var last uint64
		for range 2000 {
			s.Append(1, 1, make([]byte, 100), func(seq uint64, err error) {
				switch {
				case errors.Is(err, ErrBusy):
					busy++
				case err != nil || seq != last+1:
					t.Error(seq, err)
				default:
					taken.Add(1)
					last = seq
				}
			})
		}
		synctest.Wait()
		if taken.Load() > 0 || busy == 0 {
			t.Errorf("%d taken, %d refused before the disk answered", taken.Load(), busy)
		}
		stop()
		if taken.Load()+busy != 2000 || syncs > 3 {
			t.Errorf("%d taken, %d refused, %d syncs", taken.Load(), busy, syncs)
		}
		if _, err := add(s, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := s.Read(0, 0, 0); !errors.Is(err, ErrClosed) {
			t.Errorf("read after the end: %v", err)
		}
		if err := s.Trim(0); !errors.Is(err, ErrClosed) {
			t.Errorf("trim after the end: %v", err)
		}
	})
}

func TestCloseRefusesWhatIsPending(t *testing.T) {
	s := mustOpen(t, testConfig(newDisk(1)))
	var got error
	s.Append(1, 1, nil, func(_ uint64, err error) { got = err })
	mustClose(t, s)
	if !errors.Is(got, ErrClosed) {
		t.Error(got)
	}
}

func TestArguments(t *testing.T) {
	d := newDisk(1)
	s := mustOpen(t, testConfig(d))
	if _, err := Open(testConfig(d)); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Trim(1); !errors.Is(err, ErrAhead) {
		t.Errorf("trimmed what is not there: %v", err)
	}
	s.Append(1, 1, make([]byte, MaxData+1), func(_ uint64, err error) {
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
	})
	if p, err := s.Read(1000, 0, 0); err != nil || len(p.Records) > 0 || !p.Lost.Empty() || p.After() != 0 {
		t.Errorf("read ahead: %+v, %v", p, err)
	}
	for _, c := range []Config{
		{Quota: -1}, {Quota: 1000, Reserve: 1000}, {Quota: 3000, Reserve: 1000, Segment: 1500}, {Segment: 1}, {Reserve: -1},
	} {
		c.Dir, c.FS = "other", d
		if _, err := Open(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A file of a later format is not touched.
func TestLaterFormat(t *testing.T) {
	later := func(b []byte, size int) []byte {
		b = bytes.Clone(b)
		b[9] = version + 1
		return seal(b, size)
	}
	for _, name := range []string{markName, fileName(1)} {
		d := filled(t, 10)
		path := "state/spool/" + name
		b := d.Content(path)
		if name == markName {
			d.Put(path, append(later(b[:slotSpace], markSize), later(b[slotSpace:], markSize)...))
		} else {
			d.Put(path, later(b, headerSize))
		}
		b = d.Content(path)
		if _, err := Open(testConfig(d)); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(b, d.Content(path)) || d.Handles() > 0 {
			t.Errorf("%s was changed", name)
		}
	}
}

// The time of the oldest record is that of the first one that is not trimmed.
func TestOldest(t *testing.T) {
	s := mustOpen(t, testConfig(newDisk(1)))
	mustPut(t, s, 100)
	for _, through := range []uint64{0, 1, 50, 99, 100} {
		mustTrim(t, s, through)
		var want int64
		if through < 100 {
			want = testRecord(through + 1).TimeMS
		}
		if st := s.Status(); st.OldestMS != want || st.Records != 100-through {
			t.Errorf("behind %d: %+v, want %d", through, st, want)
		}
	}
}

// Real files, real concurrency: many producers, a reader that follows and trims, and a restart.
func TestRealFiles(t *testing.T) {
	c := Config{Dir: filepath.Join(t.TempDir(), "spool"), Segment: 64 << 10, Quota: 64 << 20}
	const producers, each = 8, 250
	var next, trimmed uint64
	seen := make(map[string]bool)
	for round := range 2 {
		s := mustOpen(t, c)
		if got := s.Last().Seq; got != next {
			t.Fatalf("%d records, want %d", got, next)
		}
		stop := started(t, s)
		var work sync.WaitGroup
		for p := range producers {
			work.Go(func() {
				for i := range each {
					data := fmt.Appendf(nil, "%d/%d/%d/%s", round, p, i, bytes.Repeat([]byte{'z'}, i))
					if _, err := add(s, data); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for next += producers * each; trimmed < next-50; {
			<-s.Wake()
			for {
				p, err := s.Read(trimmed, 64, 0)
				if err != nil || !p.Lost.Empty() {
					t.Fatal(p.Lost, err)
				}
				if len(p.Records) == 0 {
					break
				}
				for _, r := range p.Records {
					if seen[string(r.Data)] {
						t.Fatalf("%s came twice", r.Data)
					}
					seen[string(r.Data)] = true
				}
				trimmed = p.After()
				mustTrim(t, s, trimmed)
			}
		}
		work.Wait()
		stop()
	}
	if len(seen) < int(next)-50 || len(seen) != int(trimmed) {
		t.Errorf("%d records were read of %d", len(seen), next)
	}
	list, err := os.ReadDir(c.Dir)
	if err != nil || len(list) > 3 {
		t.Errorf("%v, %v", list, err)
	}
}
