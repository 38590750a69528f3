package corelink

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// coalesce is how long transitions gather before they are reported: a verdict is not late by it, and a thousand devices that
// come back together share a report.
const coalesce = 50 * time.Millisecond

// report sends transitions as they happen and a digest once per period, until the session ends.
func (l *Link) report(ctx context.Context, s *session) error {
	t := time.NewTicker(s.period)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			for _, p := range l.Roster.Digest() {
				if p.Digest {
					p.Backlog = l.Custody.Backlog()
				}
				if err := s.Send(wire.TypePresence, p); err != nil {
					return err
				}
			}
		case <-l.Roster.Wake():
			wait := time.NewTimer(coalesce)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return ctx.Err()
			}
			if err := l.transitions(s); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Link) transitions(s *session) error {
	for {
		p, more := l.Roster.Transitions()
		if len(p.Online)+len(p.Offline) > 0 {
			if err := s.Send(wire.TypePresence, p); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}
