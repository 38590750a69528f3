package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"
)

// BenchmarkPropose measures acknowledged commands of 100 bytes on a cluster of one with its log on a real disk. It
// reports commands a second and how many commands shared an entry.
func BenchmarkPropose(b *testing.B) {
	for _, c := range []struct {
		name    string
		callers int // per CPU
	}{{"callers=1xCPU", 1}, {"callers=64xCPU", 64}, {"callers=512xCPU", 512}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			w.found("core-1")
			w.start("core-1")
			n := w.leader("core-1")
			command := make([]byte, 100)
			b.SetParallelism(c.callers)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := n.Propose(b.Context(), command); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			st := n.Status()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(float64(st.Commands)/float64(st.Entries), "commands/entry")
			w.stopAll()
		})
	}
}

// BenchmarkReadBarrier measures linearizable read points.
func BenchmarkReadBarrier(b *testing.B) {
	w := newWorld(b)
	w.found("core-1")
	w.start("core-1")
	n := w.leader("core-1")
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.ReadBarrier(b.Context()); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	w.stopAll()
}

// BenchmarkOpen measures the check of a log at start: 10,000 entries of 1 KiB.
func BenchmarkOpen(b *testing.B) {
	w := newWorld(b)
	w.found("core-1")
	log, err := openLog(w.dir("core-1") + "/" + logFile)
	check(b, err)
	data := appendEntry(nil, &entry{commands: [][]byte{make([]byte, 1024)}})
	for first := uint64(2); first < 10_000; first += 1000 {
		var rows []*raft.Log
		for i := range uint64(1000) {
			rows = append(rows, &raft.Log{Index: first + i, Term: 1, Type: raft.LogCommand, Data: data})
		}
		check(b, log.StoreLogs(rows))
	}
	check(b, log.Close())
	for b.Loop() {
		w.start("core-1")
		w.stop("core-1")
	}
}
