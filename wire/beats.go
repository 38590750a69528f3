package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// BeatUnit is how exactly a digest tells when a device beat: up to 12 s ago that takes one byte.
const BeatUnit = 100 * time.Millisecond

// MaxBeats bounds the devices of one digest.
const MaxBeats = 4096

// Beats are the devices that beat in a report period, by slot, each with how long ago its last beat came. A device takes two
// bytes most often, because a digest is most of what a plant at rest sends over its uplink. For each device, in order of their slots, there are
// two unsigned varints (as of encoding/binary): by how much its slot is greater than the one before it, of which the first one's is -1, less 1;
// and the age in units of BeatUnit, rounded up.
type Beats []byte

// A BeatPacker makes Beats. Its zero value is empty.
type BeatPacker struct {
	b    Beats
	n    int
	next uint64 // least slot that may come
}

// Add adds a device: its slot must be greater than that of the device before. An age below zero counts as zero.
func (p *BeatPacker) Add(slot uint32, age time.Duration) {
	p.b = binary.AppendUvarint(p.b, uint64(slot)-p.next)
	p.b = binary.AppendUvarint(p.b, uint64((max(age, 0)+BeatUnit-1)/BeatUnit))
	p.n++
	p.next = uint64(slot) + 1
}

// Len is how many devices were added.
func (p *BeatPacker) Len() int { return p.n }

// Beats are the devices that were added; nil for none.
func (p *BeatPacker) Beats() Beats { return p.b }

// UnmarshalCBOR takes a byte string with at most MaxBeats devices in order. The error is ErrMalformed.
func (b *Beats) UnmarshalCBOR(data []byte) error {
	var raw []byte
	if err := decMode.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("beats: %w: %w", ErrMalformed, err)
	}
	n := 0
	for rest, next := raw, uint64(0); len(rest) > 0; n++ {
		slot, _, left, ok := cutBeat(rest, next)
		if !ok || n == MaxBeats {
			return fmt.Errorf("beats: device %d of at most %d: %w", n+1, MaxBeats, ErrMalformed)
		}
		rest, next = left, uint64(slot)+1
	}
	*b = raw
	return nil
}

var _ cbor.Unmarshaler = (*Beats)(nil)

// All are the devices' slots, ascending, and how long before the digest their last beats came.
func (b Beats) All() iter.Seq2[uint32, time.Duration] {
	return func(yield func(uint32, time.Duration) bool) {
		for rest, next := b, uint64(0); len(rest) > 0; {
			slot, age, left, ok := cutBeat(rest, next)
			if !ok || !yield(slot, age) {
				return
			}
			rest, next = left, uint64(slot)+1
		}
	}
}

// cutBeat reads the first device of b, whose slot is at least next.
func cutBeat(b []byte, next uint64) (slot uint32, age time.Duration, rest []byte, ok bool) {
	gap, n := binary.Uvarint(b)
	if n <= 0 || next > math.MaxUint32 || gap > math.MaxUint32-next {
		return 0, 0, nil, false
	}
	units, m := binary.Uvarint(b[n:])
	if m <= 0 || units > math.MaxUint32 {
		return 0, 0, nil, false
	}
	return uint32(next + gap), time.Duration(units) * BeatUnit, b[n+m:], true //nolint:gosec // checked above
}
