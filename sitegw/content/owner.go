package content

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
)

// asked is how many siblings are asked for what they have before anybody goes over the WAN. The first of them in the order of a content
// owns it, or did before a gateway came or went.
const asked = 3

// A ranking is who may have a content, and who is to fetch it.
type ranking struct {
	near  []string // siblings to ask for what they have, the most likely one first
	owner string   // the sibling that fetches it for all; "": this gateway
}

// rank orders the site's gateways for a content, by rendezvous hashing: all that see the same gateways come to the same order, and one
// that comes or goes moves no content but its own.
func (s *Site) rank(k cache.Key) ranking {
	type weighed struct {
		Sibling
		weight [sha256.Size]byte
	}
	all := []weighed{{Sibling: Sibling{s.Self, s.Uplink()}}}
	for _, sib := range s.Siblings() {
		if sib.Name != s.Self {
			all = append(all, weighed{Sibling: sib})
		}
	}
	for i := range all {
		all[i].weight = weigh(k, all[i].Name)
	}
	slices.SortFunc(all, func(a, b weighed) int { return strings.Compare(string(b.weight[:]), string(a.weight[:])) })
	var r ranking
	decided := false
	for _, w := range all {
		if w.Uplink && !decided {
			decided = true
			if w.Name != s.Self {
				r.owner = w.Name
			}
		}
		if w.Name != s.Self && len(r.near) < asked {
			r.near = append(r.near, w.Name)
		}
	}
	return r
}

// weigh is a gateway's weight for a content.
func weigh(k cache.Key, name string) [sha256.Size]byte {
	b := append([]byte{byte(k.Kind)}, k.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, k.Number)
	return sha256.Sum256(append(b, name...))
}
