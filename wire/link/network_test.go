package link_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
)

func mustLeaf(t *testing.T, c *tls.Certificate) *x509.Certificate {
	t.Helper()
	return identtest.Parse(t, c.Certificate[0])[0]
}

// rawDial dials as a device that follows no rules of package link.
func (w *world) rawDial(alpn string) *quic.Conn {
	w.t.Helper()
	tr := &quic.Transport{Conn: w.net.Socket(deviceHost + 1)}
	w.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			w.t.Errorf("close the raw transport: %v", err)
		}
	})
	c, err := tr.Dial(w.t.Context(), w.gateway, identtest.Client{Cert: w.device}.Raw(alpn), &quic.Config{DisablePathMTUDiscovery: true})
	w.ok(err)
	return c
}

// Every client at the ports, over each carrier, with every protocol: only the cells that the product means come out of Accept.
func TestRoleMatrix(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		clients := w.fleet.Clients(time.Now())
		for host, portName := range []string{"agent", "uplink"} {
			port := w.fleet.Ports()[portName]
			tr := w.transport(byte(100+host), nil)
			ln := w.listen(tr, w.fleet.Endpoint(w.fleet.Certificate(port.Server, time.Now())).Server(port.Protocols...), link.Options{})
			for name, c := range clients {
				for _, alpn := range identtest.ALPNs() {
					admitted := tryPort(w, ln, tr.Addr(), c, alpn)
					if want := port.Admits(c.Role, alpn); admitted != want {
						t.Errorf("%s port, %s, protocol %q: admitted %v, want %v", portName, name, alpn, admitted, want)
					}
				}
			}
		}
	})
}

// tryPort dials and tells whether the listener hands the connection out within a second.
func tryPort(w *world, ln *link.Listener, addr net.Addr, c identtest.Client, alpn string) bool {
	s, err := w.dialTo(addr, c.Raw(alpn), link.Options{})
	if err == nil {
		defer s.Close()
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	p, err := ln.Accept(ctx)
	if err != nil {
		return false
	}
	ok := p.Protocol() == alpn
	p.Refuse(&wire.Error{})
	return ok
}

func TestNoResumption(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		tc := identtest.Client{Cert: w.device}.Raw(wire.ALPNAgent)
		tc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		for range 2 {
			s, err := w.dialTo(w.gateway, tc, link.Options{})
			w.ok(err)
			w.ok(s.Send(wire.TypeAsk, wire.Ask{}))
			p, err := w.ln.Accept(t.Context())
			w.ok(err)
			gateway, err := p.Session(t.Context(), time.Second)
			w.ok(err)
			w.recv(gateway, wire.TypeAsk)
			if s.TLS().DidResume || gateway.TLS().DidResume {
				t.Error("a session was resumed")
			}
			s.Close()
		}
	})
}

// A dead peer is noticed within 12 s, by both sides.
func TestDeadPeerIsNoticed(t *testing.T) {
	// The worst moment to die is just after a packet; the others show that no phase is worse.
	for _, phase := range []time.Duration{0, time.Second, 3900 * time.Millisecond, 4500 * time.Millisecond} {
		inWorld(t, link.Options{}, func(t *testing.T, w *world) {
			t.Helper()
			device, gateway := w.sessions(link.Options{})
			select {
			case <-device.Context().Done():
				t.Fatal("an idle session ended though both live")
			case <-time.After(10 * time.Minute):
			}
			w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
			w.recv(gateway, wire.TypeAsk)
			<-time.After(phase)
			w.net.Cut(w.gateway, true)
			start := time.Now()
			<-device.Context().Done()
			<-gateway.Context().Done()
			if d := time.Since(start); d > 12*time.Second+4*linktest.Latency {
				t.Errorf("died %v after the last message: noticed after %v, want 12s", phase, d)
			}
			for _, s := range []*link.Session{device, gateway} {
				if _, _, err := s.Recv(); !errors.Is(err, link.ErrClosed) {
					t.Errorf("got %v, want ErrClosed", err)
				}
			}
		})
	}
}

func TestLongerKeepAlive(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, _ := w.sessions(link.Options{KeepAlive: 30 * time.Second})
		w.net.Cut(w.gateway, true)
		start := time.Now()
		<-device.Context().Done()
		if d := time.Since(start); d < 30*time.Second || d > 72*time.Second+4*linktest.Latency {
			t.Errorf("noticed after %v, want 72s at most", d)
		}
	})
}

