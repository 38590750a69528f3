package fetch

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A site has two gateways, whose part the test plays, and a client.
type site struct {
	t      *testing.T
	client *Client
	tr     *link.Transport
	ep     ident.Endpoint
	gws    []*gateway

	mu     sync.Mutex
	doubts []string
}

// A gateway answers fetches as its test has it.
type gateway struct {
	addr   string
	answer func(s *link.Session, f wire.Fetch) error // an error ends the session; set before the client calls
	asked  []wire.Fetch                              // read it when no call is under way
}

// within runs f in virtual time with a site.
func within(t *testing.T, f func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n, fleet := linktest.New(t), identtest.New(t, "acme", time.Now())
		s := &site{t: t}
		for i, name := range []string{"gw-a", "gw-b"} {
			tr := link.NewTransport(n.Socket(byte(i+1)), nil)
			t.Cleanup(func() { s.ok(tr.Close()) })
			ep := fleet.Endpoint(fleet.Certificate(ident.Gateway("acme", "plant-7", name), time.Now()))
			ln, err := tr.Listen(ep.Server(ident.Protocol{ALPN: wire.ALPNAgent, Roles: []ident.Role{ident.RoleDevice}}), link.Options{})
			s.ok(err)
			g := &gateway{addr: tr.Addr().String()}
			s.gws = append(s.gws, g)
			s.serve(ln, g)
		}
		s.tr = link.NewTransport(n.Socket(9), nil)
		t.Cleanup(func() { s.ok(s.tr.Close()) })
		s.ep = fleet.Endpoint(fleet.Certificate(ident.Device("acme", ident.NewDeviceID()), time.Now()))
		s.client = New(s, time.Now, slog.New(slog.DiscardHandler))
		f(t, s)
	})
}

func (s *site) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) serve(ln *link.Listener, g *gateway) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			pending, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { g.session(ctx, pending) })
		}
	})
	s.t.Cleanup(func() { cancel(); s.ok(ln.Close()); wg.Wait() })
}

func (g *gateway) session(ctx context.Context, pending *link.Pending) {
	ls, err := pending.Session(ctx, time.Minute)
	if err != nil {
		return
	}
	defer ls.Close()
	for {
		t, body, err := ls.Recv()
		if err != nil || t != wire.TypeFetch {
			return
		}
		var f wire.Fetch
		if wire.Unmarshal(body, &f) != nil {
			return
		}
		g.asked = append(g.asked, f)
		if g.answer(ls, f) != nil {
			return
		}
	}
}

func (s *site) Sources() []string { return []string{s.gws[0].addr, s.gws[1].addr} }

func (s *site) Content(ctx context.Context, addr string) (*link.Session, error) {
	to := link.Target{Addr: addr, TLS: s.ep.Client(wire.ALPNAgent, ident.RoleGateway, func(ident.Peer) error { return nil }), Options: link.Options{Limits: link.ContentLimits}}
	return link.Open(ctx, link.NewDialer(s.tr, nil), to, func(ls *link.Session) (*link.Session, error) { return ls, nil })
}

func (s *site) Doubt(gateway ident.ID, reason seal.Doubt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubts = append(s.doubts, gateway.Name+": "+reason.String())
}

// doubted fails the test unless just these gateways were doubted since the last time, for content.
func (s *site) doubted(names ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.doubts) != len(names) {
		s.t.Errorf("doubts %q, want %q", s.doubts, names)
	}
	for i := range min(len(names), len(s.doubts)) {
		if want := names[i] + ": " + seal.DoubtContent.String(); s.doubts[i] != want {
			s.t.Errorf("doubts %q, want %q", s.doubts[i], want)
		}
	}
	s.doubts = nil
}

// contents are n chunks of a size, and what answers for them.
func contents(n, size int) (list []artifact.Chunk, answer func(*link.Session, wire.Fetch) error) {
	byDigest := make(map[wire.Digest][]byte)
	for i := range n {
		b := make([]byte, size)
		b[0], b[1] = byte(i), byte(i>>8)
		c := artifact.Chunk{Digest: wire.DigestOf(b), Size: uint32(size)}
		list = append(list, c)
		byDigest[c.Digest] = b
	}
	return list, func(s *link.Session, f wire.Fetch) error {
		b, ok := byDigest[f.Digest]
		if !ok || f.Kind != wire.ContentChunk {
			return s.Send(wire.TypeBlob, wire.Blob{Code: wire.CodeNoContent})
		}
		return s.Send(wire.TypeBlob, wire.Blob{Data: b})
	}
}

// fetch fetches a list and makes sure that each chunk is delivered once, in order.
func (s *site) fetch(list []artifact.Chunk) error {
	s.t.Helper()
	next := 0
	err := s.client.Fetch(s.t.Context(), list, func(i int, data []byte) error {
		if i != next || wire.DigestOf(data) != list[i].Digest {
			s.t.Errorf("delivered %d, want %d", i, next)
		}
		next++
		return nil
	})
	if err == nil && next != len(list) {
		s.t.Errorf("%d of %d delivered", next, len(list))
	}
	return err
}
