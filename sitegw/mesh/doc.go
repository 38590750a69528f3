// Package mesh lets the gateways of a site know of one another, without the core: who is there, who has an uplink, how much each
// has to do, and how new the facts are that each holds. A gateway without an uplink asks a sibling for those that are newer than its own.
//
// It is gossip (hashicorp/memberlist), under a key that the core gives to the gateways of a site, over sessions that each side opens
// only with a gateway of the newest signed list. All of it is advice: it orders whom to ask first, and decides nothing. What a sibling
// hands out counts when the authority signed it and it is newer, so that a sibling that lies costs time.
//
// A Mesh does not block who asks it. Without a site key or siblings it does nothing, and serves nobody. When Run returns, probes of the
// library may still be waiting for their own deadline, 4 s at most; it has no way to wait for them, and they touch nothing.
package mesh
