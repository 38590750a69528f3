package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/sibling"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const core1, core2 = "10.0.0.11:7444", "10.0.0.12:7444"

// A plant has gw-a, which asks, gw-b, which relays, and core nodes that are streams and nothing else, in virtual time.
type plant struct {
	t    *testing.T
	net  *linktest.Net
	asks *sibling.Peers
	srv  *Server

	mu     sync.Mutex
	direct string // gw-b's own node; "": it has no uplink
	dialed []string
}

func (p *plant) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// inPlant runs f with a relay whose uplink is with core1.
func inPlant(t *testing.T, f func(t *testing.T, p *plant)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &plant{t: t, net: linktest.New(t), direct: core1}
		p.srv = New(Config{Direct: p.uplink, Cores: func() []string { return []string{core2, core1, "10.0.0.13:7444"} }, Dial: p.dial, Log: slog.New(slog.DiscardHandler)})
		fleet := identtest.New(t, "acme", time.Now())
		var list []seal.ListedGateway
		var peers []*sibling.Peers
		for i, name := range []string{"gw-a", "gw-b"} {
			id := ident.Gateway("acme", "plant-7", name)
			cert := fleet.Certificate(id, time.Now())
			tr := link.NewTransport(p.net.Socket(byte(i+1)), nil)
			t.Cleanup(func() { p.ok(tr.Close()) })
			list = append(list, seal.ListedGateway{Name: name, Keys: []ident.KeyID{keyOf(t, cert)}, Listen: tr.Addr().String()})
			g := sibling.New(sibling.Config{
				Self: id, Endpoint: fleet.Endpoint(cert), Dialer: link.NewDialer(tr, p.net.Dial), List: func() []seal.ListedGateway { return list },
				Handlers: map[wire.Purpose]sibling.Handler{wire.PurposeRelay: p.srv.Serve}, Log: slog.New(slog.DiscardHandler),
			})
			peers = append(peers, g)
			ln, err := tr.Listen(fleet.Endpoint(cert).Server(ident.Protocol{ALPN: wire.ALPNSite, Roles: []ident.Role{ident.RoleGateway}}), link.Options{})
			p.ok(err)
			p.serve(ln, g)
		}
		p.asks = peers[0]
		f(t, p)
	})
}

func keyOf(t *testing.T, c *tls.Certificate) ident.KeyID {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return ident.KeyIDOf(leaf)
}

func (p *plant) serve(ln *link.Listener, g *sibling.Peers) {
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			pending, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				if ls, err := pending.Session(ctx, time.Minute); err == nil {
					g.Serve(ctx, ls, func() {})
				}
			})
		}
	})
	p.t.Cleanup(func() { cancel(); wg.Wait(); p.ok(ln.Close()) })
}

func (p *plant) uplink() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.direct, p.direct != ""
}

func (p *plant) dial(ctx context.Context, addr string) (net.Conn, error) {
	p.mu.Lock()
	p.dialed = append(p.dialed, addr)
	p.mu.Unlock()
	return p.net.Dial(ctx, addr)
}

// dials are the addresses that gw-b dialled since the last call.
func (p *plant) dials() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.dialed = nil }()
	return p.dialed
}

// node lets a core node accept one connection after the other.
func (p *plant) node(addr string) net.Listener {
	p.t.Helper()
	ln, err := p.net.Listen(addr)
	p.ok(err)
	return ln
}

// ask is gw-a's request.
func (p *plant) ask() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	c, err := p.asks.Dial(ctx, "gw-b", wire.PurposeRelay)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { c.Close() })
	return c, nil
}

// relayed is a relay's two ends, of which the second one is the core node's.
func (p *plant) relayed(ln net.Listener) (a, core net.Conn) {
	p.t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			p.t.Error(err)
		}
		accepted <- c
	}()
	a, err := p.ask()
	p.ok(err)
	core = <-accepted
	p.t.Cleanup(func() { core.Close() })
	return a, core
}

func refused(err error, code wire.Code) bool {
	e, ok := errors.AsType[*wire.Error](err)
	return ok && e.Code == code && e.RetryAfter() == retryAfter
}

