package devstate

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Publishers are the set of publishers that this device trusts. Set 1 is pinned when it comes, by the authority's signature; from then on
// only the root keys of a set can put the next one in its place, and the authority no more. They may be used from any goroutine.
type Publishers struct {
	fleet     string
	authority ed25519.PublicKey
	slots     *durable.Slots

	mu   sync.Mutex
	set  *seal.PublisherSet
	lost error // what was pinned is damaged; nil: it is not
}

// savedPublishers is what publishers.{a,b} hold: the bytes as they were signed. The sets in between are not kept, since each was verified by the
// one before when it was taken.
type savedPublishers struct {
	Pinned []byte `cbor:"1,keyasint"` // set 1
	Newest []byte `cbor:"2,keyasint"`
}

// ErrPinned says that what the device knows of its publishers is damaged. It takes no first set in the place of one that it had pinned.
var ErrPinned = errors.New("the pinned set of publishers is damaged: enroll this device anew to trust publishers again")

// OpenPublishers reads the set of a state directory. When both copies are damaged, the device trusts nobody, and nothing is installed: Take says
// why.
func OpenPublishers(dir, fleet string, authority ed25519.PublicKey, log *slog.Logger) (*Publishers, error) {
	p := &Publishers{fleet: fleet, authority: authority, slots: durable.OpenSlots(filepath.Join(dir, "publishers"))}
	b, err := p.slots.Load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return p, nil
	case err != nil && !errors.Is(err, durable.ErrDamaged):
		return nil, fmt.Errorf("publishers: %w", err)
	}
	var s savedPublishers
	if err == nil {
		err = wire.Unmarshal(b, &s)
	}
	if err == nil { // it was verified when it was taken, and a checksum guards it since
		p.set, err = seal.PeekPublisherSet(s.Newest)
	}
	if err != nil {
		p.set, p.lost = nil, fmt.Errorf("%w: %w", ErrPinned, err)
		log.Error("no publisher is trusted", "err", p.lost)
		return p, nil
	}
	if p.slots.Older() {
		log.Warn("a copy of the set of publishers was damaged; a newer set may have to be told anew", "number", p.set.Number)
	}
	return p, nil
}

// Set is the set that is trusted; nil: none was pinned yet.
func (p *Publishers) Set() *seal.PublisherSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

// Number is the set's number; 0: none was pinned yet.
func (p *Publishers) Number() uint64 {
	if s := p.Set(); s != nil {
		return s.Number
	}
	return 0
}

// Take verifies the set after the one that is held, by it, and keeps it durably. After an error nothing has changed.
func (p *Publishers) Take(sealed []byte) (*seal.PublisherSet, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost != nil {
		return nil, p.lost
	}
	set, err := seal.OpenPublisherSet(sealed, p.fleet, p.set, p.authority)
	if err != nil {
		return nil, err
	}
	s := savedPublishers{Pinned: sealed, Newest: sealed}
	if p.set != nil {
		if s.Pinned, err = p.pinned(); err != nil {
			return nil, err
		}
	}
	b, err := wire.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := p.slots.Save(b, 0o600); err != nil {
		return nil, fmt.Errorf("publishers: %w", err)
	}
	p.set = set
	return set, nil
}

// pinned is set 1 as it was signed.
func (p *Publishers) pinned() ([]byte, error) {
	b, err := p.slots.Load()
	if err != nil {
		return nil, fmt.Errorf("publishers: %w", err)
	}
	var s savedPublishers
	if err := wire.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	return bytes.Clone(s.Pinned), nil
}
