package history

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const (
	benchData  = 200
	benchBatch = 64
)

// benchBatchOf makes a batch of records of log index i, spread over a thousand streams.
func benchBatchOf(recs []Record, i uint64, data []byte) {
	for n := range recs {
		recs[n] = Record{Index: i, N: uint32(n), Time: time.UnixMilli(int64(i)), Data: data}
		binary.BigEndian.PutUint64(recs[n].Stream[1:], rand.Uint64N(1000))
	}
}

// BenchmarkAppend appends batches of 200-byte records and, in turns, writes as many bytes without any structure to a plain file, which is
// synced as often as the store seals a segment. The ratio of the two is what the store costs.
func BenchmarkAppend(b *testing.B) {
	dir := b.TempDir()
	s := mustOpen(b, dir, Options{})
	raw, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := raw.Close(); err != nil {
			b.Error(err)
		}
	}()
	recs, data := make([]Record, benchBatch), make([]byte, benchData)
	plain := make([]byte, benchBatch*benchData)
	var ours, theirs time.Duration
	b.SetBytes(benchBatch * benchData)
	for i := uint64(1); b.Loop(); i++ {
		benchBatchOf(recs, i, data)
		start := time.Now()
		mustAppend(b, s, recs)
		ours += time.Since(start)
		start = time.Now()
		if _, err := raw.Write(plain); err != nil {
			b.Fatal(err)
		}
		if i%(DefaultSegmentBytes/(benchBatch*benchData)) == 0 {
			if err := raw.Sync(); err != nil {
				b.Fatal(err)
			}
		}
		theirs += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "times-raw")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N*benchBatch), "ns/record")
}

// BenchmarkOpen opens a history of a million records and reports what its index takes in memory.
func BenchmarkOpen(b *testing.B) {
	const indexes = 1_000_000 / benchBatch
	dir := b.TempDir()
	s := mustOpen(b, dir, Options{})
	recs, data := make([]Record, benchBatch), make([]byte, benchData)
	for i := range uint64(indexes) {
		benchBatchOf(recs, i+1, data)
		mustAppend(b, s, recs)
	}
	mustClose(b, s)
	b.SetBytes(indexes * benchBatch * recordSize(benchData))
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		mustClose(b, s)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(indexes*benchBatch), "index-bytes/record")
}

// BenchmarkRead reads a page from the middle of a stream of a thousand records.
func BenchmarkRead(b *testing.B) {
	s := mustOpen(b, b.TempDir(), Options{})
	recs, data := make([]Record, benchBatch), make([]byte, benchData)
	for i := range uint64(1_000_000 / benchBatch) {
		benchBatchOf(recs, i+1, data)
		mustAppend(b, s, recs)
	}
	stream := recs[0].Stream
	for b.Loop() {
		if _, _, err := s.Read(context.Background(), stream, Query{After: Cursor{Index: 8000}, Newest: true}); err != nil {
			b.Fatal(err)
		}
	}
}
