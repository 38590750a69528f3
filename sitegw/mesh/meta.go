package mesh

import (
	"fmt"
	"math"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// parseMeta reads what a gateway is said to say of itself. Anybody may have written it.
func parseMeta(b []byte) (wire.GossipMeta, error) {
	var m wire.GossipMeta
	if len(b) > wire.MaxMeta {
		return m, fmt.Errorf("gossip meta of %d bytes, limit %d: %w", len(b), wire.MaxMeta, wire.ErrMalformed)
	}
	if err := wire.Unmarshal(b, &m); err != nil {
		return wire.GossipMeta{}, err
	}
	m.Busy = min(m.Busy, 100)
	return m, nil
}

func mirrorStamp(m *wire.GossipMeta) seal.Stamp {
	return seal.Stamp{ClusterEpoch: m.MirrorEpoch, Number: m.Mirror}
}

func listStamp(m *wire.GossipMeta) seal.Stamp {
	return seal.Stamp{ClusterEpoch: m.ListEpoch, Number: m.List}
}

// A Load is how much a gateway has to do.
type Load struct {
	Sessions int     // of agents
	Busy     float64 // share of the processors that the process keeps busy, 0 to 1; 0: not known
}

// say writes the load so coarsely that it seldom changes.
func (l Load) say(m *wire.GossipMeta) {
	m.Sessions = twoDigits(l.Sessions)
	m.Busy = uint32(math.Round(min(max(l.Busy, 0), 1)*10)) * 10
}

// twoDigits is n rounded down to its first two digits.
func twoDigits(n int) uint32 {
	scale := 1
	for n/scale >= 100 {
		scale *= 10
	}
	return uint32(min(max(n/scale*scale, 0), math.MaxInt32))
}
