package load

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Durations fall into buckets of growing width: exact below 64 ns, above it 32 to each power of two, so that a
// percentile is off by at most 1.6 % (half a bucket).
const (
	subBits = 5
	// buckets covers every positive duration: bucketOf(math.MaxInt64) is the last one.
	buckets = (63-subBits)<<subBits + 1<<subBits
)

// Histogram counts durations. Its zero value is empty. It may be used from any number of goroutines, takes some 15 KiB
// whatever it counts, and must not be copied.
type Histogram struct {
	counts [buckets]atomic.Uint64
}

// Add counts d.
func (h *Histogram) Add(d time.Duration) { h.counts[bucketOf(d)].Add(1) }

// Snapshot returns what was counted so far.
func (h *Histogram) Snapshot() *Distribution {
	d := &Distribution{}
	for i := range h.counts {
		d.counts[i] = h.counts[i].Load()
	}
	return d
}

// Distribution is what a Histogram had counted at one moment, or between two.
type Distribution struct {
	counts [buckets]uint64
}

// Since returns what was counted after earlier, a snapshot of the same Histogram.
func (d *Distribution) Since(earlier *Distribution) *Distribution {
	diff := &Distribution{}
	for i := range diff.counts {
		diff.counts[i] = d.counts[i] - earlier.counts[i]
	}
	return diff
}

// Count returns how many durations were counted.
func (d *Distribution) Count() uint64 {
	var n uint64
	for _, c := range d.counts {
		n += c
	}
	return n
}

// Percentile returns the duration that a share p (0 to 1) of those counted did not exceed, within 1.6 %; 0 if none was counted.
func (d *Distribution) Percentile(p float64) time.Duration {
	total := d.Count()
	if total == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(min(max(p, 0), 1)*float64(total))), 1)
	for i, n := range d.counts {
		if n >= rank {
			return bucketMiddle(i)
		}
		rank -= n
	}
	return bucketMiddle(buckets - 1)
}

// bucketOf maps a duration to its bucket; negative ones, which a clock step could make, go to the first.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift) //nolint:gosec // G115: below 64
}

// bucketMiddle is the duration that stands for all in bucket i.
func bucketMiddle(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	low := uint64(i-shift<<subBits) << shift         //nolint:gosec // G115: i is a valid bucket
	return time.Duration(low + (uint64(1)<<shift)/2) //nolint:gosec // G115: at most math.MaxInt64
}
