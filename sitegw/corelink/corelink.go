// Package corelink is the gateway's side of the uplink: one session with one of the core's nodes at a time, over which
// statements, enrollments and renewals go up, presence is reported, and the site's picture comes down.
//
// The link keeps to a node that admits it. When that ends it goes to another one at once: every node serves every gateway. Where
// none answers it goes through a sibling, which carries the bytes of a session that is TLS from here to the core node, and goes back to
// a way of its own when there is one.
//
// Requests made while there is no session are answered at once with CodeUnavailable: whoever asked keeps what it has.
package corelink

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/sitegw/cores"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Times of the link.
const (
	requestTime  = 15 * time.Second
	retryWithout = 5 * time.Second // told to those who ask while there is no session
)

// A Witness keeps heads of the audit trail.
type Witness interface {
	// Take hands over a sealed head and where it came from: the address of a core node, or the sibling that relays. It does not block.
	Take(sealed []byte, from string)
}

// Config of a Link. All fields are required but Streams, Siblings, Changed, Witness and SiteKey.
type Config struct {
	Cores     *cores.List
	Transport *link.Transport
	Streams   link.StreamDial // over which to go where QUIC does not get through; nil: QUIC alone
	// Siblings names the gateways through which the core may be reached, in the order in which to try them; nil: there are none.
	Siblings func() []string
	// Relay opens a stream through a sibling to a core node of the sibling's choice. A refusal by the sibling is a *wire.Error.
	Relay      func(ctx context.Context, sibling string) (net.Conn, error)
	Credential *credential.Credential
	Roster     *roster.Roster
	Custody    *custody.Keeper
	Mirror     *mirror.Mirror
	Listen     string // told to the core: where agents reach this gateway
	Version    string
	Wall       func() time.Time
	Log        *slog.Logger
	Changed    func(devices []ident.DeviceID, site bool) // called after the mirror took something in
	Receipts   func([]wire.DeviceReceipt)                // called with what came from the core; must not block
	Refused    func([]custody.Refused)                   // called with what the core will never take; must not block
	Witness    Witness
	SiteKey    func(*wire.SiteKey)             // called with the site's key whenever it is told
	Run        uint64                          // id of this run, to go on with one that was refused as a copy; 0: a new one
	Forked     func(run uint64, reason string) // called when the core refuses this gateway as a copy; nil: nobody is told
}

// Link is the uplink. Its methods may be called from any goroutine.
type Link struct {
	Config
	dialer    *link.Dialer
	keepAlive time.Duration // of the next session; owned by Run
	run       uint64        // random id of this run

	connected atomic.Bool
	period    atomic.Int64 // ns; the core's report period, as told last

	mu       sync.Mutex
	session  *session // nil: none
	nextID   uint64
	sessions uint64 // that were admitted
}

// New makes a link; Run connects it.
func New(c Config) *Link {
	l := &Link{Config: c, dialer: link.NewDialer(c.Transport, c.Streams), run: c.Run}
	if l.run == 0 {
		l.run = rand.Uint64() //nolint:gosec // an id, no secret
	}
	l.period.Store(int64(usualPeriod))
	return l
}

// A session is one admitted session with a core node.
type session struct {
	*link.Session
	way     way
	node    string // the node's name, from its certificate
	period  time.Duration
	pending map[uint64]*request // guarded by Link.mu
}

// A request waits for its answer. done is called exactly once.
type request struct {
	done func(t wire.Type, body []byte, err error)
}

var errNoSession = wire.Refuse(wire.CodeUnavailable, "the gateway has no uplink").After(retryWithout)

// A Status is the state of the link.
type Status struct {
	Connected bool
	Node      string        // the core node's name, from its certificate; "": not connected
	Address   string        // where it was reached; "": not connected, or through a sibling
	Relay     string        // the sibling through which it was reached; "": none
	Carrier   link.Carrier  // what it runs over; QUIC when not connected
	Period    time.Duration // between two digests, as the node told; 0: not connected
	Sessions  uint64        // that core nodes admitted since the start
}

// Status is the state of the link now.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.session
	if s == nil {
		return Status{Sessions: l.sessions}
	}
	return Status{Connected: true, Node: s.node, Address: s.way.core, Relay: s.way.via, Carrier: s.Carrier(), Period: s.period, Sessions: l.sessions}
}

// Direct is the address of the core node with which there is a session that no sibling relays; false: there is none.
func (l *Link) Direct() (core string, ok bool) {
	s := l.Status()
	return s.Address, s.Connected && s.Relay == ""
}

// Connected tells whether there is a session with a core node.
func (l *Link) Connected() bool { return l.connected.Load() }

// Period is the core's report period, as told last; before that the usual one.
func (l *Link) Period() time.Duration { return time.Duration(l.period.Load()) }

