package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/internal/floor/wal"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
)

// spoolData is about what a signed status of a device takes, in bytes.
const spoolData = 200

// spoolBatches are the sizes of batches that the spool is held against the raw log with.
var spoolBatches = []int{1, 10, 100, 1000}

// spools measures group commit. Of twice as many records as a batch shall have one half is written while the other gathers. In turns with it,
// the raw log that does nothing but write and sync makes batches of the size that the spool's had.
func spools(ctx context.Context, b *bench) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return fmt.Errorf("directory of the run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, n := range spoolBatches {
		if err := spoolBatch(ctx, b, filepath.Join(dir, fmt.Sprint(n)), n); err != nil {
			return fmt.Errorf("batches of %d: %w", n, err)
		}
	}
	return nil
}

// spoolPair is a turn of each of the two.
type spoolPair struct {
	own, floor time.Duration
	records    int
	batches    int
	foreign    float64
}

func (p spoolPair) rate() float64      { return float64(p.records) / p.own.Seconds() }
func (p spoolPair) floorRate() float64 { return float64(p.records) / p.floor.Seconds() }

func spoolBatch(ctx context.Context, b *bench, dir string, size int) (err error) {
	counted := &countingFS{FS: disk.OS{}}
	s, end, err := openSpool(ctx, filepath.Join(dir, "spool"), counted)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	raw, err := openRaw(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	pairs := make([]spoolPair, 0, b.size.spoolRounds)
	for range b.size.spoolRounds {
		p, err := spoolTurn(s, counted, raw, size, b.size.spoolTurn)
		if err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	quiet := quieter(pairs, func(p spoolPair) float64 { return p.foreign })
	med := func(f func(p spoolPair) float64) float64 { return median(quiet, f) }
	ratio := func(p spoolPair) float64 { return p.rate() / p.floorRate() }
	worst, best := extremes(quiet, ratio)
	b.judge(verdict{
		name: fmt.Sprintf("spool: append, batches of %d", size), target: "at least 80 % of the floor", unit: "1/s",
		floor: med(spoolPair.floorRate), own: med(spoolPair.rate), ratio: med(ratio), limit: 0.8, atLeast: true,
		note: fmt.Sprintf("records of %d B, %.0f in a batch; median of the quieter %d of %d pairs, %.2f to %.2f", spoolData,
			med(func(p spoolPair) float64 { return float64(p.records) / float64(p.batches) }), len(quiet), len(pairs), worst, best),
	})
	return nil
}

// spoolTurn gives each of the two its turn: turn batches of about size records.
func spoolTurn(s *spool.Spool, counted *countingFS, raw *wal.Log, size, turn int) (p spoolPair, err error) {
	foreign, err := proc.StartForeign(os.Getpid())
	if err != nil {
		return p, err
	}
	data := make([]byte, spoolData)
	durable := make(chan error, 2) // a word for each batch's last record: one for each record would cost more than the spool does
	each := uint64(size)           //nolint:gosec // G115: one of spoolBatches
	done := func(seq uint64, err error) {
		if err == nil && seq%each != 0 {
			return
		}
		select {
		case durable <- err:
		default: // nobody waits any more after the first error
		}
	}
	first := s.Last().Seq
	if first%each != 0 {
		return p, fmt.Errorf("the spool begins at record %d, inside a batch", first)
	}
	syncs := counted.syncs.Load()
	start := time.Now()
	for got := range turn {
		for ; p.records < min(got+2, turn)*size; p.records++ {
			s.Append(custody.KindStatement, 1, data, done)
		}
		if err := <-durable; err != nil {
			return p, err
		}
	}
	p.own = time.Since(start)
	p.batches = int(counted.syncs.Load() - syncs)
	records := slices.Repeat([][]byte{data}, p.records)
	start = time.Now()
	for left := p.batches; left > 0; left-- {
		n := len(records) / left
		if err := raw.Append(records[:n]); err != nil {
			return p, err
		}
		records = records[n:]
	}
	p.floor = time.Since(start)
	if p.foreign, err = foreign.Share(); err != nil {
		return p, err
	}
	return p, s.Trim(s.Last().Seq) // as the uplink does
}

// openRaw opens the raw log beside it.
func openRaw(dir string) (*wal.Log, error) {
	dir = filepath.Join(dir, "raw")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raw log: %w", err)
	}
	return wal.Open(dir)
}

// countingFS counts the syncs of files.
type countingFS struct {
	disk.FS

	syncs atomic.Int64
}

type countingFile struct {
	disk.File

	fs *countingFS
}

func (f countingFile) Sync() error {
	f.fs.syncs.Add(1)
	return f.File.Sync()
}

func (f *countingFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return countingFile{file, f}, nil
}
