package link_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
)

// A choice is a gateway that listens over both carriers, and a device's dialler.
type choice struct {
	*world
	dialer *link.Dialer
	refuse *wire.Error           // nil: everybody is welcome
	mute   map[link.Carrier]bool // carriers over which nobody is answered

	mu      sync.Mutex
	greeted []link.Carrier // that the gateway heard a greeting over
}

func inChoice(t *testing.T, f func(t *testing.T, c *choice)) {
	t.Helper()
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		c := &choice{world: w, dialer: link.NewDialer(w.client, w.net.Dial), mute: make(map[link.Carrier]bool)}
		w.carrier = link.TCP
		streams := w.listen(w.server, w.fleet.Endpoint(w.cert).Server(w.fleet.Ports()["agent"].Protocols...), link.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for _, ln := range []*link.Listener{w.ln, streams} {
			wg.Go(func() {
				for {
					p, err := ln.Accept(ctx)
					if err != nil {
						return
					}
					wg.Go(func() { c.serve(ctx, p) })
				}
			})
		}
		f(t, c)
	})
}

// serve answers a greeting, and then waits for the end.
func (c *choice) serve(ctx context.Context, p *link.Pending) {
	s, err := p.Session(ctx, time.Minute)
	if err != nil {
		return
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	if _, _, err := s.Recv(); err != nil {
		return
	}
	c.mu.Lock()
	c.greeted = append(c.greeted, s.Carrier())
	refuse, mute := c.refuse, c.mute[s.Carrier()]
	c.mu.Unlock()
	if refuse != nil {
		s.Refuse(refuse)
		return
	}
	if !mute {
		s.Send(wire.TypeGoAway, wire.GoAway{}) //nolint:errcheck // the other side may have given up
	}
	s.Recv() //nolint:errcheck // the end is all that comes
}

func (c *choice) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *choice) target() link.Target {
	return link.Target{Addr: c.gateway.String(), TLS: c.fleet.Endpoint(c.device).Client(wire.ALPNAgent, ident.RoleGateway, nil)}
}

// greet is the device's side of serve.
func greet(s *link.Session) (*link.Session, error) {
	if err := s.Send(wire.TypeAsk, wire.Ask{}); err != nil {
		return nil, err
	}
	t, b, err := s.RecvWithin(5 * time.Second)
	if err == nil && t == wire.TypeError {
		e := new(wire.Error)
		if err = wire.Unmarshal(b, e); err == nil {
			err = e
		}
	}
	return s, err
}

// opens dials and wants the carrier within the time.
func (c *choice) opens(want link.Carrier, least, most time.Duration) *link.Session {
	c.t.Helper()
	start := time.Now()
	s, err := link.Open(c.t.Context(), c.dialer, c.target(), greet)
	c.ok(err)
	if d := time.Since(start); s.Carrier() != want || d < least || d > most {
		c.t.Errorf("over %v after %v, want %v within %v and %v", s.Carrier(), d, want, least, most)
	}
	return s
}

const few = 8 * linktest.Latency

func TestOpenPrefersQUIC(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.opens(link.QUIC, 0, few).Close()
		if len(c.greeted) != 1 {
			t.Errorf("greeted over %v", c.greeted)
		}
	})
}

// Where UDP is blocked TCP is taken, at once from the second time on, until QUIC has worked again.
func TestOpenOverTCP(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.net.BlockUDP(c.gateway, true)
		c.opens(link.TCP, 2*time.Second, 2*time.Second+few).Close()
		c.opens(link.TCP, 0, 250*time.Millisecond+few).Close()
		c.net.BlockUDP(c.gateway, false)
		c.opens(link.QUIC, 0, few).Close()
		c.net.BlockUDP(c.gateway, true)
		c.opens(link.TCP, 2*time.Second, 2*time.Second+few).Close()
	})
}

// A gateway that answers over UDP and is slow is not dialled over TCP as well.
func TestOpenWaitsForABusyPeer(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		streams := 0
		c.dialer = link.NewDialer(c.client, func(ctx context.Context, addr string) (net.Conn, error) {
			streams++
			return c.net.Dial(ctx, addr)
		})
		c.silentAfterFirst(2500 * time.Millisecond)
		c.opens(link.QUIC, 2500*time.Millisecond, 9*time.Second).Close()
		if streams != 0 {
			t.Errorf("dialled over TCP %d times", streams)
		}
	})
}

