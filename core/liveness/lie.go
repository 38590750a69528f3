package liveness

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Lie is what a gateway claimed about a device and what the device's own signed word contradicts.
type Lie struct {
	Device  ident.DeviceID
	Gateway string // site/name
	Reason  string
}

// The reasons, as events and the audit trail have them.
const (
	LieElsewhere = "it reports heartbeats of a device that is at another gateway"
	LieUnsigned  = "it reports heartbeats of a device that has signed nothing for two hours"
	LieSilent    = "it reported heartbeats in a time in which the device sent none"
)

// LieSlack is how much later a claim may come to the core than the device's own word about the same moment, over another uplink that
// is faster: about the time after which a session that stalls is over.
const LieSlack = time.Minute

// contradicts tells why a heartbeat at a gateway, at a time of this node's clock, cannot be; "": it can. The gateway's clock has no part
// in it. The caller holds the tracker's mu.
//
// A device that beats attaches anew every hour, also on a session that goes on, so a gateway that has its heartbeats has its word.
func (d *device) contradicts(gw string, at time.Time) string {
	switch {
	case d.gateway != gw && at.Sub(d.attached) > LieSlack:
		return LieElsewhere
	case d.gateway == gw && at.Sub(d.attached) > unverifiedAfter+LieSlack:
		return LieUnsigned
	}
	return ""
}

// A Claim is the newest sign of life of a device that a gateway claimed.
type Claim struct {
	Gateway string // site/name; empty: there is none
	At      time.Time
}

// Claimed is the newest claim about a device.
func (t *Tracker) Claimed(id ident.DeviceID) Claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.devices[id]
	if !ok || d.claimed.IsZero() {
		return Claim{}
	}
	return Claim{Gateway: d.gateway, At: d.claimed}
}

// Silent holds a claim against the device's signed word, in an attach that came at a moment, that it had been silent for so long; nil:
// both can be true.
func (c Claim) Silent(id ident.DeviceID, silent time.Duration, came time.Time) *Lie {
	if c.Gateway == "" || silent <= LieSlack || c.At.Sub(came.Add(-silent)) <= LieSlack {
		return nil
	}
	return &Lie{Device: id, Gateway: c.Gateway, Reason: LieSilent}
}
