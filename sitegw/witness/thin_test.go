package witness

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// years is a file's lines over a long time, one a minute, thinned whenever it is full.
func years(minutes, limit int) []mark {
	var marks []mark
	for i := range minutes {
		if len(marks) >= limit {
			var next []mark
			for j, s := range thinned(marks, limit/2) {
				if s {
					next = append(next, marks[j])
				}
			}
			marks = next
		}
		marks = append(marks, mark{epoch: 1, seq: uint64(i + 1), ms: int64(i) * time.Minute.Milliseconds()})
	}
	return marks
}

// After years the newest day is whole, and the gap before each older line stays in proportion to its age.
func TestThinnedSpread(t *testing.T) {
	const day = 24 * 60
	marks := years(3*365*day, maxLines)
	if len(marks) > maxLines || marks[0].seq != 1 {
		t.Fatalf("%d lines from %d on", len(marks), marks[0].seq)
	}
	last := marks[len(marks)-1].seq
	for i := 1; i < len(marks); i++ {
		gap, age := marks[i].seq-marks[i-1].seq, last-marks[i].seq
		if age < day && gap != 1 {
			t.Fatalf("a gap of %d minutes at an age of %d", gap, age)
		}
		if limit := 2 + age/(agePart/4); gap > limit {
			t.Fatalf("a gap of %d minutes at an age of %d, want %d at most", gap, age, limit)
		}
	}
}

// Whatever the log times are, the bound holds, and the first and the last line stay.
func TestThinnedHostileTimes(t *testing.T) {
	for name, ms := range map[string]func(i int) int64{
		"all the same":  func(int) int64 { return 5 },
		"backwards":     func(i int) int64 { return int64(-i) * 1e9 },
		"far apart":     func(i int) int64 { return int64(i) * 1e12 },
		"to and fro":    func(i int) int64 { return int64(i%2) * 1e15 },
		"one far ahead": func(i int) int64 { return map[bool]int64{true: 2e14}[i == 500] },
	} {
		for n := range 40 {
			marks := make([]mark, n*25)
			for i := range marks {
				marks[i].ms = ms(i)
			}
			stay := thinned(marks, 100)
			if c := count(stay); c > 100 || n > 0 && (!stay[0] || !stay[len(stay)-1]) {
				t.Errorf("%s: %d of %d stay", name, c, len(marks))
			}
		}
	}
}

// The file itself is thinned at either bound, stays in step with what is held of it, and goes on.
func TestFileIsThinned(t *testing.T) {
	for name, l := range map[string]limits{"lines": {100, 1 << 20}, "bytes": {1 << 20, 20_000}} {
		dir := t.TempDir()
		k, _, err := openKept(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		k.limit = l
		for i := range 500 {
			line := Line{Seq: uint64(i + 1), Hash: strings.Repeat("ab", 32), ClusterEpoch: 1, LogTime: time.UnixMilli(int64(i) * 1e6).UTC(), Sealed: []byte("head")}
			if err := k.append(&line); err != nil {
				t.Fatal(err)
			}
			if len(k.marks) > l.lines || k.size > l.bytes {
				t.Fatalf("%s: %d lines, %d bytes", name, len(k.marks), k.size)
			}
		}
		if err := k.close(); err != nil {
			t.Fatal(err)
		}
		again, newest, err := openKept(dir, slog.New(slog.DiscardHandler))
		if err != nil || newest.Seq != 500 || !slices.Equal(again.marks, k.marks) || again.size != k.size || again.marks[0].seq != 1 {
			t.Errorf("%s: read again: newest %d, %d lines, want %d: %v", name, newest.Seq, len(again.marks), len(k.marks), err)
		}
		if found, err := again.read(1, 500); err != nil || found.Seq != 500 {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
		if err := again.close(); err != nil {
			t.Error(err)
		}
	}
}