func (l *Link) hello(s *session) error {
	known, ends := l.Mirror.Known(), l.Custody.SpoolEnds()
	err := s.Send(wire.TypeUplinkHello, wire.UplinkHello{
		Capability: wire.Capability, Version: l.Version, Listen: l.Listen, Run: l.run, KnownEpoch: known.ClusterEpoch, Known: known.Number,
		Via:   s.way.via,
		Spool: &ends,
	})
	if err != nil {
		return err
	}
	t, body, err := l.opening(s)
	if err != nil {
		return err
	}
	switch t {
	case wire.TypeUplinkWelcome:
		var w wire.UplinkWelcome
		if err := wire.Unmarshal(body, &w); err != nil {
			return err
		}
		s.period = min(max(time.Duration(w.ReportPeriodMS)*time.Millisecond, time.Second), 10*time.Minute)
		return nil
	case wire.TypeError:
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return err
		}
		if e.Code == wire.CodeForked && l.Forked != nil {
			l.Forked(l.run, e.Detail)
		}
		return e
	default:
		return fmt.Errorf("want a welcome, got %v: %w", t, wire.ErrMalformed)
	}
}

// maxOpening bounds what the core says before the welcome: what it wants proved, why it refuses.
const maxOpening = 4

// opening answers what the core asks before it decides, and returns its decision.
func (l *Link) opening(s *session) (t wire.Type, body []byte, err error) {
	for range maxOpening {
		if t, body, err = s.RecvWithin(attemptTime); err != nil {
			return 0, nil, err
		}
		switch t {
		case wire.TypeSite:
			err = l.shown(body)
		case wire.TypeProve:
			err = l.prove(s, body)
		default:
			return t, body, nil
		}
		if err != nil {
			return 0, nil, err
		}
	}
	return 0, nil, fmt.Errorf("no welcome after %d messages: %w", maxOpening, wire.ErrMalformed)
}

// prove shows the point behind a record of the spool.
func (l *Link) prove(s *session, body []byte) error {
	var m wire.Prove
	if err := wire.Unmarshal(body, &m); err != nil {
		return err
	}
	p, err := l.Custody.SpoolPoint(m.Seq)
	if err != nil {
		return err
	}
	ends := l.Custody.SpoolEnds() // the hello's may be old: another session of this run has brought more since
	return s.Send(wire.TypeProof, wire.Proof{Point: p, Spool: &ends})
}

// shown takes the list of gateways that comes before a refusal.
func (l *Link) shown(body []byte) error {
	var m wire.Site
	if err := wire.Unmarshal(body, &m); err != nil {
		return err
	}
	if _, site := l.Mirror.Apply(&wire.Site{List: m.List}); site && l.Changed != nil {
		l.Changed(nil, true)
	}
	return nil
}

func (l *Link) attach(s *session) {
	l.mu.Lock()
	l.session = s
	l.sessions++
	l.mu.Unlock()
	l.period.Store(int64(s.period))
	l.connected.Store(true)
	l.Roster.Resync()
}

// detach ends a session: whoever waits for an answer is told that there will be none.
func (l *Link) detach(s *session) {
	l.mu.Lock()
	if l.session == s {
		l.session = nil
		l.connected.Store(false)
	}
	pending := s.pending
	s.pending = nil
	l.mu.Unlock()
	for _, r := range pending {
		r.done(0, nil, errNoSession)
	}
}

// read takes what the core says until the session ends.
func (l *Link) read(s *session) error {
	for {
		t, body, err := s.Recv()
		if err != nil {
			return err
		}
		switch t {
		case wire.TypeSite:
			var m wire.Site
			if err := wire.Unmarshal(body, &m); err != nil {
				return err
			}
			l.site(s, &m)
		case wire.TypeReceipts:
			var m wire.Receipts
			if err := wire.Unmarshal(body, &m); err != nil {
				return err
			}
			l.Receipts(m.Items)
		case wire.TypeSubmitted, wire.TypeRelayEnrolled, wire.TypeRelayRenewed, wire.TypeError:
			if err := l.answered(s, t, body); err != nil {
				return err
			}
		default:
			l.Log.Debug("message of an unknown type skipped", "type", t.String())
		}
	}
}

// site takes what the core told of the site and of itself.
func (l *Link) site(s *session, m *wire.Site) {
	l.mu.Lock()
	if l.session != s { // it was left, and the newer one tells everything anew
		l.mu.Unlock()
		return
	}
	devices, site := l.Mirror.Apply(m)
	l.mu.Unlock()
	if len(m.Cores) > 0 {
		l.Cores.Told(m.Cores)
	}
	if len(m.AuditHead) > 0 && l.Witness != nil {
		l.Witness.Take(m.AuditHead, s.way.String())
	}
	if m.SiteKey != nil && l.SiteKey != nil {
		l.SiteKey(m.SiteKey)
	}
	if m.LeastMS != 0 {
		l.Roster.CorePace(time.Duration(m.LeastMS) * time.Millisecond)
	}
	if l.Changed != nil && (len(devices) > 0 || site) {
		l.Changed(devices, site)
	}
}

