// Package link keeps an agent's session with a gateway: it finds one that admits it, heartbeats at the interval told, and
// brings the outbox to the core.
//
// No refusal by a gateway makes it do anything destructive: it waits and tries again, here or elsewhere.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Times of the link.
const (
	welcomeTime  = 10 * time.Second
	minBackoff   = 200 * time.Millisecond
	maxBackoff   = 30 * time.Second
	refusedMax   = 5 * time.Minute // the longest wait after a refusal that time alone does not heal
	healthyAfter = 30 * time.Second
	busyJitter   = 60 * time.Second // a gateway that is busy before the handshake is left alone for 5 s to this
	attachEvery  = time.Hour        // the signed word on a session that goes on
	attachJitter = 0.1              // of it, so that a thousand devices do not sign at once
)

// The intervals that an agent accepts, whoever names them.
const (
	MinInterval     = time.Second
	MaxInterval     = time.Hour
	DefaultInterval = 30 * time.Second
)

// Desired is what keeps the device at what is ordered. Its methods may be called from any goroutine.
type Desired interface {
	// Beat is what a heartbeat tells: the number of the order that is held, the digest of what runs, and the number of the set of
	// publishers.
	Beat() (order uint64, running []byte, publishers uint64)
	// Order takes a sealed order. The error, if there is one, is what only the gateway can be to blame for.
	Order(sealed []byte) error
	// Publishers says that there is a set of publishers of a number.
	Publishers(number uint64)
}

// Config of a Link. All fields are required but Streams and Desired.
type Config struct {
	Transport  *wirelink.Transport
	Streams    wirelink.StreamDial // over which to go where QUIC does not get through; nil: QUIC alone
	Credential *credential.Credential
	State      *devstate.State
	Lists      *devstate.Lists
	Gateways   []string         // host:port, at least one: to begin with, and when no listed gateway admits the device
	Start      uint64           // number of this start of the agent
	Wall       func() time.Time // at least the time floor
	Uptime     func() time.Duration
	Log        *slog.Logger
	Desired    Desired // nil: orders are not taken
}

// Link is the connection to whichever gateway admits the agent.
type Link struct {
	Config
	dialer   *wirelink.Dialer
	run      uint64        // random id of this run
	began    time.Time     // of this run
	alive    atomic.Int64  // ns since began, when it was last said to a gateway that this device lives
	sessions atomic.Uint64 // of this run
	sent     uint64        // heartbeats of this run
	answered atomic.Uint64
	renewed  time.Time               // when this run got a certificate; zero: not yet
	wake     chan struct{}           // capacity 1: there is a new statement
	doubts   atomic.Pointer[doubted] // what the next attach is to say of a gateway; nil: nothing
	named    chan struct{}           // capacity 1: doubts has something new that did not come from the session
	at       atomic.Pointer[string]  // address of the gateway that the newest session is with; nil: there was none

	gateways []string // in the order of preference: the one that worked last comes first
	why      string   // the session with the first of them was opened
	routes   routes
}

// New makes a link; Run connects it.
func New(c Config) *Link {
	return &Link{
		Config: c, dialer: wirelink.NewDialer(c.Transport, c.Streams), run: rand.Uint64(), began: time.Now(), wake: make(chan struct{}, 1), named: make(chan struct{}, 1), //nolint:gosec // an id, no secret
		why: "start",
	}
}

// Answered counts the heartbeats of this run that a gateway answered.
func (l *Link) Answered() uint64 { return l.answered.Load() }

