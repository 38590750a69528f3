// Package sitelink is the core's side of the uplink: it accepts gateways, commits what they bring from their devices, and
// tells them what they must know of their site.
//
// A gateway is a path, not a source of truth: statements and attaches are verified here against the devices' own keys.
package sitelink

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Registry is what the server needs of the replicated state.
type Registry interface {
	View() registry.View
	Propose(ctx context.Context, c command.Command) (any, error)
	// Barrier waits until View shows everything that was committed before the call.
	Barrier(ctx context.Context) error
}

// Config of a Server. All fields are required.
type Config struct {
	Registry  Registry
	Enroll    *enroll.Service
	Authority crypto.Signer // signs receipts and what gateways are told
	Tracker   *liveness.Tracker
	Events    *events.Hub
	Content   Content
	Wall      func() time.Time
	Log       *slog.Logger
	// SiteKey makes the key that the gateways of a site share.
	SiteKey func(site string, generation uint64) wire.SiteKey
	// TargetBeats is how many heartbeats a second of the whole fleet are wanted at the most: its devices are told intervals that
	// keep to it.
	TargetBeats uint32
}

// Limits of the opening of a session and of what one gateway can have under way.
const (
	openingTime  = 5 * time.Second
	maxOpening   = 256
	maxInFlight  = 8
	proposeTime  = 10 * time.Second
	presenceWait = 64
)

// Server accepts gateways.
type Server struct {
	Config
	keys  keys
	pacer *pacer
	named named

	contentMu  sync.Mutex
	contents   int            // guarded by contentMu: open sessions with content; Invariant: the sum of contentsOf, at most maxContent
	contentsOf map[string]int // guarded by contentMu: by gateway; Invariant: from 1 to maxContentEach
}

// New makes a server.
func New(c Config) *Server { return &Server{Config: c, pacer: newPacer()} }

// Protocols says who may speak what on the uplink port.
func Protocols() []ident.Protocol {
	return []ident.Protocol{
		{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}},
		{ALPN: wire.ALPNEnroll},
	}
}

// Serve accepts sessions from all the listeners until ctx ends or one of them fails, then waits for those that are open to end.
func (s *Server) Serve(ctx context.Context, lns ...*link.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	opening := make(chan struct{}, maxOpening)
	g.Go(func() error { s.keepPace(ctx); return nil })
	for _, ln := range lns {
		g.Go(func() error { return s.accept(ctx, ln, opening) })
	}
	return g.Wait()
}

// accept serves what one listener accepts.
func (s *Server) accept(ctx context.Context, ln *link.Listener, opening chan struct{}) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		p, err := ln.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case opening <- struct{}{}:
		default:
			p.Refuse(wire.Refuse(wire.CodeBusy, "too many sessions are opening"))
			continue
		}
		wg.Go(func() {
			done := sync.OnceFunc(func() { <-opening })
			defer done()
			s.open(ctx, p, done)
		})
	}
}

// open waits for the first frame of a session and serves it. opened is called when the opening is over.
func (s *Server) open(ctx context.Context, p *link.Pending, opened func()) {
	ses, err := p.Session(ctx, openingTime)
	if err != nil {
		return
	}
	defer ses.Close()
	stop := context.AfterFunc(ctx, ses.Close)
	defer stop()
	switch p.Protocol() {
	case wire.ALPNEnroll:
		s.serveEnroll(ctx, ses)
	case wire.ALPNUplink:
		c, t, body, err := s.identify(ctx, ses)
		if err == nil && t == wire.TypeFetch {
			opened()
			if err := s.serveContent(ctx, ses, c, t, body); errors.As(err, new(*wire.Error)) {
				refuse(ses, err)
			}
			return
		}
		var u *uplink
		if err == nil {
			u, err = s.admit(ctx, ses, c, t, body)
		}
		if err != nil {
			s.Log.Info("gateway not admitted", "remote", ses.RemoteAddr().String(), "err", err)
			refuse(ses, err)
			return
		}
		opened()
		u.serve(ctx)
	}
}

func refuse(ses *link.Session, err error) {
	var e *wire.Error
	if !errors.As(err, &e) {
		e = wire.Refuse(wire.CodeMalformed, "the opening does not read")
	}
	ses.Refuse(e)
}

