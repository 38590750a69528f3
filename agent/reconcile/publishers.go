package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Sets brings sets of publishers. It has check look at the one with a number, as one gateway after the other has it, until it finds nothing
// wrong. There is none: the error is a wire.CodeNoContent.
type Sets interface {
	Publishers(ctx context.Context, number uint64, check func([]byte) error) error
}

// A publishers keeps the device's set of publishers up to date.
type publishers struct {
	held  *devstate.Publishers
	sets  Sets
	alarm func(reason, detail string)
	turn  chan struct{} // has room for the one who fetches a set
	news  atomic.Uint64 // the highest number that a gateway told of
}

// told takes in that there is a set of a number, and tells whether that is news.
func (p *publishers) told(number uint64) bool {
	for {
		news := p.news.Load()
		if number <= news || number <= p.held.Number() {
			return false
		}
		if p.news.CompareAndSwap(news, number) {
			return true
		}
	}
}

// behind tells whether there is a newer set than the one that is held.
func (p *publishers) behind() bool { return p.held.Number() < p.news.Load() }

// bringUp fetches the sets that a gateway told of, one after the other. Without any set it fetches the first.
func (p *publishers) bringUp(ctx context.Context) error {
	for p.held.Number() == 0 || p.held.Number() < p.news.Load() {
		more, err := p.next(ctx, p.held.Number())
		if err != nil {
			return err
		}
		if !more {
			p.news.Store(p.held.Number()) // a gateway told of what nobody has, or of what is not true
			return nil
		}
	}
	return nil
}

// next fetches the set after one, unless somebody has done so meanwhile. It tells whether there is one.
func (p *publishers) next(ctx context.Context, after uint64) (bool, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-p.turn }()
	n := p.held.Number() + 1
	if n > after+1 {
		return true, nil
	}
	var refused error // by the root keys of the set that is held
	err := p.sets.Publishers(ctx, n, func(b []byte) error {
		set, err := seal.PeekPublisherSet(b)
		if err != nil {
			return err
		}
		if set.Number != n {
			return fmt.Errorf("set of publishers %d, want %d: %w", set.Number, n, wire.ErrMalformed)
		}
		if _, err = p.held.Take(b); err != nil && n > 1 && errors.Is(err, seal.ErrSignature) {
			// Neither who brings it nor the core can make it true, and the device cannot tell who made it up.
			refused = err
			return fail(ReasonPublisher, "%s", err)
		}
		return err
	})
	switch {
	case err == nil:
		return true, nil
	case refused != nil:
		p.alarm(alarmPublishers, fmt.Sprintf("a set of publishers was offered that the root keys of set %d did not sign: %v", n-1, refused))
		return false, nil // what is held goes on to count
	case errors.Is(err, wire.Refuse(wire.CodeNoContent, "")):
		return false, nil
	}
	return false, fmt.Errorf("set of publishers %d: %w", n, err)
}

// release verifies the release of an artifact. When its signer is not in the set that is held, there may be a newer one.
func (p *publishers) release(ctx context.Context, sealed []byte, d wire.Digest) (*seal.Release, error) {
	for {
		set := p.held.Set()
		if set == nil {
			return nil, fmt.Errorf("no set of publishers is known yet: %w", wire.Refuse(wire.CodeNoContent, "publishers"))
		}
		rel, err := seal.OpenRelease(sealed, set)
		switch {
		case errors.Is(err, seal.ErrPublisher):
			more, next := p.next(ctx, set.Number)
			if next != nil {
				return nil, next
			}
			if !more {
				return nil, &Error{ReasonPublisher, err}
			}
		case errors.Is(err, seal.ErrSignature):
			return nil, &Error{ReasonSignature, err}
		case err != nil:
			return nil, err
		case rel.Manifest != d:
			return nil, fmt.Errorf("release of artifact %s, want %s: %w", rel.Manifest.Short(), d.Short(), wire.ErrMalformed)
		default:
			return rel, nil
		}
	}
}
