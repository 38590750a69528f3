package corelink

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Bounds of what waits to go up.
const (
	queueLength = 4096
	maxUnderWay = 4 // submits without an answer
)

// A statement waits to be submitted. done is called exactly once.
type statement struct {
	sealed []byte
	done   func(r wire.SubmitResult)
}

// Submit passes a device's statement to the core; many share a message. done is called with the result, from any goroutine,
// and must not block.
func (l *Link) Submit(sealed []byte, done func(wire.SubmitResult)) {
	if refusal := l.enqueue(statement{sealed, done}); refusal != nil {
		done(*refusal)
	}
}

// enqueue queues a statement or says why not. It holds mu, so that nothing is queued after a session's end was settled.
func (l *Link) enqueue(st statement) *wire.SubmitResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		return &unavailable
	}
	select {
	case l.queue <- st:
		return nil
	default:
		return &wire.SubmitResult{Code: wire.CodeBusy, Detail: "too many statements wait at the gateway"}
	}
}

var unavailable = wire.SubmitResult{Code: wire.CodeUnavailable, Detail: errNoSession.Detail}

// submit sends what is queued until the session ends; detach answers what is left. While messages are under way others gather and share the next one.
func (l *Link) submit(ctx context.Context) error {
	underWay := make(chan struct{}, maxUnderWay)
	for {
		select {
		case underWay <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case first := <-l.queue:
			batch := l.gather(first)
			l.send(batch, func() { <-underWay })
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxBatchBytes bounds a Submit below the frame limit.
const maxBatchBytes = wire.MaxFrame - wire.MaxStatement - 4<<10

// gather takes what waits behind first, up to a full message.
func (l *Link) gather(first statement) []statement {
	batch, size := []statement{first}, len(first.sealed)
	for len(batch) < wire.MaxBatch && size < maxBatchBytes {
		select {
		case st := <-l.queue:
			batch = append(batch, st)
			size += len(st.sealed)
		default:
			return batch
		}
	}
	return batch
}

func (l *Link) send(batch []statement, settled func()) {
	m := wire.Submit{TimeMS: l.Wall().UnixMilli(), Statements: make([][]byte, len(batch))}
	for i, st := range batch {
		m.Statements[i] = st.sealed
	}
	build := func(id uint64) any {
		m.ID = id
		return m
	}
	l.request(wire.TypeSubmit, build, func(_ wire.Type, body []byte, err error) {
		settled()
		var out wire.Submitted
		if err == nil {
			err = wire.Unmarshal(body, &out)
		}
		for i, st := range batch {
			switch {
			case err != nil || len(out.Results) != len(batch):
				st.done(unavailable)
			default:
				st.done(out.Results[i])
			}
		}
	})
}

// refuseQueued answers what waits in the queue.
func (l *Link) refuseQueued() {
	for {
		select {
		case st := <-l.queue:
			st.done(unavailable)
		default:
			return
		}
	}
}

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
