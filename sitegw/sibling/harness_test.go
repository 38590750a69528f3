package sibling

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A site has gateways that serve on one network, in virtual time.
type site struct {
	t     *testing.T
	over  link.Carrier
	net   *linktest.Net
	fleet *identtest.Fleet

	mu   sync.Mutex
	list []seal.ListedGateway
	a, b *gateway
}

// A gateway is one that serves requests as the test says.
type gateway struct {
	*Peers
	tr   *link.Transport
	cert *tls.Certificate
	got  chan *Request // of purpose relay; the handler returns when the item is received from done
	done chan struct{}
}

// inSite runs f with two gateways that know one another, once for each carrier.
func inSite(t *testing.T, f func(t *testing.T, s *site)) {
	t.Helper()
	for _, c := range link.Carriers() {
		t.Run(c.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &site{t: t, over: c, net: linktest.New(t), fleet: identtest.New(t, "acme", time.Now())}
				s.a, s.b = s.add(1, ident.Gateway("acme", "plant-7", "gw-a"), true), s.add(2, ident.Gateway("acme", "plant-7", "gw-b"), true)
				f(t, s)
			})
		})
	}
}

func (s *site) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func keyOf(t *testing.T, c *tls.Certificate) ident.KeyID {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return ident.KeyIDOf(leaf)
}

// add makes a gateway at a host, which is on the list or is not.
func (s *site) add(host byte, id ident.ID, listed bool) *gateway {
	s.t.Helper()
	return s.addWith(host, id, s.fleet.Certificate(id, time.Now()), listed)
}

func (s *site) addWith(host byte, id ident.ID, cert *tls.Certificate, listed bool) *gateway {
	s.t.Helper()
	g := &gateway{cert: cert, got: make(chan *Request), done: make(chan struct{}), tr: link.NewTransport(s.net.Socket(host), nil)}
	s.t.Cleanup(func() { s.ok(g.tr.Close()) })
	addr := g.tr.Addr()
	s.net.BlockUDP(addr, s.over == link.TCP)
	if listed {
		s.setList(append(s.gateways(), seal.ListedGateway{Name: id.Name, Keys: []ident.KeyID{keyOf(s.t, cert)}, Listen: addr.String()}))
	}
	g.Peers = New(Config{
		Self: id, Endpoint: s.fleet.Endpoint(cert), Dialer: link.NewDialer(g.tr, s.net.Dial), List: s.gateways, Log: slog.New(slog.DiscardHandler),
		Handlers: map[wire.Purpose]Handler{
			wire.PurposeRelay: func(ctx context.Context, r *Request) {
				select {
				case g.got <- r:
				case <-ctx.Done():
				}
				select {
				case <-g.done:
				case <-ctx.Done():
				}
			},
			wire.PurposeGossip: func(context.Context, *Request) {}, // neither accepts nor refuses
		},
	})
	tc := s.fleet.Endpoint(cert).Server(ident.Protocol{ALPN: wire.ALPNSite, Roles: []ident.Role{ident.RoleGateway}})
	packets, err := g.tr.Listen(tc, link.Options{})
	s.ok(err)
	streams, err := s.net.Listen(addr.String())
	s.ok(err)
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	for _, ln := range []*link.Listener{packets, link.ListenConns(streams, tc, link.Options{})} {
		s.t.Cleanup(func() { s.ok(ln.Close()) })
		wg.Go(func() {
			for {
				p, err := ln.Accept(ctx)
				if err != nil {
					return
				}
				wg.Go(func() {
					if ls, err := p.Session(ctx, time.Minute); err == nil {
						g.Serve(ctx, ls, func() {})
					}
				})
			}
		})
	}
	s.t.Cleanup(func() { cancel(); wg.Wait() })
	return g
}

func (s *site) gateways() []seal.ListedGateway {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

func (s *site) setList(l []seal.ListedGateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = l
}

// pair opens a session of gw-a with gw-b. gw-b's end is closed with release.
func (s *site) pair() (a, b *Conn) {
	s.t.Helper()
	accepted := make(chan *Conn, 1)
	go func() {
		c, err := (<-s.b.got).Accept()
		if err != nil {
			s.t.Error(err)
		}
		accepted <- c
	}()
	a, err := s.dial(s.a, "gw-b", wire.PurposeRelay)
	s.ok(err)
	return a, <-accepted
}

func (s *site) dial(g *gateway, name string, purpose wire.Purpose) (*Conn, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	c, err := g.Dial(ctx, name, purpose)
	if err == nil {
		s.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// refused tells whether an error is a refusal with a code.
func refused(err error, code wire.Code) bool {
	e, ok := errors.AsType[*wire.Error](err)
	return ok && e.Code == code
}
