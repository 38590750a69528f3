package mesh

import (
	"fmt"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast-edge/holdfast/wire"
)

// NodeMeta implements memberlist.Delegate.
func (r *round) NodeMeta(int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.meta
}

// NotifyMsg implements memberlist.Delegate. Nothing is sent that way, and the sieve lets nothing of it through.
func (r *round) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (r *round) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (r *round) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (r *round) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: it refuses whoever is not listed, or is said to have another address than his name
// gives him. It is asked about each member, whichever way the word of it came; so a state with a member that was taken off the list a
// moment ago is merged but for that one, and no member can keep others from merging.
func (r *round) NotifyAlive(n *memberlist.Node) error {
	if n.Name != r.mesh.Self.Name && !r.mesh.isListed(n.Name) {
		return errUnlisted
	}
	if !n.Addr.Equal(ipOf(n.Name)) || n.Port != addrPort {
		return fmt.Errorf("gateway %s at the address of another one: %w", n.Name, errSieved)
	}
	// A version that the others cannot speak would end every exchange of states.
	if n.PMin > ourProtocol || n.PMax < ourProtocol || n.PCur != ourProtocol || n.DMin > ourDelegate || n.DMax < ourDelegate || n.DCur != ourDelegate {
		return fmt.Errorf("protocol %d of %d to %d: %w", n.PCur, n.PMin, n.PMax, errSieved)
	}
	_, err := parseMeta(n.Meta)
	return err
}

// members is who is there, as the library sees it. The library calls it with its lock held.
type members struct {
	mu sync.Mutex
	of map[string]wire.GossipMeta
}

func (m *members) put(n *memberlist.Node) {
	meta, err := parseMeta(n.Meta)
	if err != nil {
		meta = wire.GossipMeta{} // it was let through before
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[n.Name] = meta
}

// NotifyJoin implements memberlist.EventDelegate.
func (m *members) NotifyJoin(n *memberlist.Node) { m.put(n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (m *members) NotifyUpdate(n *memberlist.Node) { m.put(n) }

// NotifyLeave implements memberlist.EventDelegate.
func (m *members) NotifyLeave(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, n.Name)
}

func (m *members) get(name string) (wire.GossipMeta, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	meta, ok := m.of[name]
	return meta, ok
}

func (m *members) uplink(name string) bool {
	meta, _ := m.get(name)
	return meta.Uplink
}
