package spool

import (
	"errors"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// script is a course over every kind of operation: new segments, trims that delete some and none, a restart, a trim of everything. It returns how
// many records were acknowledged, and up to where was trimmed, beside the first error.
func script(c Config) (acknowledged, trimmed uint64, err error) {
	s, err := Open(c)
	if err != nil {
		return 0, 0, err
	}
	for _, step := range []struct{ put, trim uint64 }{{5, 0}, {40, 0}, {60, 3}, {62, 30}, {80, 80}, {95, 81}} {
		err := put(s, step.put)
		acknowledged = s.Last().Seq
		if err != nil {
			return acknowledged, trimmed, errors.Join(err, s.Close())
		}
		trimmed = max(trimmed, step.trim)
		if err := s.Trim(step.trim); err != nil {
			return acknowledged, trimmed, errors.Join(err, s.Close())
		}
		if step.put == 60 {
			if err := s.Close(); err != nil {
				return acknowledged, trimmed, err
			}
			if s, err = Open(c); err != nil {
				return acknowledged, trimmed, err
			}
		}
	}
	return acknowledged, trimmed, s.Close()
}

// wantSurvived opens the spool and checks that everything acknowledged is there, that nothing else is but what was appended, and that it goes on.
func wantSurvived(t *testing.T, c Config, acknowledged, trimmed uint64) {
	t.Helper()
	s := mustOpen(t, c)
	last := s.Last().Seq
	if at := s.Trimmed().Seq; at > trimmed || last < acknowledged {
		t.Fatalf("trimmed to %d, at most %d is right; %d records, %d were acknowledged", at, trimmed, last, acknowledged)
	}
	all := testRecords(last + 20)
	got, err := readAll(s, 0, 0)
	if err == nil {
		err = got.check(all[s.Trimmed().Seq:last])
	}
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, last+20)
	wantStored(t, s, all[s.Trimmed().Seq:])
	if s.Last() != pointOf(all) || s.Status().Damaged > 0 {
		t.Fatalf("the chain is not that of the records, or damage was seen: %+v", s.Status())
	}
	mustClose(t, s)
}

// The power goes at each operation of the script, and the disk keeps different things; or only the process ends.
func TestPowerCutAtEveryOperation(t *testing.T) {
	cuts := 0
	for n := 0; ; n++ {
		d := newDisk(uint64(n))
		d.CutAfter(n)
		acknowledged, trimmed, err := script(testConfig(d))
		if err == nil {
			break
		}
		if !errors.Is(err, simdisk.ErrPowerCut) {
			t.Fatalf("cut %d: %v", n, err)
		}
		for seed := range uint64(8) {
			cuts++
			wantSurvived(t, testConfig(d.Crash(newRand(seed))), acknowledged, trimmed)
			if t.Failed() {
				t.Fatalf("cut %d, seed %d", n, seed)
			}
		}
		wantSurvived(t, testConfig(d.Kill()), acknowledged, trimmed)
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 8*100 {
		t.Errorf("only %d power cuts, the test does not reach what it should", cuts)
	}
}

// Each operation of the script fails once, those that only read too. What was acknowledged is there in the same process and in the next one.
func TestEveryFailure(t *testing.T) {
	failures := 0
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for n := 1; ; n++ {
			d := newDisk(uint64(n))
			count, failed := 0, simdisk.Op{}
			d.SetHook(func(op simdisk.Op) error {
				if count++; count != n {
					return nil
				}
				failed = op
				return cause
			})
			acknowledged, trimmed, err := script(testConfig(d))
			if count < n {
				break
			}
			if failures++; err != nil && !errors.Is(err, cause) {
				t.Fatalf("%v of %+v: %v", cause, failed, err)
			}
			d.SetHook(nil)
			if n := d.Handles(); n > 0 {
				t.Fatalf("%v of %+v: %d files are still open", cause, failed, n)
			}
			wantSurvived(t, testConfig(d.Crash(newRand(uint64(n)))), acknowledged, trimmed)
			wantSurvived(t, testConfig(d.Kill()), acknowledged, trimmed)
			if t.Failed() {
				t.Fatalf("%v of %+v", cause, failed)
			}
		}
	}
	if failures < 2*150 {
		t.Errorf("only %d operations failed, the test does not reach what it should", failures)
	}
}
