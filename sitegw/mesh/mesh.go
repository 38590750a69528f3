package mesh

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// An Uplink is what a gateway has of a way to the core.
type Uplink uint8

// The ways.
const (
	None    Uplink = iota
	Relayed        // through a sibling
	Direct
)

// Config of a Mesh. All fields are required.
type Config struct {
	Self   ident.ID // this gateway
	Keys   *Keys
	Mirror *mirror.Mirror
	// Names are the siblings of the newest list.
	Names func() []string
	// Dial opens a session with a sibling.
	Dial    func(ctx context.Context, name string, p wire.Purpose) (net.Conn, error)
	Uplink  func() Uplink
	Load    func() Load
	Changed func(devices []ident.DeviceID, site bool) // called after the mirror took something in from a sibling
	Log     *slog.Logger
}

// Mesh is one gateway's part in the mesh. Its methods may be called from any goroutine.
type Mesh struct {
	Config
	listed  atomic.Pointer[map[string]struct{}] // the siblings
	news    chan struct{}                       // capacity 1: the list changed
	noise   *rate.Limiter                       // of the log, for what siblings can cause
	counts  counts
	asking  asking
	answers answers

	mu  sync.Mutex
	now *round // nil: there is none
}

// counts go on counting.
type counts struct {
	dropped atomic.Uint64 // packets and streams for which there was no room
	sieved  atomic.Uint64 // packets and streams that no member sends
	taken   atomic.Uint64 // facts that siblings had and this gateway lacked
	refused atomic.Uint64 // facts that were not believed
}

// New makes a mesh; Run joins it.
func New(c Config) *Mesh {
	m := &Mesh{Config: c, news: make(chan struct{}, 1), noise: rate.NewLimiter(rate.Every(10*time.Second), 10)}
	m.asking.of = make(map[string]*asked)
	m.answers.of = make(map[string]*rate.Limiter)
	m.ListChanged()
	return m
}

// ListChanged takes note of the newest list. Who is no longer on it is no sibling from now on.
func (m *Mesh) ListChanged() {
	all := make(map[string]struct{})
	for _, n := range m.Names() {
		if n != m.Self.Name {
			all[n] = struct{}{}
		}
	}
	m.listed.Store(&all)
	select {
	case m.news <- struct{}{}:
	default:
	}
	if r := m.round(); r != nil {
		r.transport.prune()
	}
}

func (m *Mesh) isListed(name string) bool {
	_, ok := (*m.listed.Load())[name]
	return ok
}

// alone tells whether there are no siblings.
func (m *Mesh) alone() bool { return len(*m.listed.Load()) == 0 }

// round is the one that runs; nil: none does.
func (m *Mesh) round() *round {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *Mesh) setRound(r *round) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = r
}

// Run takes part in the mesh, whenever there are a site key and siblings, until ctx ends; then it tells the siblings, within leaveTime.
func (m *Mesh) Run(ctx context.Context) {
	for ctx.Err() == nil {
		key, changed := m.Keys.Now()
		if key != nil && !m.alone() {
			err := m.take(ctx, key, changed)
			if err == nil {
				continue
			}
			m.Log.Error("the mesh does not run until the site key or the list of gateways changes", "err", err)
		}
		select {
		case <-changed:
		case <-m.news:
		case <-ctx.Done():
		}
	}
}

// Gossip serves a sibling's session of that purpose until it is over.
func (m *Mesh) Gossip(ctx context.Context, from string, conn net.Conn) {
	if r := m.round(); r != nil {
		r.transport.serveStream(ctx, from, conn)
	}
}

// Packets serves a sibling's session of that purpose until it is over.
func (m *Mesh) Packets(ctx context.Context, from string, conn net.Conn) {
	if r := m.round(); r != nil {
		r.transport.servePackets(ctx, from, conn)
	}
}

// sieved notes what a sibling sent and no member does.
func (m *Mesh) sieved(from string, err error) {
	m.counts.sieved.Add(1)
	if m.noise.Allow() {
		m.Log.Warn("what a sibling sent into the mesh is dropped", "gateway", from, "err", err)
	}
}

// A Status is how a mesh does.
type Status struct {
	Generation uint64 // of the site key
	Keyed      bool   // there is one
	Listed     int    // siblings of the newest list
	Alive      int    // of those
	Dropped    uint64 // packets and streams for which there was no room, since the start
	Sieved     uint64 // packets and streams that no member sends
	Taken      uint64 // facts that siblings had and this gateway lacked
	Refused    uint64 // facts from siblings that were not believed
}

// Status is how the mesh does now.
func (m *Mesh) Status() Status {
	s := Status{
		Dropped: m.counts.dropped.Load(), Sieved: m.counts.sieved.Load(), Taken: m.counts.taken.Load(), Refused: m.counts.refused.Load(),
	}
	if key, _ := m.Keys.Now(); key != nil {
		s.Keyed, s.Generation = true, key.Generation
	}
	for _, sib := range m.siblings() {
		s.Listed++
		if sib.Alive {
			s.Alive++
		}
	}
	return s
}
