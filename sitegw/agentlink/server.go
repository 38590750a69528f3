// Package agentlink is the gateway's side of the agents' sessions: it admits devices by their certificates and signed
// attaches, hears their heartbeats, and passes on what they state.
package agentlink

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/throttle"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Uplink is what sessions need of the core.
type Uplink interface {
	Connected() bool
	Period() time.Duration // the core's report period, as told last
	Enroll(ctx context.Context, e wire.Enroll) (*wire.Enrolled, error)
	Renew(ctx context.Context, d ident.DeviceID, r wire.Renew) (*wire.Renewed, error)
	Ask(d ident.DeviceID)
}

// Siblings serves the sessions of the site's other gateways, which come in at the agents' port, until they end or ctx does. opened is
// called when the opening of the session is over.
type Siblings interface {
	Serve(ctx context.Context, ls *link.Session, opened func())
}

// Config of a Server. All fields are required.
type Config struct {
	Self      ident.ID          // this gateway
	Authority ed25519.PublicKey // receipts are held against it
	Uplink    Uplink
	Custody   *custody.Keeper
	Roster    *roster.Roster
	Mirror    *mirror.Mirror
	Siblings  Siblings
	Content   Content
	Wall      func() time.Time
	Log       *slog.Logger
}

// Limits of what peers can make this gateway do.
const (
	openingTime  = 5 * time.Second
	maxOpening   = 512                     // handshaken and not yet attached
	manyOpening  = maxOpening / 4          // with more of them, nobody's curiosity is answered
	maxEnrolling = 64                      // enrollments that wait for the core
	drainTime    = 2 * time.Second         // for the goodbyes at a stop
	goAwayAfter  = drainTime + time.Second // told to agents at a stop: nobody should knock at a door that is being closed
	busyAfter    = 10 * time.Second        // told to agents under pressure

	// A plant's devices may share one address, so a source may fail often before it has to wait.
	failuresPerSecond = 1
	failuresAtOnce    = 120

	// A device opens a session when the one before has ended. One whose network flaps backs off to a minute in the end; one that
	// opens more is told to wait, before its attach is looked at.
	openingsPerSecond = 0.2
	openingsAtOnce    = 20

	// comeBack is how many agents a second are asked to come back after a stop: what a gateway on a small machine can take on.
	comeBack = 400
)

// Server accepts agents.
type Server struct {
	Config
	enrolling chan struct{}
	opening   chan struct{}     // has an item for each session that is opening
	failures  throttle.Failures // enrollments, by source address
	openings  throttle.Failures // of sessions, by device: each one counts

	pings chan struct{} // without a buffer: received by the accept loop

	mu        sync.Mutex
	sessions  map[*session]struct{}
	downloads map[ident.DeviceID]int // sessions for content; none is 0
	fetching  int                    // of all devices
	stopped   bool                   // goodbye was said to all of them: nobody joins any more

	counters Counters
}

// New makes a server.
func New(c Config) *Server {
	return &Server{
		Config: c, enrolling: make(chan struct{}, maxEnrolling), opening: make(chan struct{}, maxOpening), pings: make(chan struct{}), sessions: make(map[*session]struct{}),
		downloads: make(map[ident.DeviceID]int),
		failures:  throttle.Failures{PerSecond: failuresPerSecond, Burst: failuresAtOnce},
		openings:  throttle.Failures{PerSecond: openingsPerSecond, Burst: openingsAtOnce},
	}
}

// Protocols says who may speak what on the agents' port.
func Protocols() []ident.Protocol {
	return []ident.Protocol{
		{ALPN: wire.ALPNAgent, Roles: []ident.Role{ident.RoleDevice}},
		{ALPN: wire.ALPNEnroll},
		{ALPN: wire.ALPNSite, Roles: []ident.Role{ident.RoleGateway}},
	}
}

// Sessions counts the attached sessions.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Counters are the server's own, which go on counting.
func (s *Server) Counters() *Counters { return &s.counters }

// ErrStuck says that the accept loop does not answer: the server does not run, or hangs.
var ErrStuck = errors.New("the agents' accept loop does not answer")

// Ping returns nil once the accept loop has answered, and ErrStuck when it has not by the end of ctx.
func (s *Server) Ping(ctx context.Context) error {
	select {
	case s.pings <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrStuck, ctx.Err())
	}
}