// A gateway that died and came back with its keys tells the device so at the device's next heartbeat.
func TestRestartIsNoticedAtOnce(t *testing.T) {
	keys, err := link.LoadKeys(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		w.start(keys, link.Options{})
		device, _ := w.sessions(link.Options{})
		w.start(keys, link.Options{}) // the process before said nothing: it is no longer reachable
		start := time.Now()
		w.ok(device.Send(wire.TypeHeartbeat, wire.Heartbeat{Run: 1 << 60, Number: 1, UptimeMS: 60_000, IntervalMS: 5000}))
		_, _, err := device.RecvWithin(time.Minute)
		if !errors.Is(err, link.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if d := time.Since(start); d > 3*linktest.Latency {
			t.Errorf("noticed after %v, want one round trip", d)
		}
		w.sessions(link.Options{})
	})
}

func TestLoadKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	a, err := link.LoadKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := link.LoadKeys(path)
	if err != nil || *a != *b || a.Reset == (quic.StatelessResetKey{}) || bytes.Equal(a.Reset[:], a.Token[:]) {
		t.Errorf("the keys did not last: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for name, content := range map[string][]byte{"empty": {}, "short": make([]byte, 63), "long": make([]byte, 65), "huge": make([]byte, 2<<10)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := link.LoadKeys(path); err == nil {
			t.Errorf("%s: damaged keys were taken", name)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// Under pressure a client proves its address first, which costs it a round trip and nothing else.
func TestRetryUnderPressure(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{Unproved: 0.5}, func(t *testing.T, w *world) {
		t.Helper()
		var took []time.Duration
		for range 3 {
			start := time.Now()
			s, err := w.dial(link.Options{})
			w.ok(err)
			took = append(took, time.Since(start))
			s.Close()
		}
		if took[0] > 3*linktest.Latency {
			t.Errorf("the first dial took %v, want one round trip", took[0])
		}
		if took[1] < 4*linktest.Latency || took[2] < 4*linktest.Latency {
			t.Errorf("dials under pressure took %v, want two round trips", took[1:])
		}
		select {
		case <-time.After(10 * time.Second):
		case <-t.Context().Done():
		}
		start := time.Now()
		s, err := w.dial(link.Options{})
		w.ok(err)
		s.Close()
		if d := time.Since(start); d > 3*linktest.Latency {
			t.Errorf("a dial after the pressure took %v", d)
		}
	})
}

// Beyond the cap a handshake is refused, and a session that ends makes room.
func TestConnectionCap(t *testing.T) {
	inWorld(t, link.Options{Connections: 2}, func(t *testing.T, w *world) {
		t.Helper()
		first, _ := w.sessions(link.Options{})
		w.sessions(link.Options{})
		if _, err := w.dial(link.Options{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("the third got %v, want ErrClosed", err)
		}
		first.Close()
		<-time.After(5 * time.Second)
		w.sessions(link.Options{})
		if _, err := w.dial(link.Options{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("one too many got %v, want ErrClosed", err)
		}
	})
}

// A hostile peer that sends and is not read gets rid of no more than the limits say.
func TestUnreadDataIsBounded(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		raw := w.rawDial(wire.ALPNAgent)
		sent, streams := 0, 0
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := raw.OpenStreamSync(ctx)
			cancel()
			if err != nil {
				break
			}
			streams++
			w.ok(s.SetWriteDeadline(time.Now().Add(time.Second)))
			n, err := s.Write(make([]byte, 1<<20))
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("a megabyte was taken: %v", err)
			}
			sent += n
		}
		if streams > int(link.AgentLimits.Streams) || sent > int(link.AgentLimits.Connection) || sent == 0 {
			t.Errorf("%d streams took %d bytes, limits %+v", streams, sent, link.AgentLimits)
		}
		if _, err := raw.OpenUniStream(); err == nil {
			t.Error("a one-way stream was taken")
		}
	})
}

