package content

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// maxSets bounds the sets of publishers: a fleet changes who may publish a few times a year.
const maxSets = 1024

// sets are the sets of publishers that verified, each by the one before.
type sets struct {
	mu  sync.Mutex
	all []*seal.PublisherSet // number n at n-1
}

func (s *sets) number() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.all))
}

// newest is the one of the highest number; nil: there is none.
func (s *sets) newest() *seal.PublisherSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return nil
	}
	return s.all[len(s.all)-1]
}

var errTooMany = errors.New("too many sets of publishers")

// take verifies a set by the one before it. Numbers have no gaps: one whose predecessor is not known does not verify.
func (s *sets) take(site *Site, number uint64, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number > maxSets {
		return fmt.Errorf("set %d, at most %d: %w", number, maxSets, errTooMany)
	}
	if number > uint64(len(s.all))+1 {
		return fmt.Errorf("set of publishers %d is not known, so set %d proves nothing: %w", len(s.all)+1, number, seal.ErrSignature)
	}
	var before *seal.PublisherSet
	if number > 1 {
		before = s.all[number-2]
	}
	p, err := seal.OpenPublisherSet(b, site.Fleet, before, site.Authority)
	if err != nil {
		return err
	}
	if number == uint64(len(s.all))+1 {
		s.all = append(s.all, p)
	}
	return nil
}

func setKey(n uint64) cache.Key { return cache.Key{Kind: wire.ContentPublishers, Number: n} }

// loadSets verifies the sets on the disk, from the first one on. What is behind one that is lacking waits for it.
func (s *Site) loadSets() {
	for {
		k := setKey(s.sets.number() + 1)
		b, err := s.Cache.Get(k, 0)
		if err != nil {
			return
		}
		err = s.sets.take(s, k.Number, b.Data)
		b.Release()
		if err != nil {
			s.Cache.Drop(k, err)
			return
		}
	}
}

// Changed says that the core may have told another number of publishers.
func (s *Site) Changed() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Times between two tries to have the newest sets.
const (
	minSetWait = 5 * time.Second
	maxSetWait = 10 * time.Minute
)

// keepSets fetches the sets that the core told of until ctx ends, so that a site without its WAN has them.
func (s *Site) keepSets(ctx context.Context) {
	b := backoff.Backoff{Min: minSetWait, Max: maxSetWait}
	for {
		again := (<-chan time.Time)(nil)
		if s.fetchSets(ctx) {
			b.Reset()
		} else {
			again = time.After(b.Next())
		}
		select {
		case <-s.news:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// fetchSets fetches the sets that are lacking, and tells whether none is any more.
func (s *Site) fetchSets(ctx context.Context) bool {
	for n := s.sets.number(); n < min(s.Told.Publishers(), maxSets); n++ {
		a := s.get(ctx, &wire.Fetch{Kind: wire.ContentPublishers, Number: n + 1}, false, false)
		a.release()
		if s.loadSets(); s.sets.number() <= n { // those behind it may be on the disk already
			return false
		}
		n = s.sets.number() - 1
	}
	return true
}
