package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
)

// Times of the choice between the carriers.
const (
	// tcpAfter is how long QUIC has got, before TCP is dialled beside it if nothing was heard of the peer. A peer that was heard is
	// only busy, and a second handshake for the same session is what it needs least: it has until the handshake's timeout.
	tcpAfter = 2 * time.Second
	// tcpSoon is the same where TCP was needed the last time: a round trip or two, so that QUIC wins where it works again. There
	// TCP is dialled after tcpAfter at the latest, whatever was heard: what lets first packets through may stop those that follow.
	tcpSoon = 250 * time.Millisecond
	// While a session runs over TCP, QUIC is tried about this often.
	quicEvery  = 2 * time.Minute
	quicJitter = 0.5
	// moveTime is how long an attempt may outlive the session that it is to take the place of.
	moveTime = 2 * time.Second
)

// A StreamDial opens a connection to host:port, TCP most often.
type StreamDial = func(ctx context.Context, addr string) (net.Conn, error)

// DialTCP dials with the machine's own TCP.
func DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// A Dialer opens sessions: over QUIC, and over TCP where QUIC does not get through. It may be used from any goroutine.
type Dialer struct {
	packets *Transport
	streams StreamDial // nil: QUIC alone

	mu      sync.Mutex
	blocked map[string]bool // host:port that was reached over TCP last: there QUIC gets no head start
}

// NewDialer makes a dialler. streams may be nil: then there is QUIC alone.
func NewDialer(packets *Transport, streams StreamDial) *Dialer {
	return &Dialer{packets: packets, streams: streams, blocked: make(map[string]bool)}
}

// A Target is whom to dial, and how.
type Target struct {
	Addr    string // host:port, the same for UDP and TCP
	TLS     *tls.Config
	Options Options
}

// An Admit greets a peer on a session that was just opened and returns what came of it. It must end when the session does. When
// it returns an error the session is closed.
type Admit[T any] func(*Session) (T, error)

// Open opens a session and has admit greet the peer. The carrier whose peer admits first is taken, and the other one is given
// up: QUIC is tried first, and TCP as soon as QUIC has failed, or for a while nothing was heard over it. No two greetings are under
// way at once. A refusal by the peer is the answer, whatever it came over.
func Open[T any](ctx context.Context, d *Dialer, to Target, admit Admit[T]) (value T, err error) {
	addr, err := Resolve(ctx, to.Addr)
	if err != nil {
		return value, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race[T]{admit: admit, turn: make(chan struct{}, 1), opened: make(chan struct{}, len(Carriers())), results: make(chan result[T])}
	var h hearing
	go r.try(ctx, QUIC, func() (*Session, error) { return d.packets.dial(ctx, addr, to, &h) })
	overTCP := func() { r.try(ctx, TCP, func() (*Session, error) { return d.stream(ctx, addr.String(), to) }) }
	start, blocked := time.Now(), d.isBlocked(to.Addr)
	t := time.NewTimer(headStart(blocked))
	defer t.Stop()
	running, streams := 1, d.streams != nil
	for running > 0 {
		select {
		case <-t.C:
			switch late := time.Since(start) >= tcpAfter; {
			case !streams, h.heard.Load() && late && !blocked:
			case h.heard.Load() && !late:
				t.Reset(tcpAfter - time.Since(start))
			default:
				streams = false
				running++
				go overTCP()
			}
		case <-r.opened:
			t.Stop() // a session that waits for its admission is not raced
		case out := <-r.results:
			running--
			if out.err == nil || refused(out.err) {
				cancel()
				for range running {
					<-r.results // it has lost, and has closed what it had
				}
				if out.err == nil {
					d.worked(to.Addr, out.carrier)
				}
				return out.value, out.err
			}
			err = either(err, out.err)
			if streams && ctx.Err() == nil {
				streams = false
				running++
				go overTCP()
			}
		}
	}
	return value, err
}

// either is the error of two attempts that failed, the second of which may not have been made.
func either(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; and %w", a, b)
}

// refused tells whether an error is a peer's refusal.
func refused(err error) bool {
	_, ok := errors.AsType[*wire.Error](err)
	return ok
}

// A race is what the two attempts of one Open share.
type race[T any] struct {
	admit   Admit[T]
	turn    chan struct{} // has room for the one who greets; kept by the one whose answer counts
	opened  chan struct{} // an item for each session
	results chan result[T]
}

type result[T any] struct {
	carrier Carrier
	value   T
	err     error // not nil: the session, if there was one, is closed
}

// try is one attempt.
func (r *race[T]) try(ctx context.Context, c Carrier, dial func() (*Session, error)) {
	out := result[T]{carrier: c}
	var s *Session
	if s, out.err = dial(); out.err == nil {
		r.opened <- struct{}{}
		out.value, out.err = r.greet(ctx, s)
	}
	if out.err != nil {
		out.err = fmt.Errorf("over %v: %w", c, out.err)
	}
	r.results <- out
}

// greet greets the peer once the other attempt does not.
func (r *race[T]) greet(ctx context.Context, s *Session) (value T, err error) {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		s.Close()
		return value, ctx.Err()
	}
	stop := context.AfterFunc(ctx, s.Close)
	value, err = r.admit(s)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Close()
		if !refused(err) {
			<-r.turn
		}
	}
	return value, err
}

// OpenQUIC is for a peer with which session s over TCP exists: QUIC alone is tried from time to time until ctx or s ends, and the
// first session that is admitted is returned. to is asked before each try.
func OpenQUIC[T any](ctx context.Context, d *Dialer, s *Session, to func() Target, admit Admit[T]) (value T, err error) {
	return Meanwhile(ctx, s, quicEvery, quicJitter, func(ctx context.Context) (value T, err error) {
		t := to()
		if value, err = Open(ctx, NewDialer(d.packets, nil), t, admit); err == nil {
			d.worked(t.Addr, QUIC)
		}
		return value, err
	})
}

// Meanwhile tries to get something better than session s about every so often (see backoff.Jitter), until ctx or s ends, and returns
// what the first try got that had no error. A try that is under way when s ends is given a moment more: a peer may end s because it has
// just admitted the other one.
func Meanwhile[T any](ctx context.Context, s *Session, every time.Duration, jitter float64, try func(context.Context) (T, error)) (value T, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	unhook := context.AfterFunc(s.Context(), func() { //nolint:contextcheck // ctx is asked in it
		stop()
		if backoff.Sleep(ctx, moveTime) {
			cancel()
		}
	})
	defer unhook()
	for backoff.Sleep(waiting, backoff.Jitter(every, jitter)) {
		if value, err = try(ctx); err == nil {
			return value, nil
		}
	}
	return value, fmt.Errorf("%w: nothing better was got in its time", ErrClosed)
}

// stream dials over TCP.
func (d *Dialer) stream(ctx context.Context, addr string, to Target) (*Session, error) {
	dctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := d.streams(dctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return DialConn(ctx, c, to.TLS, to.Options)
}

// isBlocked tells whether an address was reached over TCP last.
func (d *Dialer) isBlocked(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.blocked[addr]
}

// headStart is how long QUIC is tried alone.
func headStart(blocked bool) time.Duration {
	if blocked {
		return tcpSoon
	}
	return tcpAfter
}

// maxBlocked bounds the addresses that are remembered. A process dials a handful.
const maxBlocked = 256

// worked remembers what an address was reached over.
func (d *Dialer) worked(addr string, c Carrier) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c == QUIC {
		delete(d.blocked, addr)
		return
	}
	if len(d.blocked) >= maxBlocked {
		clear(d.blocked)
	}
	d.blocked[addr] = true
}