// Wake says that the outbox has something new.
func (l *Link) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run keeps a session with a gateway until ctx ends. A gateway that fails is left at once for the one that suits best of the
// others; only after all of them have failed does the agent wait.
func (l *Link) Run(ctx context.Context) error {
	b := backoff.Backoff{Min: minBackoff, Max: maxBackoff}
	l.refresh()
	l.prefer("")
	for failed := 0; ctx.Err() == nil; {
		start := time.Now()
		gw, admitted, err := l.once(ctx, l.gateways[0])
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an end that was asked for is no error
		}
		if admitted && !errors.Is(err, errWithheld) && !errors.Is(err, errDropped) && !errors.Is(err, errFalse) {
			failed = 0
			if time.Since(start) > healthyAfter {
				b.Reset()
			}
		} else {
			failed++
		}
		l.refresh()
		if admitted {
			l.prefer(gw)
		}
		if failed > 0 || silent(err) {
			l.putLast(gw)
		}
		l.why = "the one before ended"
		wait := waitAfter(err, &b)
		if failed > 0 && failed%len(l.gateways) != 0 {
			wait = 0 // another one may admit it
		}
		l.Log.Warn("no session", "gateway", gw, "err", err, "retry_in", wait.Round(time.Millisecond).String())
		backoff.Sleep(ctx, wait)
	}
	return nil
}

// silent tells whether a gateway said nothing more: it may be dead, and to dial it once more may take as long as an attempt can,
// while the next one is there. One that ended the session, or that came back and does not know it, answers at once.
func silent(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return errors.Is(err, errSilent) || ok && n.Timeout()
}

// waitAfter is how long to leave the gateways alone after err.
func waitAfter(err error, b *backoff.Backoff) time.Duration {
	wait := b.Next()
	var e *wire.Error
	if !errors.As(err, &e) {
		return wait
	}
	switch {
	case e.RetryAfterMS > 0:
		return e.RetryAfter() + rand.N(e.RetryAfter()/2+time.Millisecond) //nolint:gosec // spreading load needs no secrecy
	case e.Code == wire.CodeBusy:
		return 5*time.Second + rand.N(busyJitter-5*time.Second) //nolint:gosec // as above
	case !e.Code.Temporary() && e.Code != wire.CodeNone:
		return min(wait*10, refusedMax)
	}
	return wait
}

// once holds one session with a gateway, and those to which it moves, the last one with the gateway at. admitted tells whether
// there was one. It always returns an error.
func (l *Link) once(ctx context.Context, gw string) (at string, admitted bool, err error) {
	s, err := wirelink.Open(ctx, l.dialer, l.target(gw), l.greet)
	if err != nil {
		return gw, false, err
	}
	for s != nil {
		if err := l.admitted(s); err != nil {
			s.link.Close()
			return gw, true, err
		}
		l.routes.arrived(gw, time.Now())
		now := gw // gw moves on
		l.at.Store(&now)
		l.Log.Info("attached", "gateway", s.gateway.String(), "carrier", s.link.Carrier().String(), "interval", s.interval.String(), "session", s.number,
			"why", l.why, "rtt", s.link.RTT().Round(time.Microsecond).String())
		s, gw, err = l.hold(ctx, gw, s)
	}
	return gw, true, err
}

// target is a gateway as one to dial.
func (l *Link) target(gw string) wirelink.Target {
	_, keepAlive := l.State.Interval()
	return wirelink.Target{
		Addr: gw, TLS: l.Credential.Endpoint(l.Wall).Client(wire.ALPNAgent, ident.RoleGateway, l.accept),
		Options: wirelink.Options{KeepAlive: min(max(keepAlive, wirelink.DefaultKeepAlive), time.Minute)},
	}
}

// greet attaches on a session that was just opened, and waits for the welcome. It changes nothing of the link's that a session
// which runs beside it could use.
func (l *Link) greet(ls *wirelink.Session) (*session, error) {
	interval, keepAlive := l.State.Interval()
	s := &session{Link: l, link: ls, interval: clamp(interval), keepAlive: keepAlive, up: newUpload(), in: make(chan frame, waiting)}
	s.claims.Store(true)
	s.beatIn.Store(-1)
	if err := s.attach(); err != nil {
		return nil, err
	}
	return s, l.welcomed(s)
}

