package content

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// What a sibling has is asked for apart from what it is to fetch, so that nobody waits behind a WAN for a disk.
type laneKey struct {
	sibling string // "": the core
	local   bool
}

// maxTries is how many core nodes are asked for one content, one after the other.
const maxTries = 3

// A lane is the way to a sibling or to the core: one session, dialled when it is needed.
type lane struct {
	turn chan struct{} // has room for the one who dials

	mu    sync.Mutex
	now   *pipe // nil: none
	over  bool
	until time.Time // not to be dialled before, because of err
	err   error
	tried map[string]bool // ways to the core that failed since one worked
	way   string          // of now
}

// lane finds a lane, or makes it. Those of siblings that are gone cost a few words.
func (s *Site) lane(k laneKey) (*lane, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errStopped
	}
	l, ok := s.lanes[k]
	if !ok {
		l = &lane{turn: make(chan struct{}, 1), tried: make(map[string]bool)}
		s.lanes[k] = l
	}
	return l, nil
}

// session is the lane's pipe. dial opens one, away from the ways that failed.
func (l *lane) session(ctx context.Context, s *Site, dial func(ctx context.Context, tried map[string]bool) (Conn, string, error)) (*pipe, string, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	l.mu.Lock()
	p, way, over, held, err := l.now, l.way, l.over, time.Now().Before(l.until), l.err
	l.mu.Unlock()
	switch {
	case over:
		return nil, "", errStopped
	case p != nil && p.alive():
		return p, way, nil
	case held:
		return nil, "", err
	}
	c, way, err := dial(ctx, l.tried)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			l.until, l.err = time.Now().Add(retryAfter), err
		}
		return nil, "", err
	}
	if l.over {
		c.Close()
		return nil, "", errStopped
	}
	l.now, l.way = newPipe(c, func(f func()) { s.wg.Go(f) }), way
	return l.now, way, nil
}

// failed notes that a way failed, so that another one is taken; worked, that it did not.
func (l *lane) failed(way string) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.tried[way] = true
}

func (l *lane) worked() {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	clear(l.tried)
}

func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.now != nil {
		l.now.conn.Close()
	}
}

// fromSibling asks a sibling.
func (s *Site) fromSibling(ctx context.Context, src source, f *wire.Fetch) (*wire.Blob, error) {
	l, err := s.lane(laneKey{src.sibling, src.local})
	if err != nil {
		return nil, err
	}
	p, _, err := l.session(ctx, s, func(ctx context.Context, _ map[string]bool) (Conn, string, error) {
		c, err := s.Dial(ctx, src.sibling)
		if err != nil {
			return nil, "", err
		}
		return OnStream(c), "", nil
	})
	if err != nil {
		return nil, err
	}
	return p.ask(ctx, f)
}

// overWAN asks the core, within the site's limit and window. Sets of publishers come at any time: they are small, and say whom to trust.
func (s *Site) overWAN(ctx context.Context, f *wire.Fetch) (*wire.Blob, error) {
	limited := f.Kind != wire.ContentPublishers
	if e := closed(s.Told.Content().Window, s.Wall()); limited && e != nil {
		return nil, e
	}
	l, err := s.lane(laneKey{})
	if err != nil {
		return nil, err
	}
	var last error
	for range maxTries {
		p, way, err := l.session(ctx, s, s.Core)
		if err != nil {
			if last == nil {
				last = err
			}
			break
		}
		paid := 0.0
		if limited {
			if paid, err = s.bucket.take(ctx, s.share); err != nil {
				return nil, err
			}
		}
		b, err := p.ask(ctx, f)
		size := 0
		if b != nil {
			size = len(b.Data)
		}
		s.bucket.settle(paid, size)
		if err == nil {
			l.worked()
			return b, nil
		}
		if last = err; !errors.Is(err, errPipe) {
			break
		}
		l.failed(way)
	}
	if e, ok := errors.AsType[*wire.Error](last); ok && e.Code.Temporary() {
		return nil, e
	}
	return nil, wire.Refuse(wire.CodeUnavailable, "the core cannot be asked for content: %v", last).After(retryAfter)
}
