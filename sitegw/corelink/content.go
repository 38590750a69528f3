package corelink

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// DialContent opens a session for content beside the uplink: with the node that the uplink is with, or, where that was tried, with
// another one. Where the uplink is relayed, so is the session, and the sibling chooses the node. way names what it went by; when all are
// among tried, they are begun again. Without an uplink there is none. That it is admitted shows with the first answer.
func (l *Link) DialContent(ctx context.Context, tried map[string]bool) (ls *link.Session, way string, err error) {
	s := l.Status()
	if !s.Connected {
		return nil, "", errNoSession
	}
	o := link.Options{Limits: link.ContentLimits}
	if s.Relay != "" {
		ls, err = l.relayed(ctx, s.Relay, o)
		return ls, s.Relay, err
	}
	all := slices.DeleteFunc(l.Cores.All(), func(a string) bool { return a == s.Address })
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // spreads gateways over the nodes
	all = append([]string{s.Address}, all...)
	if left := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return tried[a] }); len(left) > 0 {
		all = left
	}
	for _, a := range all {
		if ls, err = l.direct(ctx, a, o); err == nil {
			return ls, a, nil
		}
		l.Log.Warn("no session for content with this core node", "core", a, "err", err)
	}
	return nil, "", wire.Refuse(wire.CodeUnavailable, "no core node takes a session for content").After(retryWithout)
}

// direct opens a session with a node, whichever it runs over: who is at the other end the handshake has shown.
func (l *Link) direct(ctx context.Context, core string, o link.Options) (*link.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return link.Open(ctx, l.dialer, l.target(core, o), func(ls *link.Session) (*link.Session, error) { return ls, nil })
}

// relayed opens a session through a sibling.
func (l *Link) relayed(ctx context.Context, name string, o link.Options) (*link.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	conn, err := l.Relay(ctx, name)
	if err != nil {
		return nil, err
	}
	return link.DialConn(ctx, conn, l.target("", o).TLS, o)
}
