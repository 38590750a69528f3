// Package sibling is how the gateways of a site talk to one another: authenticated sessions, each for one purpose, as streams of
// bytes. They are dialled at the addresses of the site's gateway list and served on the port of the agents.
//
// Whom a gateway talks to is decided by the newest list that the authority signed, on both sides: by the name and the key there,
// whether or not the certificate has expired. A gateway that has no list has no siblings. What a sibling says proves nothing.
package sibling

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Limits of sessions.
const (
	helloTime   = 5 * time.Second
	welcomeTime = 15 * time.Second // a relay dials the core before it welcomes
	lingerTime  = time.Second      // for what was written last to arrive
	// maxSessions is how many sessions of one purpose a sibling may have open here.
	maxSessions = 4
	busyAfter   = 10 * time.Second
)

// ErrNotSibling says that a gateway is not one of the site's others, by the newest list.
var ErrNotSibling = errors.New("not a sibling by the site's gateway list")

// Config of Peers. All fields are required.
type Config struct {
	Self     ident.ID // this gateway
	Endpoint ident.Endpoint
	Dialer   *link.Dialer
	List     func() []seal.ListedGateway // the site's gateways as the authority signed them last; none: no list
	Handlers map[wire.Purpose]Handler    // who serves what siblings dial for; other purposes are refused
	Log      *slog.Logger
}

// Peers are a gateway's siblings. The methods may be called from any goroutine.
type Peers struct {
	Config

	mu       sync.Mutex
	sessions map[*link.Session]ident.Peer // open ones, both ways
	served   map[served]int               // sessions that siblings dialled
}

// served is what sessions are bounded by.
type served struct {
	name    string
	purpose wire.Purpose
}

// New makes the siblings of a gateway.
func New(c Config) *Peers {
	return &Peers{Config: c, sessions: make(map[*link.Session]ident.Peer), served: make(map[served]int)}
}

// Names are the siblings that can be dialled, in the order of the list.
func (p *Peers) Names() []string {
	var out []string
	for _, g := range p.List() {
		if g.Name != p.Self.Name && g.Listen != "" {
			out = append(out, g.Name)
		}
	}
	return out
}

// listed is what the newest list says about a sibling.
func (p *Peers) listed(name string) (seal.ListedGateway, bool) {
	all := p.List()
	i := slices.IndexFunc(all, func(g seal.ListedGateway) bool { return g.Name == name })
	if i < 0 || name == p.Self.Name {
		return seal.ListedGateway{}, false
	}
	return all[i], true
}

// check holds a gateway's certificate, which verified, against the newest list.
func (p *Peers) check(peer *ident.Peer) error {
	g, ok := p.listed(peer.ID.Name)
	if !ok || peer.ID != ident.Gateway(p.Self.Fleet, p.Self.Site, g.Name) || !slices.Contains(g.Keys, peer.Key) {
		return fmt.Errorf("%v with key %v: %w", peer.ID, peer.Key, ErrNotSibling)
	}
	return nil
}

// keep notes a session until it ends. An error: its sibling is no longer one.
func (p *Peers) keep(ls *link.Session, peer ident.Peer) (forget func(), err error) {
	p.mu.Lock()
	p.sessions[ls] = peer
	p.mu.Unlock()
	forget = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sessions, ls)
	}
	if err := p.check(&peer); err != nil { // of a list that came between the handshake and the note
		forget()
		return nil, err
	}
	return forget, nil
}

// Changed ends the sessions with gateways that the newest list no longer has.
func (p *Peers) Changed() {
	p.mu.Lock()
	var over []*link.Session
	for ls, peer := range p.sessions {
		if p.check(&peer) != nil {
			over = append(over, ls)
			p.Log.Warn("session with a gateway that is no longer listed is ended", "gateway", peer.ID.Name)
		}
	}
	p.mu.Unlock()
	for _, ls := range over {
		ls.CloseWith(wire.Refuse(wire.CodeForbidden, "the gateway is no longer on the list of its site"))
	}
}
