// Package content is how a site's gateways come by content and hand it out: to agents, and to one another. What is on the disk is not
// fetched; what a sibling has does not cross the WAN; and what has to, crosses it once for the site, as each content has an owner
// among the gateways that have an uplink, who fetches it for all.
//
// Nothing is kept, or taken from a sibling, that does not verify. A disk that fails, a sibling that lies and an owner that does not
// answer slow a download down and fail none that the core could serve.
package content

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
)

// Limits and times.
const (
	maxFlights = 512 // contents that are being fetched at a time
	// flightTime bounds one of them, with all that is tried. Over a thin WAN sixteen chunks at once take a while.
	flightTime = 5 * time.Minute
	// answerTime is how long who asks waits. What it asked for is fetched on, and is there when it asks again.
	answerTime = 2 * time.Minute
	// ownerTime is how long another gateway is given to bring what it owns. One that is gone is noticed sooner.
	ownerTime  = time.Minute
	localTime  = 5 * time.Second // for a sibling to say what it has
	retryAfter = 5 * time.Second // told to those who ask for what cannot be had now
	busyAfter  = 10 * time.Second
)

// A Sibling is another gateway of the site that is alive.
type Sibling struct {
	Name   string
	Uplink bool // it says that it has an uplink of its own
}

// Told is what the core told: what the site's gateways hold to over the WAN, and the number of the newest set of publishers.
type Told interface {
	Content() wire.ContentLimit
	Publishers() uint64
}

// Config of a Site. All fields are required.
type Config struct {
	Self      string // this gateway's name
	Fleet     string
	Authority ed25519.PublicKey
	Cache     *cache.Cache
	Told      Told
	Siblings  func() []Sibling
	Uplink    func() bool // this gateway has an uplink of its own
	// Dial opens a session for content with a sibling.
	Dial func(ctx context.Context, name string) (net.Conn, error)
	// Core opens a session for content with a core node, another one than those tried where there is one. way names it.
	Core func(ctx context.Context, tried map[string]bool) (c Conn, way string, err error)
	Wall func() time.Time
	Log  *slog.Logger
}

// Site is one gateway's part in the site's content. Its methods may be called from any goroutine; Run must be called.
type Site struct {
	Config
	noise  *rate.Limiter // of the log
	bucket bucket
	sets   sets
	counts counts
	news   chan struct{} // capacity 1: another number of publishers was told

	ctx    context.Context //nolint:containedctx // ends the flights, which outlive who asked
	cancel context.CancelFunc
	wg     sync.WaitGroup // flights and pipes

	mu       sync.Mutex
	stopped  bool
	flights  map[flightKey]*flight
	lanes    map[laneKey]*lane
	partials partials
}

// counts go on counting.
type counts struct {
	cached, sibling, wan atomic.Uint64 // bytes
	refused              atomic.Uint64 // what did not verify
	sets                 atomic.Uint64 // of those, sets of publishers from the core
}

// A Status is how much was handed out and fetched since the start.
type Status struct {
	Cached  uint64 // bytes that were asked for and on the disk
	Sibling uint64 // bytes that siblings had
	WAN     uint64 // bytes that the core had
	Refused uint64 // contents that did not verify, whoever brought them
	BadSets uint64 // of those, sets of publishers that the core offered
}

