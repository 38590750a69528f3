package link_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
)

// A world is a gateway that listens and a device that dials, in virtual time.
type world struct {
	t       *testing.T
	carrier link.Carrier
	net     *linktest.Net
	fleet   *identtest.Fleet
	cert    *tls.Certificate // the gateway's
	device  *tls.Certificate
	server  *link.Transport
	client  *link.Transport
	ln      *link.Listener
	gateway net.Addr
}

const (
	gatewayHost = 1
	deviceHost  = 2
)

// inWorld runs f in bubbles with a world whose gateway listens with o: once for each carrier.
func inWorld(t *testing.T, o link.Options, f func(t *testing.T, w *world)) {
	t.Helper()
	for _, c := range link.Carriers() {
		t.Run(c.String(), func(t *testing.T) { inWorldOver(t, c, o, f) })
	}
}

// inWorldOver is inWorld for one carrier.
func inWorldOver(t *testing.T, c link.Carrier, o link.Options, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, carrier: c, net: linktest.New(t), fleet: identtest.New(t, "plant", time.Now())}
		w.cert = w.fleet.Certificate(ident.Gateway("plant", "berlin", "a"), time.Now())
		w.device = w.fleet.Certificate(ident.Device("plant", ident.NewDeviceID()), time.Now())
		w.start(nil, o)
		w.client = w.transport(deviceHost, nil)
		f(t, w)
	})
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// transport opens a transport that closes with the test.
func (w *world) transport(host byte, keys *link.Keys) *link.Transport {
	tr := link.NewTransport(w.net.Socket(host), keys)
	w.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			w.t.Errorf("close the transport: %v", err)
		}
	})
	return tr
}

// start lets a gateway listen at its address, in the place of the one before.
func (w *world) start(keys *link.Keys, o link.Options) {
	w.t.Helper()
	w.server = w.transport(gatewayHost, keys)
	w.gateway = w.server.Addr()
	w.ln = w.listen(w.server, w.fleet.Endpoint(w.cert).Server(w.fleet.Ports()["agent"].Protocols...), o)
}

// listen listens at a transport's address, over the world's carrier.
func (w *world) listen(tr *link.Transport, tc *tls.Config, o link.Options) *link.Listener {
	w.t.Helper()
	if w.carrier == link.QUIC {
		ln, err := tr.Listen(tc, o)
		w.ok(err)
		return ln
	}
	streams, err := w.net.Listen(tr.Addr().String())
	w.ok(err)
	ln := link.ListenConns(streams, tc, o)
	w.t.Cleanup(func() { w.ok(ln.Close()) })
	return ln
}

// dialTo dials an address over the world's carrier.
func (w *world) dialTo(addr net.Addr, tc *tls.Config, o link.Options) (*link.Session, error) {
	if w.carrier == link.QUIC {
		return w.client.Dial(w.t.Context(), addr, tc, o)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	c, err := w.net.Dial(ctx, addr.String())
	if err != nil {
		return nil, err
	}
	return link.DialConn(ctx, c, tc, o)
}

// dial is a device's dial.
func (w *world) dial(o link.Options) (*link.Session, error) {
	return w.dialTo(w.gateway, w.fleet.Endpoint(w.device).Client(wire.ALPNAgent, ident.RoleGateway, nil), o)
}

// sessions opens a session and returns both sides, after the device's first frame, an Ask, was read.
func (w *world) sessions(o link.Options) (device, gateway *link.Session) {
	w.t.Helper()
	device, err := w.dial(o)
	w.ok(err)
	w.ok(device.Send(wire.TypeAsk, wire.Ask{}))
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	p, err := w.ln.Accept(ctx)
	w.ok(err)
	gateway, err = p.Session(ctx, time.Second)
	w.ok(err)
	w.recv(gateway, wire.TypeAsk)
	return device, gateway
}

// recv reads one frame of a type.
func (w *world) recv(s *link.Session, want wire.Type) []byte {
	w.t.Helper()
	t, b, err := s.RecvWithin(time.Minute)
	if err != nil || t != want {
		w.t.Fatalf("received %v, %v, want %v", t, err, want)
	}
	return b
}
