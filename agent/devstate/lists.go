package devstate

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// keptLists bounds the sites whose list is kept: home, and where a device that travels was last.
const keptLists = 4

// ErrConflict says that the authority signed two different lists under one number, which an honest core does not.
var ErrConflict = errors.New("another list was signed under the same number")

// Lists are the newest lists of gateways that the authority signed, one for each site that this device was told of. They say
// where else to go, and by which key a gateway is known whose certificate has expired. They may be used from any goroutine.
type Lists struct {
	fleet     string
	authority ed25519.PublicKey
	slots     *durable.Slots

	mu   sync.Mutex
	held []heldList // the one learned last comes last
}

type heldList struct {
	*seal.GatewayList
	sealed []byte
}

// savedLists is what gateways.{a,b} hold.
type savedLists struct {
	Sealed [][]byte `cbor:"1,keyasint"`
}

// OpenLists reads the lists of a state directory. What is damaged or does not verify is left out, with a word to the log: a
// gateway sends it anew.
func OpenLists(dir, fleet string, authority ed25519.PublicKey, log *slog.Logger) (*Lists, error) {
	l := &Lists{fleet: fleet, authority: authority, slots: durable.OpenSlots(filepath.Join(dir, "gateways"))}
	b, err := l.slots.Load()
	var s savedLists
	switch {
	case errors.Is(err, os.ErrNotExist):
		return l, nil
	case errors.Is(err, durable.ErrDamaged):
		log.Error("the lists of gateways are damaged and will be told anew", "err", err)
		return l, nil
	case err != nil:
		return nil, fmt.Errorf("lists of gateways: %w", err)
	}
	if err := wire.Unmarshal(b, &s); err != nil {
		log.Error("the lists of gateways do not read and will be told anew", "err", err)
		return l, nil
	}
	for _, b := range s.Sealed {
		list, err := seal.OpenGatewayList(b, fleet, authority)
		if err != nil {
			log.Error("a list of gateways is not believed and will be told anew", "err", err)
			continue
		}
		l.held = append(l.held, heldList{list, b})
	}
	return l, nil
}

// at is the index of a site's list, or -1. The caller holds mu.
func (l *Lists) at(site string) int {
	return slices.IndexFunc(l.held, func(h heldList) bool { return h.Site == site })
}

// Learn verifies a sealed list and keeps it if it is newer than what is known of its site. It returns the list if so, and nil
// if it is no news. After an error nothing has changed.
func (l *Lists) Learn(sealed []byte) (*seal.GatewayList, error) {
	list, err := seal.OpenGatewayList(sealed, l.fleet, l.authority)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := slices.Clone(l.held)
	if i := l.at(list.Site); i >= 0 {
		switch c := list.Stamp().Compare(l.held[i].Stamp()); {
		case c < 0, c == 0 && bytes.Equal(sealed, l.held[i].sealed):
			return nil, nil
		case c == 0:
			return nil, fmt.Errorf("list of site %s, number %d: %w", list.Site, list.Number, ErrConflict)
		}
		next = slices.Delete(next, i, i+1)
	}
	next = append(next, heldList{list, bytes.Clone(sealed)})
	next = next[max(0, len(next)-keptLists):]
	var s savedLists
	for _, h := range next {
		s.Sealed = append(s.Sealed, h.sealed)
	}
	b, err := wire.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := l.slots.Save(b, 0o600); err != nil {
		return nil, fmt.Errorf("lists of gateways: %w", err)
	}
	l.held = next
	return list, nil
}

// Stamp is the place of the list that is known of a site; zero: none.
func (l *Lists) Stamp(site string) seal.Stamp {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.at(site); i >= 0 {
		return l.held[i].Stamp()
	}
	return seal.Stamp{}
}

// Knows tells whether the newest list of its site has a gateway with the key.
func (l *Lists) Knows(gateway ident.ID, key ident.KeyID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.at(gateway.Site)
	return i >= 0 && l.held[i].Has(gateway.Name, key)
}

// Drops tells whether the newest list of its site says that a gateway has ended. issued is when its certificate was.
func (l *Lists) Drops(gateway ident.ID, key ident.KeyID, issued time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.at(gateway.Site)
	return i >= 0 && l.held[i].Drops(gateway.Name, key, issued)
}

// Addresses are where the listed gateways are reached, host:port, those of the list learned last first.
func (l *Lists) Addresses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, h := range slices.Backward(l.held) {
		for _, g := range h.Gateways {
			if config.CheckAddr(g.Listen) == nil && !slices.Contains(out, g.Listen) {
				out = append(out, g.Listen)
			}
		}
	}
	return out
}

// SiteAt is the site of the listed gateway that is reached at an address; "": none is listed with it.
func (l *Lists) SiteAt(addr string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range slices.Backward(l.held) {
		if slices.ContainsFunc(h.Gateways, func(g seal.ListedGateway) bool { return g.Listen == addr }) {
			return h.Site
		}
	}
	return ""
}