// serveEnroll answers one enrollment on a session without a client certificate.
func (s *Server) serveEnroll(ctx context.Context, ses *link.Session) {
	t, body, err := ses.RecvWithin(openingTime)
	if err != nil {
		return
	}
	var req wire.Enroll
	if t != wire.TypeEnroll || wire.Unmarshal(body, &req) != nil {
		ses.Refuse(wire.Refuse(wire.CodeMalformed, "want an enroll message"))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	out, err := s.Enroll.Enroll(ctx, enroll.Request{Enroll: req, Source: host(ses.RemoteAddr())})
	if err != nil {
		refuse(ses, err)
		return
	}
	if ses.Send(wire.TypeEnrolled, out) == nil {
		ses.Finish(openingTime)
	}
}

// host is the address without the port, which changes with every try.
func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

// fresh is the registry with everything that was committed before the call: this node may be behind the one that committed.
func (s *Server) fresh(ctx context.Context) (registry.View, error) {
	if err := s.Registry.Barrier(ctx); err != nil {
		return registry.View{}, err
	}
	return s.Registry.View(), nil
}

// A caller is a gateway whose key is active.
type caller struct {
	peer ident.Peer
	gw   string // site/name
}

// identify finds out which gateway opens a session, and reads its first frame, which says what for.
func (s *Server) identify(ctx context.Context, ses *link.Session) (_ *caller, t wire.Type, body []byte, err error) {
	peer, ok := ses.Peer(s.Wall())
	if !ok || peer.ID.Role != ident.RoleGateway {
		return nil, 0, nil, wire.Refuse(wire.CodeForbidden, "not a gateway")
	}
	gw := peer.ID.Site + "/" + peer.ID.Name
	v := s.Registry.View()
	rec, ok := v.Gateway(gw)
	if ok {
		_, ok = rec.ActiveKey(peer.Key)
	}
	if !ok { // another node may have let it in a moment ago
		ctx, cancel := context.WithTimeout(ctx, openingTime)
		defer cancel()
		var err error
		if v, err = s.fresh(ctx); err != nil {
			return nil, 0, nil, wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(2 * time.Second)
		}
	}
	if rec, ok = v.Gateway(gw); !ok {
		return nil, 0, nil, wire.Refuse(wire.CodeUnknownKey, "no gateway %s", gw)
	}
	if refusal := retired(rec, peer.Key); refusal != nil {
		return nil, 0, nil, s.farewell(ses, v, gw, refusal)
	}
	t, body, err = ses.RecvWithin(openingTime)
	return &caller{peer, gw}, t, body, err
}

// admit reads a gateway's hello, its first frame, and welcomes it.
func (s *Server) admit(ctx context.Context, ses *link.Session, c *caller, t wire.Type, body []byte) (*uplink, error) {
	peer, gw := c.peer, c.gw
	var hello wire.UplinkHello
	if t != wire.TypeUplinkHello {
		return nil, wire.Refuse(wire.CodeMalformed, "want an uplink_hello, got %v", t)
	}
	if err := wire.Unmarshal(body, &hello); err != nil {
		return nil, err
	}
	if hello.Via != "" {
		if err := ident.CheckName("gateway", hello.Via); err != nil {
			return nil, wire.Refuse(wire.CodeMalformed, "relayed by: %v", err)
		}
	}
	if err := s.single(ctx, ses, &peer, gw, &hello); err != nil {
		return nil, err
	}
	u := &uplink{
		Server: s, ses: ses, peer: peer, gw: gw, via: hello.Via, session: rand.Uint64(), //nolint:gosec // G404: tells sessions apart, and keeps no secret
		run: hello.Run, spool: hello.Spool,
		known:    seal.Stamp{ClusterEpoch: hello.KnownEpoch, Number: hello.Known},
		presence: make(chan wire.Presence, presenceWait), inFlight: make(chan struct{}, maxInFlight),
		submits: make(chan *batch, maxSubmits), said: make(chan *said, maxSaid), due: newDue(s.Tracker.Period()),
	}
	// Subscribed before the welcome, so that no change falls between the list sent first and the changes sent later.
	u.sub = s.Events.Subscribe(^uint64(0))
	err := ses.Send(wire.TypeUplinkWelcome, wire.UplinkWelcome{
		Capability: min(hello.Capability, wire.Capability), Identity: peer.ID.String(),
		ReportPeriodMS: wire.Millis(s.Tracker.Period()), TimeMS: s.Wall().UnixMilli(),
	})
	if err != nil {
		u.sub.Close()
		return nil, err
	}
	s.Log.Info("gateway connected", "gateway", gw, "version", hello.Version, "remote", ses.RemoteAddr().String(), "relay", hello.Via)
	return u, nil
}