// One of which nothing follows is dialled over TCP when QUIC has had its time, and sooner from then on.
func TestOpenBehindABrokenPath(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		for _, after := range []time.Duration{10 * time.Second, 2 * time.Second, 2 * time.Second} {
			c.silentAfterFirst(time.Hour)
			c.opens(link.TCP, after, after+few).Close()
		}
		c.net.Lose(nil)
		c.opens(link.QUIC, 0, few).Close()
	})
}

// silentAfterFirst loses for a while what the gateway sends over UDP, but for the first packet.
func (c *choice) silentAfterFirst(d time.Duration) {
	var passed atomic.Bool
	until := time.Now().Add(d)
	c.net.Lose(func(from, _ net.Addr) bool {
		if from.String() != c.gateway.String() || time.Now().After(until) {
			return false
		}
		return passed.Swap(true)
	})
}

// A QUIC that fails outright is not waited for.
func TestOpenWithoutUDP(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		broken := link.NewTransport(c.net.Socket(77), nil)
		c.ok(broken.Close())
		c.dialer = link.NewDialer(broken, c.net.Dial)
		c.opens(link.TCP, 0, few).Close()
	})
}

// A session over QUIC over which nothing comes is given up for TCP, and no two greetings are under way at once.
func TestOpenWithoutAnAnswerOverQUIC(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.set(func() { c.mute[link.QUIC] = true })
		c.opens(link.TCP, 5*time.Second, 5*time.Second+few).Close()
		if len(c.greeted) != 2 || c.greeted[0] != link.QUIC {
			t.Errorf("greeted over %v", c.greeted)
		}
	})
}

// A refusal is an answer: nobody is asked twice.
func TestOpenRefused(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.set(func() { c.refuse = wire.Refuse(wire.CodeBusy, "later") })
		for i, blocked := range []bool{false, true, true} {
			c.net.BlockUDP(c.gateway, blocked)
			_, err := link.Open(t.Context(), c.dialer, c.target(), greet)
			if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeBusy {
				t.Errorf("got %v", err)
			}
			if len(c.greeted) != i+1 {
				t.Errorf("greeted over %v", c.greeted)
			}
		}
	})
}

func TestOpenNobody(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		to := c.target()
		to.Addr = (&net.UDPAddr{IP: net.IPv4(10, 0, 0, 99), Port: 1}).String()
		start := time.Now()
		_, err := link.Open(t.Context(), c.dialer, to, greet)
		if d := time.Since(start); !errors.Is(err, link.ErrClosed) || d > 12*time.Second {
			t.Errorf("%v after %v", err, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := link.Open(ctx, c.dialer, to, greet); err == nil || ctx.Err() == nil {
			t.Errorf("%v, though its context goes on", err)
		}
		to.Addr = "nowhere"
		if _, err := link.Open(t.Context(), c.dialer, to, greet); err == nil {
			t.Error("an address without a port was dialled")
		}
	})
}

// While a session runs over TCP, QUIC is tried every one to three minutes, and taken when it is admitted.
func TestOpenQUIC(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.net.BlockUDP(c.gateway, true)
		old := c.opens(link.TCP, 2*time.Second, 3*time.Second)
		time.AfterFunc(time.Hour, func() { c.net.BlockUDP(c.gateway, false) })
		start := time.Now()
		s, err := link.OpenQUIC(t.Context(), c.dialer, old, c.target, greet)
		c.ok(err)
		if d := time.Since(start); s.Carrier() != link.QUIC || d < time.Hour || d > time.Hour+3*time.Minute+15*time.Second {
			t.Errorf("over %v after %v", s.Carrier(), d)
		}
		if old.Context().Err() != nil {
			t.Error("the older session was closed")
		}
		old.Close()
		s.Close()
		c.opens(link.QUIC, 0, few).Close()
	})
}

// The wait ends with the session over TCP.
func TestOpenQUICEndsWithItsSession(t *testing.T) {
	inChoice(t, func(t *testing.T, c *choice) {
		t.Helper()
		c.net.BlockUDP(c.gateway, true)
		old := c.opens(link.TCP, 2*time.Second, 3*time.Second)
		for _, after := range []time.Duration{30 * time.Second, 0} {
			start := time.Now()
			time.AfterFunc(after, old.Close)
			if _, err := link.OpenQUIC(t.Context(), c.dialer, old, c.target, greet); err == nil || time.Since(start) > after+3*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
	})
}