// New makes a site's part.
func New(c Config) *Site {
	s := &Site{
		Config: c, noise: rate.NewLimiter(rate.Every(10*time.Second), 10), news: make(chan struct{}, 1),
		flights: make(map[flightKey]*flight), lanes: make(map[laneKey]*lane), partials: make(partials),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.loadSets()
	return s
}

// Status is how much it was until now.
func (s *Site) Status() Status {
	return Status{
		Cached: s.counts.cached.Load(), Sibling: s.counts.sibling.Load(), WAN: s.counts.wan.Load(), Refused: s.counts.refused.Load(), BadSets: s.counts.sets.Load(),
	}
}

// Run fetches sets of publishers as they are told, until ctx ends; then it ends what is being fetched.
func (s *Site) Run(ctx context.Context) {
	defer s.wg.Wait()
	defer s.stop()
	s.keepSets(ctx)
}

func (s *Site) stop() {
	s.mu.Lock()
	s.stopped = true
	all := s.lanes
	s.lanes = nil
	gone := s.partials
	s.partials = nil
	s.mu.Unlock()
	s.cancel()
	for _, l := range all {
		l.close()
	}
	for _, p := range gone {
		p.abort()
	}
}

// errStopped is told while the gateway stops.
var errStopped = wire.Refuse(wire.CodeUnavailable, "the gateway stops").After(retryAfter)

// keyOf is what a fetch is about. The error is told to who asks.
func keyOf(f *wire.Fetch) (cache.Key, *wire.Error) {
	switch f.Kind {
	case wire.ContentChunk, wire.ContentManifest, wire.ContentRelease:
		if !f.Digest.IsZero() {
			return cache.Key{Kind: f.Kind, Digest: f.Digest}, nil
		}
	case wire.ContentPublishers:
		if f.Number != 0 {
			return cache.Key{Kind: f.Kind, Number: f.Number}, nil
		}
	default:
		return cache.Key{}, wire.Refuse(wire.CodeUnsupported, "content of kind %d", uint8(f.Kind))
	}
	return cache.Key{}, wire.Refuse(wire.CodeMalformed, "a fetch of %v that does not say which", f.Kind)
}

// An answer is a blob, and what to do once it is encoded.
type answer struct {
	wire.Blob
	release func()
}

func refusal(e *wire.Error) answer {
	return answer{Blob: wire.Blob{Code: e.Code, Detail: e.Detail, RetryAfterMS: wire.Millis(e.RetryAfter())}, release: func() {}}
}

// asError is why something cannot be had, as it is told to who asks.
func asError(err error) *wire.Error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	return wire.Refuse(wire.CodeUnavailable, "%v", err).After(retryAfter)
}

// get answers a fetch, within answerTime. With wanOnly it comes from a sibling that wants what this gateway owns: no third one is asked.
// hit: it was on the disk when the fetch came in.
func (s *Site) get(ctx context.Context, f *wire.Fetch, wanOnly, hit bool) answer {
	k, refused := keyOf(f)
	if refused != nil {
		return refusal(refused)
	}
	if a, ok := s.onDisk(k, f, hit); ok {
		return a
	}
	if f.Local {
		return refusal(wire.Refuse(wire.CodeNoContent, "%v is not here", k))
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := s.fly(ctx, k, f, wanOnly)
	if err != nil {
		return refusal(asError(err))
	}
	if out.Data == nil { // it is on the disk now
		if a, ok := s.onDisk(k, f, false); ok {
			return a
		}
		return refusal(wire.Refuse(wire.CodeUnavailable, "%v was here, and is gone again", k).After(retryAfter))
	}
	return answer{out, func() {}}
}

// onDisk answers a fetch with what the disk has.
func (s *Site) onDisk(k cache.Key, f *wire.Fetch, hit bool) (answer, bool) {
	if !s.here(k) {
		return answer{}, false
	}
	offset := int64(0)
	if k.Kind == wire.ContentManifest {
		offset = int64(min(f.Offset, wire.MaxManifest))
	}
	b, err := s.Cache.Get(k, offset)
	if err != nil {
		return answer{}, false
	}
	if len(b.Data) == 0 {
		b.Release()
		return refusal(wire.Refuse(wire.CodeMalformed, "%v has %d bytes, none at %d", k, b.Total, f.Offset)), true
	}
	if hit {
		s.counts.cached.Add(uint64(len(b.Data)))
	}
	a := answer{Blob: wire.Blob{Codec: b.Codec, Data: b.Data}, release: b.Release}
	if k.Kind == wire.ContentManifest {
		a.Total = uint64(b.Total) //nolint:gosec // G115: never negative
	}
	return a, true
}