// The memory of a frame is not given on a peer's word: what only an uplink carries is refused on an agent's session, and on
// an uplink's port from a client without identity.
func TestLargeFramesAreForUplinks(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		big := wire.Submit{Statements: [][]byte{make([]byte, 100_000)}}
		device, gateway := w.sessions(link.Options{})
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { device.Send(wire.TypeSubmit, big) }) //nolint:errcheck // it ends with the session
		if _, _, err := gateway.RecvWithin(time.Second); !errors.Is(err, wire.ErrFrameTooLarge) {
			t.Errorf("an agent's frame of 100 kB: %v, want ErrFrameTooLarge", err)
		}
		gateway.Close()
		port, clients := w.fleet.Ports()["uplink"], w.fleet.Clients(time.Now())
		tr := w.transport(100, nil)
		ln := w.listen(tr, w.fleet.Endpoint(w.fleet.Certificate(port.Server, time.Now())).Server(port.Protocols...), link.Options{Limits: link.UplinkLimits})
		for name, want := range map[string]error{"gateway": nil, "nobody": wire.ErrFrameTooLarge} {
			alpn := map[string]string{"gateway": wire.ALPNUplink, "nobody": wire.ALPNEnroll}[name]
			s, err := w.dialTo(tr.Addr(), clients[name].Raw(alpn), link.Options{Limits: link.UplinkLimits})
			w.ok(err)
			w.ok(s.Send(wire.TypeAsk, wire.Ask{}))
			p, err := ln.Accept(t.Context())
			w.ok(err)
			core, err := p.Session(t.Context(), time.Second)
			w.ok(err)
			w.recv(core, wire.TypeAsk)
			wg.Go(func() { s.Send(wire.TypeSubmit, big) }) //nolint:errcheck // it ends with the session
			if _, _, err := core.RecvWithin(time.Second); !errors.Is(err, want) {
				t.Errorf("%s: a frame of 100 kB on an uplink's port: %v, want %v", name, err, want)
			}
			core.Close()
			<-s.Context().Done()
		}
	})
}

// The largest blob reaches whoever dials for content, from a sender that keeps the frame's memory; after the session's end it takes none.
func TestContentFrames(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		device, gateway := w.sessions(link.Options{Limits: link.ContentLimits})
		want := wire.Blob{Data: bytes.Repeat([]byte{7}, wire.MaxChunk)}
		frame, err := wire.AppendFrame(nil, wire.TypeBlob, want)
		w.ok(err)
		for range 3 {
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := gateway.SendFrame(wire.TypeBlob, frame); err != nil {
					t.Error(err)
				}
			})
			var got wire.Blob
			w.ok(wire.Unmarshal(w.recv(device, wire.TypeBlob), &got))
			wg.Wait()
			if !bytes.Equal(got.Data, want.Data) {
				t.Error("another blob arrived")
			}
		}
		device.Close()
		<-gateway.Context().Done()
		if gateway.SendFrame(wire.TypeBlob, frame) == nil {
			t.Error("sent on a session that has ended")
		}
	})
}

func TestDialFails(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		start := time.Now()
		nobody := &net.UDPAddr{IP: net.IPv4(10, 0, 0, 99), Port: 4433}
		tc := w.fleet.Endpoint(w.device).Client(wire.ALPNAgent, ident.RoleGateway, nil)
		if _, err := w.dialTo(nobody, tc, link.Options{}); err == nil {
			t.Error("nobody answered")
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("a dial to nobody took %v, want 10s at most", d)
		}
		tc = w.fleet.Endpoint(w.device).Client(wire.ALPNAgent, ident.RoleCore, nil)
		if _, err := w.dialTo(w.gateway, tc, link.Options{}); !errors.Is(err, link.ErrClosed) || !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("a gateway in the place of a core node: %v", err)
		}
	})
}

func TestClosingTheTransportEndsEverything(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		_, gateway := w.sessions(link.Options{})
		w.ok(w.ln.Close())
		if err := gateway.Send(wire.TypeAsk, wire.Ask{}); err != nil {
			t.Errorf("closing the listener ended a session: %v", err)
		}
		w.ok(w.server.Close())
		if _, _, err := gateway.Recv(); !errors.Is(err, link.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if _, err := w.ln.Accept(t.Context()); err == nil {
			t.Error("a closed listener accepts")
		}
	})
}

func TestResolve(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:7443": "10.0.0.1:7443", "[::1]:7443": "[::1]:7443", "10.0.0.1": "", "10.0.0.1:": "10.0.0.1:0", "10.0.0.1:70000": "", "": "",
	} {
		got, err := link.Resolve(t.Context(), in)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q is %v, %v, want %q", in, got, err, want)
		}
	}
}