// Bytes go both ways, and when one side has ended everything ends soon.
func TestRelayCarries(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		ln := p.node(core1)
		want := bytes.Repeat([]byte("0123456789"), 20_000)
		for side := range 2 {
			a, core := p.relayed(ln)
			from, to := a, core
			if side == 1 {
				from, to = core, a
			}
			go func() {
				if _, err := from.Write(want); err != nil {
					t.Error(err)
				}
				from.Close()
			}()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("side %d: %v, or other bytes", side, err)
			}
			if n, err := to.Read(got); n > 0 || err == nil {
				t.Errorf("side %d: %d bytes behind the end", side, n)
			}
			to.Close()
			time.Sleep(lingerTime)
			synctest.Wait()
			if s := p.srv.Status(); s.Open != 0 || s.Carried != uint64(side+1) || s.Bytes != uint64((side+1)*len(want)) {
				t.Errorf("side %d: status %+v", side, s)
			}
		}
		if got := p.dials(); !slices.Equal(got, []string{core1, core1}) {
			t.Errorf("dialled %q", got)
		}
	})
}

// Whatever the one who asks sends, it goes to the node of the relay's own uplink, or to another one of its own list.
func TestRelayIsNoProxy(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		outside := p.node("10.9.9.9:22")
		go func() {
			if c, err := outside.Accept(); err == nil {
				t.Errorf("%v was reached", c.LocalAddr())
			}
		}()
		a, core := p.relayed(p.node(core1))
		hello := "CONNECT 10.9.9.9:22 HTTP/1.1\r\n\r\n"
		_, err := a.Write([]byte(hello))
		p.ok(err)
		got := make([]byte, len(hello))
		_, err = io.ReadFull(core, got)
		p.ok(err)
		if string(got) != hello {
			t.Errorf("the node reads %q", got)
		}
		p.ok(a.Close())
		time.Sleep(time.Minute)
		p.net.Cut(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 11), Port: 7444}, true)
		p.relayed(p.node(core2)) // where its own node takes no TCP
		if got := p.dials(); !slices.Equal(got, []string{core1, core1, core2}) {
			t.Errorf("dialled %q", got)
		}
		p.ok(outside.Close())
	})
}

// Without an uplink of its own it dials nobody; where no node answers the one who asked hears it before his patience is over.
func TestRelayRefusesWithoutUplink(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.node(core1)
		p.direct = ""
		if _, err := p.ask(); !refused(err, wire.CodeUnavailable) {
			t.Errorf("without an uplink: %v", err)
		}
		if got := p.dials(); len(got) != 0 {
			t.Errorf("dialled %q", got)
		}
		p.direct = core1
		for _, host := range []byte{11, 12} {
			p.net.Cut(&net.TCPAddr{IP: net.IPv4(10, 0, 0, host), Port: 7444}, true)
		}
		start := time.Now()
		if _, err := p.ask(); !refused(err, wire.CodeUnavailable) || time.Since(start) > 7*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(time.Second)
		if s := p.srv.Status(); s != (Status{}) {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRelaysAreBounded(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		ln := p.node(core1)
		var last net.Conn
		for range maxRelays {
			last, _ = p.relayed(ln)
		}
		if _, err := p.ask(); !refused(err, wire.CodeBusy) {
			t.Errorf("one more: %v", err)
		}
		last.Close()
		time.Sleep(lingerTime)
		p.relayed(ln)
	})
}

// A side that does not read makes the other one wait, holds no more than a bounded number of bytes here, and is given up.
func TestSlowSideIsBounded(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		ln := p.node(core1)
		for side, name := range []string{"sibling", "core"} {
			a, core := p.relayed(ln)
			from := []net.Conn{a, core}[side]
			failed := make(chan struct{})
			start := time.Now()
			var sent int
			go func() {
				defer close(failed)
				for b := make([]byte, 1000); ; sent += len(b) {
					if _, err := from.Write(b); err != nil {
						return
					}
				}
			}()
			<-failed
			if took := time.Since(start); sent > 1<<20 || took > 30*time.Second {
				t.Errorf("%s: %d bytes in %v", name, sent, took)
			}
			time.Sleep(lingerTime + time.Minute)
			synctest.Wait()
			if s := p.srv.Status(); s.Open != 0 {
				t.Errorf("%s: status %+v", name, s)
			}
		}
	})
}

// A sibling that dies ends its relay.
func TestDeadSiblingIsNoticed(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		_, core := p.relayed(p.node(core1))
		p.net.Cut(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4433}, true)
		p.ok(core.SetReadDeadline(time.Now().Add(30 * time.Second)))
		if _, err := core.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("the core reads %v", err)
		}
		time.Sleep(lingerTime)
		if s := p.srv.Status(); s.Open != 0 {
			t.Errorf("status %+v", s)
		}
	})
}
