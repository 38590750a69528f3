package spool

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/floor/wal"
)

// benchData is about what a signed status of a device takes.
const benchData = 200

// BenchmarkAppend measures group commit: of twice as many records as a batch shall have one half is written while the other gathers. In turns with
// it, the raw log that does nothing but write and sync makes batches of the size that the spool's had. floor-ratio is the part of the raw log's
// rate that the spool reaches; 0.8 is wanted.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch-%d", size), func(b *testing.B) { benchAppend(b, size) })
	}
}

// benchTurn is how many batches each of the two makes in its turn.
const benchTurn = 20

func benchAppend(b *testing.B, size int) {
	b.Helper()
	raw, err := wal.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	counted := &countingFS{FS: disk.OS{}}
	s := mustOpen(b, Config{Dir: filepath.Join(b.TempDir(), "spool"), FS: counted, Quota: 4 << 30})
	stop := started(b, s)
	data := make([]byte, benchData)
	records := make([][]byte, 2*size)
	for i := range records {
		records[i] = data
	}
	durable := make(chan error, 2*size) // as many as can be under way
	done := func(_ uint64, err error) { durable <- err }
	var ours, theirs time.Duration
	var ourRecords, theirRecords int
	for b.Loop() {
		syncs := counted.syncs.Load()
		start := time.Now()
		sent := 0
		for got := range benchTurn * size {
			for ; sent < min(got+2*size, benchTurn*size); sent++ {
				s.Append(1, 1, data, done)
			}
			if err := <-durable; err != nil {
				b.Fatal(err)
			}
		}
		ours += time.Since(start)
		ourRecords += sent
		start = time.Now()
		for left, batches := sent, int(counted.syncs.Load()-syncs); batches > 0; batches-- {
			n := left / batches
			left -= n
			if err := raw.Append(records[:n]); err != nil {
				b.Fatal(err)
			}
		}
		theirs += time.Since(start)
		theirRecords += sent
		mustTrim(b, s, s.Last().Seq) // as the uplink does
	}
	stop()
	b.ReportMetric(float64(ourRecords)/float64(counted.syncs.Load()), "records/batch")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "floor-ratio")
	b.ReportMetric(float64(ourRecords)/ours.Seconds(), "records/s")
	b.ReportMetric(float64(theirRecords)/theirs.Seconds(), "floor-records/s")
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

// BenchmarkRead drains a backlog: pages of the default size, each trimmed.
func BenchmarkRead(b *testing.B) {
	const records = 200_000
	dir := filepath.Join(b.TempDir(), "spool")
	s := mustOpen(b, Config{Dir: dir})
	data := make([]byte, benchData)
	for i := range records {
		s.Append(1, 1, data, func(_ uint64, err error) {
			if err != nil {
				b.Error(err)
			}
		})
		if i%1000 == 999 {
			s.flush()
		}
	}
	b.SetBytes(records * benchData)
	for b.Loop() {
		for after := uint64(0); after < records; {
			p, err := s.Read(after, 0, 0)
			if err != nil || len(p.Records) == 0 {
				b.Fatal(p, err)
			}
			after = p.After()
		}
	}
	b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
}
