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

// inWorld runs f in a bubble with a world whose gateway listens with o.
func inWorld(t *testing.T, o link.Options, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: linktest.New(t), fleet: identtest.New(t, "plant", time.Now())}
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
	ln, err := w.server.Listen(w.fleet.Endpoint(w.cert).Server(w.fleet.Ports()["agent"].Protocols...), o)
	w.ok(err)
	w.ln = ln
}

// dial is a device's dial.
func (w *world) dial(o link.Options) (*link.Session, error) {
	return w.client.Dial(w.t.Context(), w.gateway, w.fleet.Endpoint(w.device).Client(wire.ALPNAgent, ident.RoleGateway, nil), o)
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