// numbered is what every answer starts with; an Error has its id under another key.
type numbered struct {
	ID uint64 `cbor:"1,keyasint"`
}

// answered gives an answer to whoever waits for it.
func (l *Link) answered(s *session, t wire.Type, body []byte) error {
	var n numbered
	var refusal error
	if t == wire.TypeError {
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return err
		}
		if e.ID == 0 && e.Ref == 0 {
			return e // it is about the session
		}
		n.ID, refusal = e.ID, e
	} else if err := wire.Unmarshal(body, &n); err != nil {
		return err
	}
	l.mu.Lock()
	r, ok := s.pending[n.ID]
	delete(s.pending, n.ID)
	l.mu.Unlock()
	if ok {
		r.done(t, body, refusal)
	}
	return nil
}

// maxPending bounds the requests that wait for an answer.
const maxPending = 4096

// request sends a numbered message and calls done with the answer, or with the reason why there is none.
func (l *Link) request(t wire.Type, message func(id uint64) any, done func(wire.Type, []byte, error)) {
	l.mu.Lock()
	s := l.session
	if s == nil || len(s.pending) >= maxPending {
		l.mu.Unlock()
		done(0, nil, errNoSession)
		return
	}
	l.nextID++
	id := l.nextID
	s.pending[id] = &request{done: done}
	l.mu.Unlock()
	if err := s.Send(t, message(id)); err != nil {
		l.mu.Lock()
		_, waiting := s.pending[id]
		delete(s.pending, id)
		l.mu.Unlock()
		s.Close()
		if waiting {
			done(0, nil, errNoSession)
		}
	}
}

// call is request for those who wait.
func call[M any](ctx context.Context, l *Link, t wire.Type, message func(id uint64) any) (*M, error) {
	type answer struct {
		m   *M
		err error
	}
	ch := make(chan answer, 1)
	l.request(t, message, func(_ wire.Type, body []byte, err error) {
		m := new(M)
		if err == nil {
			err = wire.Unmarshal(body, m)
		}
		ch <- answer{m, err}
	})
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	select {
	case a := <-ch:
		return a.m, a.err
	case <-ctx.Done():
		return nil, wire.Refuse(wire.CodeUnavailable, "the core does not answer").After(retryWithout)
	}
}

// Enroll passes a device's enrollment to the core.
func (l *Link) Enroll(ctx context.Context, e wire.Enroll) (*wire.Enrolled, error) {
	m, err := call[wire.RelayEnrolled](ctx, l, wire.TypeRelayEnroll, func(id uint64) any { return wire.RelayEnroll{ID: id, Enroll: e} })
	if err != nil {
		return nil, err
	}
	return &m.Enrolled, nil
}

// Renew passes a device's request for a new certificate to the core; the zero device is this gateway itself.
func (l *Link) Renew(ctx context.Context, d ident.DeviceID, r wire.Renew) (*wire.Renewed, error) {
	m, err := call[wire.RelayRenewed](ctx, l, wire.TypeRelayRenew, func(id uint64) any { return wire.RelayRenew{ID: id, Device: d, Renew: r} })
	if err != nil {
		return nil, err
	}
	return &m.Renewed, nil
}

// Ask wants to be told about a device of which the mirror has no entry. The answer comes as a change of the mirror.
func (l *Link) Ask(d ident.DeviceID) {
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s != nil && s.Send(wire.TypeAsk, wire.Ask{Device: d}) != nil {
		s.Close()
	}
}

// renewCheck is how often the gateway looks whether its certificate is due.
const renewCheck = time.Hour

// renew keeps the gateway's own certificate young.
func (l *Link) renew(ctx context.Context) error {
	fraction := 0.6 + 0.2*rand.Float64() //nolint:gosec // spreads renewals
	for {
		if !l.Wall().Before(l.Credential.RenewAt(fraction)) {
			if err := l.renewOwn(ctx); err != nil {
				l.Log.Warn("own certificate not renewed, trying again in an hour", "err", err)
			}
		}
		if !backoff.Sleep(ctx, renewCheck) {
			return ctx.Err()
		}
	}
}

func (l *Link) renewOwn(ctx context.Context) error {
	csr, err := ident.NewCSR(l.Credential.Key)
	if err != nil {
		return err
	}
	out, err := l.Renew(ctx, ident.DeviceID{}, wire.Renew{CSR: csr})
	if err != nil {
		return err
	}
	return l.Credential.Renewed(out.Chain)
}