// Serve accepts sessions from all the listeners until ctx ends or one of them fails, then says goodbye to those that are open
// and waits for them.
func (s *Server) Serve(ctx context.Context, lns ...*link.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.goodbye()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	accepted := make(chan *link.Pending)
	failed := make(chan error, len(lns))
	for _, ln := range lns {
		wg.Go(func() { failed <- accept(ctx, ln, accepted) })
	}
	for {
		select {
		case p := <-accepted:
			select {
			case s.opening <- struct{}{}:
				wg.Go(func() {
					done := sync.OnceFunc(func() { <-s.opening })
					defer done()
					s.open(ctx, p, done)
				})
			default:
				s.counters.AgentsRefused.Add(wire.CodeBusy)
				p.Refuse(wire.Refuse(wire.CodeBusy, "too many sessions are opening"))
			}
		case <-s.pings:
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// accept hands on what the listener accepts until ctx ends or the listener fails.
func accept(ctx context.Context, ln *link.Listener, to chan<- *link.Pending) error {
	for {
		p, err := ln.Accept(ctx)
		if err != nil {
			return err
		}
		select {
		case to <- p:
		case <-ctx.Done():
			p.Refuse(wire.Refuse(wire.CodeUnavailable, "the gateway stops").After(goAwayAfter))
			return ctx.Err()
		}
	}
}

// open waits for the control stream of a session and serves it. opened is called when the opening is over.
func (s *Server) open(ctx context.Context, p *link.Pending, opened func()) {
	ls, err := p.Session(ctx, openingTime)
	if err != nil {
		return
	}
	switch p.Protocol() {
	case wire.ALPNEnroll:
		defer ls.Close()
		s.serveEnroll(ctx, ls)
	case wire.ALPNSite:
		s.Siblings.Serve(ctx, ls, opened)
	default:
		s.serveAgent(ctx, ls, opened)
	}
}

// serveAgent admits an agent and serves its session.
func (s *Server) serveAgent(ctx context.Context, ls *link.Session, opened func()) {
	ses, fetching, err := s.greeted(ls)
	if err != nil {
		var e *wire.Error
		if !errors.As(err, &e) {
			e = wire.Refuse(wire.CodeMalformed, "the opening does not read")
		}
		s.counters.AgentsRefused.Add(e.Code)
		s.Log.Info("agent not admitted", "remote", ls.RemoteAddr().String(), "err", err)
		ls.Refuse(e)
		return
	}
	if fetching != nil {
		defer fetching.done()
		opened()
		s.Content.Serve(ctx, ls, fetching.first, fetching.allowed)
		ls.Close()
		return
	}
	if ses == nil { // it only asked
		ls.Finish(time.Second)
		ls.Close()
		return
	}
	opened()
	s.counters.Attached.Add(ls.Carrier())
	defer s.forget(ses)
	if !s.keep(ses) {
		if ls.Send(wire.TypeGoAway, wire.GoAway{RetryAfterMS: wire.Millis(goAwayAfter)}) == nil {
			ls.Finish(drainTime)
		}
		return
	}
	ses.tellList()
	ses.serve(ctx)
}

// keep notes a session; false: the server stops, and has said goodbye to everybody else.
func (s *Server) keep(ses *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.sessions[ses] = struct{}{}
	return true
}

func (s *Server) forget(ses *session) {
	s.mu.Lock()
	delete(s.sessions, ses)
	s.mu.Unlock()
	s.Roster.Detached(ses.entry, ses)
	ses.link.Close()
	ses.news.end()
}

// goodbye tells every agent to go elsewhere or to come back, and closes.
func (s *Server) goodbye() {
	s.mu.Lock()
	s.stopped = true
	all := make([]*session, 0, len(s.sessions))
	for ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	// One deadline for all: peers that are gone must not hold up the stop one after the other.
	deadline := time.AfterFunc(drainTime, func() {
		for _, ses := range all {
			ses.link.Close()
		}
	})
	defer deadline.Stop()
	spread := time.Duration(len(all)-1) * time.Second / comeBack
	var wg sync.WaitGroup
	for _, ses := range all {
		wg.Go(func() {
			after := goAwayAfter + rand.N(spread+1) //nolint:gosec // spreading load needs no secrecy
			ses.leaving.Store(true)
			if ses.link.Send(wire.TypeGoAway, wire.GoAway{RetryAfterMS: wire.Millis(after)}) == nil {
				ses.link.CloseSend(drainTime)
			}
			ses.link.Close()
		})
	}
	wg.Wait()
}

// refuseEnroll tells a client why it is not enrolled.
func (s *Server) refuseEnroll(ls *link.Session, e *wire.Error) {
	s.counters.EnrollmentsRefused.Add(e.Code)
	ls.Refuse(e)
}

// serveEnroll passes one enrollment to the core.
func (s *Server) serveEnroll(ctx context.Context, ls *link.Session) {
	source := host(ls.RemoteAddr())
	if !s.failures.Allowed(source) {
		s.refuseEnroll(ls, wire.Refuse(wire.CodeBusy, "too many failed enrollments").After(time.Minute))
		return
	}
	select {
	case s.enrolling <- struct{}{}:
		defer func() { <-s.enrolling }()
	default:
		s.refuseEnroll(ls, wire.Refuse(wire.CodeBusy, "too many enrollments").After(busyAfter))
		return
	}
	t, body, err := ls.RecvWithin(openingTime)
	if err != nil {
		return
	}
	var req wire.Enroll
	if t != wire.TypeEnroll || wire.Unmarshal(body, &req) != nil {
		s.failures.Failed(source)
		s.refuseEnroll(ls, wire.Refuse(wire.CodeMalformed, "want an enroll message"))
		return
	}
	out, err := s.Uplink.Enroll(ctx, req)
	if err != nil {
		var e *wire.Error
		if !errors.As(err, &e) {
			e = wire.Refuse(wire.CodeInternal, "the gateway failed")
		}
		if !e.Code.Temporary() {
			s.failures.Failed(source)
		}
		s.refuseEnroll(ls, &wire.Error{Code: e.Code, RetryAfterMS: e.RetryAfterMS, Detail: e.Detail, Ref: wire.TypeEnroll})
		return
	}
	s.counters.Enrollments.Add(1)
	if ls.Send(wire.TypeEnrolled, out) == nil {
		ls.Finish(openingTime)
	}
}

// greeted reads the first message of an agent and answers it, but for a fetch, which makes the session a download. Both are nil when
// that was a probe.
func (s *Server) greeted(ls *link.Session) (*session, *download, error) {
	peer, ok := ls.Peer(s.Wall())
	if !ok || peer.ID.Role != ident.RoleDevice {
		return nil, nil, wire.Refuse(wire.CodeForbidden, "not a device")
	}
	if !s.openings.Failed(peer.ID.Device.String()) {
		return nil, nil, wire.Refuse(wire.CodeBusy, "the device opens too many sessions").After(busyAfter)
	}
	t, body, err := ls.RecvWithin(openingTime)
	if err != nil {
		return nil, nil, err
	}
	switch t {
	case wire.TypeAttach:
		ses, err := s.admit(ls, peer, body)
		return ses, nil, err
	case wire.TypeProbe:
		return nil, nil, s.probed(ls, &peer, body)
	case wire.TypeFetch:
		d, err := s.fetches(&peer, body)
		return nil, d, err
	default:
		return nil, nil, wire.Refuse(wire.CodeMalformed, "want an attach, got %v", t)
	}
}

// admit checks an attach and welcomes the agent.
func (s *Server) admit(ls *link.Session, peer ident.Peer, body []byte) (*session, error) {
	var m wire.Attach
	if err := wire.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	a, err := s.checkAttach(&peer, m.Sealed)
	if err != nil {
		return nil, err
	}
	ask, err := s.checkState(&peer)
	if ask {
		s.Uplink.Ask(peer.ID.Device)
	}
	if err != nil {
		return nil, err
	}
	echoed := clampInterval(a.IntervalMS)
	interval := s.Roster.InForce(s.Mirror.Interval(a.Device, echoed))
	ses := &session{Server: s, link: ls, peer: peer, frames: rate.NewLimiter(maxFrames, burstFrames), list: listOf(&m), orders: orders{desired: a.Order}}
	err = ls.Send(wire.TypeWelcome, wire.Welcome{
		Capability: min(m.Capability, wire.Capability), Identity: peer.ID.String(), IntervalMS: wire.Millis(interval),
		KeepAliveMS: wire.Millis(keepAlive(interval)), Site: s.Self.Site, TimeMS: s.Wall().UnixMilli(),
		Kept: s.kept(a.Device), PeriodMS: wire.Millis(s.Uplink.Period()),
	})
	if err != nil {
		return nil, err
	}
	ses.entry = s.Roster.Attached(a.Device, ses, a.Sealed, interval, echoed)
	ses.delivered(a)
	s.Mirror.Seen(a.Device)
	// What the core told between the look at the mirror and the entry in the roster reached no session.
	s.changed(a.Device)
	return ses, nil
}

// checkAttach holds an attach against the certificate that the session was opened with.
func (s *Server) checkAttach(peer *ident.Peer, sealed []byte) (*seal.SealedAttach, error) {
	a, err := seal.ParseAttach(sealed)
	if err != nil {
		return nil, err
	}
	pub, ok := peer.Leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || a.Key != peer.Key || a.Device != peer.ID.Device:
		return nil, wire.Refuse(wire.CodeForbidden, "the attach names another device or key than the certificate")
	case a.Gateway != s.Self.String():
		return nil, wire.Refuse(wire.CodeMalformed, "the attach is addressed to %.100s", a.Gateway)
	}
	if err := a.Verify(pub); err != nil {
		return nil, wire.Refuse(wire.CodeForbidden, "the attach's signature does not verify")
	}
	return a, nil
}

// delivered lets go of a receipt that an attach shows to have arrived, and sends one that has not.
func (s *session) delivered(a *seal.SealedAttach) {
	oldest := custody.Position{Epoch: a.Epoch, Seq: a.Lowest}
	if a.OldestEpoch != 0 {
		oldest = custody.Position{Epoch: a.OldestEpoch, Seq: a.OldestSeq}
	}
	s.Custody.Delivered(a.Device, oldest)
	if r := s.Custody.Receipt(a.Device); r != nil {
		s.Receipt(r)
	}
}

// checkState decides by what the core has signed about the device, whether or not the certificate has expired. A device of
// which nothing is known is admitted by its unexpired certificate. ask: the core is to be asked about it.
func (s *Server) checkState(peer *ident.Peer) (ask bool, err error) {
	d, known := s.Mirror.Device(peer.ID.Device)
	if !known {
		if peer.Expired {
			return false, wire.Refuse(wire.CodeExpired, "the certificate expired at %v and the device is not known here", peer.Leaf.NotAfter)
		}
		return true, nil
	}
	switch d.State {
	case wire.DeviceActive, wire.DeviceQuarantined:
		if d.HasKey(peer.Key) {
			return false, nil
		}
	case wire.DeviceDecommissioned:
		return false, wire.Refuse(wire.CodeRetired, "the device is decommissioned")
	case wire.DeviceUnknown: // it may have been enrolled since
	}
	return true, wire.Refuse(wire.CodeUnknownKey, "the key is not an active key of the device")
}

// Limits on heartbeat intervals, whoever names them.
const (
	minInterval = time.Second
	maxInterval = time.Hour
)

func clampInterval(ms uint32) time.Duration {
	return min(max(time.Duration(ms)*time.Millisecond, minInterval), maxInterval)
}

// keepAlive widens the keep-alive with the heartbeat interval, so that a large fleet is not kept busy by it. Its bound lets ten
// thousand agents notice within 36 s that their gateway is gone, and be back within two minutes even if they are told once that it
// is busy.
func keepAlive(interval time.Duration) time.Duration {
	return min(max(link.DefaultKeepAlive, interval/6), 15*time.Second)
}

// Changed takes the mirror's news to the sessions that they concern: intervals to use, orders, sessions to end. With site, everybody
// is concerned.
func (s *Server) Changed(devices []ident.DeviceID, site bool) {
	if site {
		s.tellLists()
		devices = s.Roster.Devices()
	}
	for _, d := range devices {
		s.changed(d)
	}
}

func (s *Server) changed(id ident.DeviceID) {
	ses, ok := s.Roster.SessionOf(id)
	if !ok {
		return
	}
	if d, known := s.Mirror.Device(id); known {
		switch d.State {
		case wire.DeviceDecommissioned:
			ses.Drop(wire.Refuse(wire.CodeRetired, "the device is decommissioned"))
			return
		case wire.DeviceUnknown:
			ses.Drop(wire.Refuse(wire.CodeUnknownKey, "the core does not know the device"))
			return
		case wire.DeviceActive, wire.DeviceQuarantined:
		}
	}
	if own, ok := ses.(*session); ok {
		own.tellOrder()
	}
	interval := s.Mirror.Interval(id, 0)
	if interval == 0 {
		return
	}
	if ses, tell := s.Roster.Told(id, interval); tell != 0 {
		ses.Tell(tell)
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
