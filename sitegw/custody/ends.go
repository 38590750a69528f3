package custody

import (
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
)

// SpoolEnds is where the spool begins and ends, by which the core tells it from a copy. What is at its end is durable.
func (k *Keeper) SpoolEnds() wire.SpoolEnds {
	point := func(p spool.Point) wire.SpoolPoint { return wire.SpoolPoint{Seq: p.Seq, Chain: p.Chain} }
	return wire.SpoolEnds{Incarnation: k.Spool.Incarnation(), Trimmed: point(k.Spool.Trimmed()), Last: point(k.Spool.Last())}
}

// SpoolPoint is the point behind a record of the spool; nil: the record is trimmed, or lost. Errors are the disk's.
func (k *Keeper) SpoolPoint(seq uint64) (*wire.SpoolPoint, error) {
	p, ok, err := k.Spool.PointAt(seq)
	if err != nil || !ok {
		return nil, err
	}
	return &wire.SpoolPoint{Seq: p.Seq, Chain: p.Chain}, nil
}
