package mesh

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-edge/holdfast/wire"
)

// A Sibling is another gateway of the site, with what the mesh says of it. None of it need be true.
type Sibling struct {
	Name  string
	Alive bool // it is a member of the mesh, or has a connection with this gateway
	Said  bool // Meta holds what it, or somebody in its name, said of it
	Meta  wire.GossipMeta
}

// Siblings are the siblings of the newest list, in the order in which to ask them for a way to the core: first those with an uplink,
// the least busy one before the others, then those of which nothing is known, and at last those that say that they have none. Those
// that are alike are in random order.
func (m *Mesh) Siblings() []Sibling {
	all := m.siblings()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // spreading load needs no secrecy
	slices.SortStableFunc(all, func(a, b Sibling) int {
		if c := cmp.Compare(a.class(), b.class()); c != 0 || a.class() != hasUplink {
			return c
		}
		return cmp.Or(cmp.Compare(a.Meta.Busy/20, b.Meta.Busy/20), cmp.Compare(a.Meta.Sessions, b.Meta.Sessions))
	})
	return all
}

// The classes of siblings, the better one first.
const (
	hasUplink = iota
	notKnown  // but there
	notThere
	hasNone
)

func (s *Sibling) class() int {
	switch {
	case s.Said && s.Meta.Uplink:
		return hasUplink
	case s.Said:
		return hasNone
	case s.Alive:
		return notKnown
	}
	return notThere
}

// siblings are those of the newest list, in any order. A member stays in what the library says until it notices its death; a
// connection that stands is better evidence than the word of others that its other end is dead.
func (m *Mesh) siblings() []Sibling {
	r := m.round()
	all := *m.listed.Load()
	out := make([]Sibling, 0, len(all))
	for n := range all {
		s := Sibling{Name: n}
		if r != nil {
			s.Meta, s.Said = r.members.get(n)
			s.Alive = s.Said || r.transport.connected(n)
		}
		out = append(out, s)
	}
	return out
}
