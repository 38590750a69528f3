// Package cores is a gateway's list of addresses at which core nodes may be reached: those that the core told, the one that
// worked last, and those that an operator gave by hand. What was told and what worked outlives a restart.
//
// An address is a place to knock at and nothing more: whoever answers is believed for its certificate alone.
package cores

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

// ErrList is the sentinel of a list of addresses that cannot be used.
var ErrList = errors.New("bad list of core nodes")

// maxAddr bounds an address, in bytes: the longest DNS name, a colon and a port.
const maxAddr = 253 + 1 + 5

// Check holds a list of addresses against the rules: 1 to wire.MaxCores of them, each host:port. The error is ErrList.
func Check(addrs []string) error {
	if len(addrs) == 0 || len(addrs) > wire.MaxCores {
		return fmt.Errorf("%w: %d addresses, want 1 to %d", ErrList, len(addrs), wire.MaxCores)
	}
	for i, a := range addrs {
		if len(a) > maxAddr {
			return fmt.Errorf("%w: address %d has %d bytes, limit %d", ErrList, i, len(a), maxAddr)
		}
		if err := config.CheckAddr(a); err != nil {
			return fmt.Errorf("%w: address %d: %w", ErrList, i, err)
		}
	}
	return nil
}

// stored is what the file holds.
type stored struct {
	Told []string `cbor:"1,keyasint"`           // at most wire.MaxCores
	Last string   `cbor:"2,keyasint,omitempty"` // the one that worked last
}

// check holds what was read against the rules of what is written.
func (s *stored) check() error {
	if len(s.Told) > 0 {
		if err := Check(s.Told); err != nil {
			return err
		}
	}
	if s.Last != "" {
		return Check([]string{s.Last})
	}
	return nil
}

// A List may be used from any goroutine. No error of the disk keeps it from working: it goes on in memory and says so.
type List struct {
	slots  *durable.Slots
	byHand []string
	log    *slog.Logger

	mu  sync.Mutex
	now stored
}

// Open reads the list at path (see durable.Slots), where byHand are the operator's addresses, which are never stored. A file
// that does not read is reported to log, and the list then begins with byHand alone.
func Open(path string, byHand []string, log *slog.Logger) *List {
	l := &List{slots: durable.OpenSlots(path), byHand: slices.Clone(byHand), log: log}
	b, err := l.slots.Load()
	if errors.Is(err, os.ErrNotExist) {
		return l
	}
	var s stored
	if err == nil {
		err = wire.Unmarshal(b, &s)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		log.Error("the stored list of core nodes does not read: going on with the addresses of the configuration", "file", path, "err", err)
		return l
	}
	l.now = s
	return l
}

// Told takes the list that the core told in the place of the one before. A list that breaks the rules changes nothing and is
// reported to the log.
func (l *List) Told(addrs []string) {
	if err := Check(addrs); err != nil {
		l.log.Warn("the core told a list of its nodes that cannot be used: keeping the one before", "err", err)
		return
	}
	addrs = unique(addrs)
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(addrs, l.now.Told) {
		return
	}
	l.log.Info("the core told its nodes", "cores", addrs)
	l.save(stored{Told: addrs, Last: l.now.Last})
}

// Worked notes the address at which a core node admitted this gateway. It stays in the list, whatever is told, until another
// one works.
func (l *List) Worked(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if addr != l.now.Last {
		l.save(stored{Told: l.now.Told, Last: addr})
	}
}

// save takes s and stores it. The caller holds mu.
func (l *List) save(s stored) {
	l.now = s
	b, err := wire.Marshal(s)
	if err == nil {
		err = l.slots.Save(b, 0o600)
	}
	if err != nil {
		l.log.Error("the list of core nodes is not stored: after a restart the one before counts", "err", err)
	}
}

// All lists every address once: those told, the one that worked last, those given by hand.
func (l *List) All() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.now.Told)
	if l.now.Last != "" {
		out = append(out, l.now.Last)
	}
	return unique(append(out, l.byHand...))
}

// unique is in without what it names twice, in the same order.
func unique(in []string) []string {
	out := make([]string, 0, len(in))
	for _, a := range in {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
