package agentlink

import (
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// probed answers a device that is attached elsewhere and looks for a nearer gateway. It leaves no trace in roster or mirror, and
// the core is not asked about anybody.
func (s *Server) probed(ls *link.Session, peer *ident.Peer, body []byte) error {
	var m wire.Probe
	if err := wire.Unmarshal(body, &m); err != nil {
		return err
	}
	if len(s.opening) > manyOpening {
		return wire.Refuse(wire.CodeBusy, "many sessions are opening").After(busyAfter)
	}
	if _, err := s.checkState(peer); err != nil {
		return err
	}
	out := wire.Probed{Capability: min(m.Capability, wire.Capability), Uplink: s.Uplink.Connected()}
	if sealed, stamp := s.Mirror.List(); sealed != nil && stamp.Compare(seal.Stamp{ClusterEpoch: m.ListEpoch, Number: m.List}) > 0 {
		out.List = sealed
	}
	s.counters.Probes.Add(1)
	return ls.Send(wire.TypeProbed, out)
}
