package registry

import (
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Fact is the newest change of what the authority signs when it is asked for: a device's entry with its order, or the
// list of a site's gateways. The signed bytes are not stored: every node makes the same.
type Fact struct {
	// Number counts the changes of all facts of the fleet; 0: never told. Invariant: it grows with every change of what the
	// fact says, and no two facts have the same.
	Number   uint64 `cbor:"1,keyasint"`
	LoggedMS int64  `cbor:"2,keyasint"` // log time of the change, Unix ms
}

// Facts is the number of the newest fact. Whoever has heard of every fact up to it knows all that the view says.
func (v View) Facts() uint64 { return v.facts }

// fact is the next one.
func (a *applier) fact() Fact {
	a.view.facts++
	return Fact{Number: a.view.facts, LoggedMS: a.ms}
}

// storeDevice stores a record whose entry, or order, which is told with it, may say something else than that of old, which is nil for a new one.
func (a *applier) storeDevice(old, d *Device) {
	rekeyed := old == nil || !slices.Equal(ActiveKeys(old.Keys), ActiveKeys(d.Keys))
	if rekeyed && d.Desired != nil && orderOf(old) == d.Desired.Number {
		d.Desired = d.Desired.next(a.ms) // an order names the keys
	}
	if rekeyed || old.State != d.State || old.Site != d.Site || old.IntervalMS != d.IntervalMS || orderOf(old) != orderOf(d) {
		d.Entry = a.fact()
	}
	a.putDevice(d)
}

// putGateway stores a gateway that may change its site's list. old is nil for a new one; the site exists.
func (a *applier) putGateway(old, g *Gateway) {
	a.view.gateways.put(g)
	if old != nil && old.Listen == g.Listen && slices.Equal(ActiveKeys(old.Keys), ActiveKeys(g.Keys)) {
		return
	}
	s := *a.ensureSite(g.Site)
	s.List = a.fact()
	if out := ended(old, g); len(out) > 0 {
		s.KeyGeneration++ // what the site's gateways share is not for whoever has one of these keys
		s.List.LoggedMS = max(s.List.LoggedMS, newestIssued(out, a.ms))
	}
	a.view.sites.put(&s)
}

// ended are the keys that were active in a record and are no longer.
func ended(old, g *Gateway) (out []Key) {
	if old == nil {
		return nil
	}
	for _, k := range old.Keys {
		if _, active := g.ActiveKey(k.ID); k.State == KeyActive && !active {
			out = append(out, k)
		}
	}
	return out
}

// maxIssuedAhead is how far ahead of log time a certificate may have been issued for its key's end to be moved behind it.
const maxIssuedAhead = 10 * time.Minute

// newestIssued is when, in Unix ms, the newest certificate of the keys was issued; 0: there is none. An agent refuses a gateway
// that a list lacks only if its certificate is not newer than the list, and the clock of the node that issued it may have been
// ahead of the log.
func newestIssued(keys []Key, now int64) (ms int64) {
	for _, k := range keys {
		if issued := k.NotAfterMS - ident.LeafLifetime.Milliseconds(); issued-now < maxIssuedAhead.Milliseconds() {
			ms = max(ms, issued)
		}
	}
	return ms
}

// ActiveKeys lists the ids of those keys that are active, in their order.
func ActiveKeys(keys []Key) []ident.KeyID {
	var out []ident.KeyID
	for i := range keys {
		if keys[i].State == KeyActive {
			out = append(out, keys[i].ID)
		}
	}
	return out
}