// accept refuses a gateway that has ended by the newest list of its site that the authority signed. One whose certificate has
// expired, by this device's clock, it takes only if its key is on that list.
func (l *Link) accept(p ident.Peer) error {
	if l.Lists.Drops(p.ID, p.Key, p.Issued()) {
		return fmt.Errorf("%w: %v", errDropped, p.ID)
	}
	if p.Expired && !l.Lists.Knows(p.ID, p.Key) {
		return fmt.Errorf("certificate of %v expired at %v and its key is not on the list of its site: %w", p.ID, p.Leaf.NotAfter, ident.ErrUntrusted)
	}
	return nil
}

func clamp(d time.Duration) time.Duration {
	if d == 0 {
		return DefaultInterval
	}
	return min(max(d, MinInterval), MaxInterval)
}

// attach sends the signed word that opens a session, or renews it on a session that goes on.
func (s *session) attach() error {
	peer, ok := s.link.Peer(s.Wall())
	if !ok {
		return fmt.Errorf("the gateway shows no identity: %w", ident.ErrUntrusted)
	}
	s.gateway = peer.ID
	if err := s.State.RaiseFloor(peer.Leaf.NotBefore); err != nil {
		return err
	}
	s.number = s.sessions.Add(1)
	a := s.State.Attach()
	a.Gateway, a.Start, a.Run, a.Session = peer.ID.String(), s.Start, s.Link.run, s.number
	a.IntervalMS, a.TimeMS, a.SilentMS = wire.Millis(s.interval), s.Wall().UnixMilli(), s.lives()
	d := s.doubts.Load()
	if d != nil {
		a.Doubts, a.DoubtFor = d.gateway, d.reason
	}
	s.said = d
	sealed, err := seal.SealAttach(&a, s.Credential.KeyID, s.Credential.Key)
	if err != nil {
		return err
	}
	list := s.Lists.Stamp(peer.ID.Site)
	return s.link.Send(wire.TypeAttach, wire.Attach{Capability: wire.Capability, Sealed: sealed, ListEpoch: list.ClusterEpoch, List: list.Number})
}

// lives notes that a gateway is told now that this device lives, and returns for how long none was, in ms, at least 1.
func (l *Link) lives() uint64 {
	now := int64(time.Since(l.began))
	return max(1, uint64(max(0, now-l.alive.Swap(now)))/uint64(time.Millisecond))
}

// welcomed waits for the admission.
func (l *Link) welcomed(s *session) error {
	w := new(wire.Welcome)
	if err := opened(s.link, wire.TypeWelcome, w); err != nil {
		return err
	}
	if w.Identity != l.Credential.ID.String() {
		return fmt.Errorf("the gateway welcomes %.100q: %w", w.Identity, wire.ErrMalformed)
	}
	s.keepAlive, s.welcome = time.Duration(w.KeepAliveMS)*time.Millisecond, w
	return nil
}

// opened waits for the answer to the first message of a session: one of type want, which is decoded into out, or a refusal.
func opened(ls *wirelink.Session, want wire.Type, out any) error {
	t, body, err := ls.RecvWithin(welcomeTime)
	switch {
	case err != nil:
		return err
	case t == want:
		return wire.Unmarshal(body, out)
	case t == wire.TypeError:
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return err
		}
		return e
	default:
		return fmt.Errorf("want a %v, got %v: %w", want, t, wire.ErrMalformed)
	}
}

// admitted keeps what the welcome told, and what an admission proves: that the certificate in use works. A session that was left
// for this one may have attached once more in the meantime: then the newest word is said here again.
func (l *Link) admitted(s *session) error {
	if s.number != l.sessions.Load() {
		if err := s.attach(); err != nil {
			return err
		}
	}
	s.told(s.welcome.IntervalMS)
	s.begin(s.welcome)
	s.heard()
	if k := s.welcome.Kept; k != nil && !s.stated(place{k.Epoch, k.Seq}) {
		if err := s.accuse("welcome", "kept_seq", k.Seq); err != nil {
			return err
		}
	}
	return l.Credential.Confirm()
}
