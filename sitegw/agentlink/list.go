package agentlink

import (
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// listOf is the place of the list of gateways that an agent says it has.
func listOf(m *wire.Attach) seal.Stamp { return seal.Stamp{ClusterEpoch: m.ListEpoch, Number: m.List} }

// hasList notes which list the agent has, and sends it a newer one.
func (s *session) hasList(m *wire.Attach) {
	s.listMu.Lock()
	s.list = listOf(m)
	s.listMu.Unlock()
	s.tellList()
}

// tellList sends the list of the site's gateways to an agent whose own is older.
func (s *session) tellList() {
	sealed, stamp := s.Mirror.List()
	s.listMu.Lock()
	newer := sealed != nil && stamp.Compare(s.list) > 0
	if newer {
		s.list = stamp
	}
	s.listMu.Unlock()
	if !newer {
		return
	}
	if err := s.link.Send(wire.TypeHeartbeatAck, wire.HeartbeatAck{List: sealed}); err != nil {
		s.broken()
	}
}

// tellLists takes a new list to all agents.
func (s *Server) tellLists() {
	s.mu.Lock()
	all := make([]*session, 0, len(s.sessions))
	for ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	for _, ses := range all {
		ses.tellList()
	}
}
