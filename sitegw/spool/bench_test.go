package spool

import (
	"path/filepath"
	"testing"
)

// benchData is about what a signed status of a device takes. How fast records are appended is measured by sim/bench.
const benchData = 200

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
