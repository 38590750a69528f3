package api

import (
	"cmp"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/liveness"
)

// uplink is a gateway's session as the API writes it; nil: it is not connected.
func (s *server) uplink(u *liveness.Uplink) *v1.Uplink {
	if !u.Connected {
		return nil
	}
	return &v1.Uplink{Node: cmp.Or(u.Node, s.Node), Carrier: u.Carrier, Relay: u.Relay, Since: at(u.Opened.UnixMilli())}
}

// backlog is what a gateway told as the API writes it; nil: it told nothing.
func backlog(b *liveness.Backlog) *v1.Backlog {
	if b == nil {
		return nil
	}
	return &v1.Backlog{
		ToldAt: at(b.At.UnixMilli()), Statements: b.Statements, Bytes: b.Bytes, OldestAt: atOrNull(b.OldestMS),
		Holding: b.Holding, Failing: b.Failing, Refused: b.Refused, Lost: b.Lost,
	}
}

// addBacklog adds a gateway's backlog to its site's; nil: it is not known.
func addBacklog(sum v1.SiteBacklog, b *v1.Backlog) v1.SiteBacklog {
	if b == nil {
		sum.Unknown++
		return sum
	}
	sum.Statements += b.Statements
	sum.Bytes += b.Bytes
	if b.OldestAt != nil && (sum.OldestAt == nil || b.OldestAt.Before(*sum.OldestAt)) {
		sum.OldestAt = b.OldestAt
	}
	if b.Holding {
		sum.Holding++
	}
	return sum
}
