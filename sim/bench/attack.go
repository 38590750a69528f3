package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/wire"
)

// Commands of the hostile devices. attack takes a name behind a space.
const (
	commandAttack  = "attack"  // begin; answers when all connections are at it
	commandSent    = "sent"    // answers sent
	commandRelease = "release" // drop all connections
)

// The attacks. Each holds genuine certificates, and does what the protocol's limits do not forbid.
const (
	attackFill    = "fill"    // attach, then the largest frame without its end, then every other stream to the brim of its window
	attackCrumbs  = "crumbs"  // as fill, behind a gap and in pieces of 128 bytes, each in a packet of its own
	attackTrickle = "trickle" // as crumbs, byte by byte
	attackSilent  = "silent"  // complete the handshake and never attach
	attackDeaf    = "deaf"    // attach, then statements without end, and never read an answer
)

// sent is what an attack has got rid of so far.
type sent struct {
	Connections int64 // at it
	Bytes       int64 // written to streams by all of them
	Ended       int64 // connections that the gateway has ended
}

// leakSize is the size of the packets that a leaky socket loses, in bytes and more.
const leakSize = 600

// leaky is a socket that loses all large packets while it leaks. A piece that needs one never arrives, however often it is
// sent again, and everything behind it waits at the receiver.
type leaky struct {
	net.PacketConn
	leaks atomic.Bool
}

// WriteTo implements net.PacketConn.
func (l *leaky) WriteTo(b []byte, to net.Addr) (int, error) {
	if l.leaks.Load() && len(b) >= leakSize {
		return len(b), nil
	}
	return l.PacketConn.WriteTo(b, to)
}

// hostile plays devices that mean harm. Its methods are called one at a time.
type hostile struct {
	cfg     fleetConfig
	devices []*device
	udp     *leaky
	tr      *quic.Transport
	to      *net.UDPAddr

	cancel  context.CancelFunc // nil while no attack runs
	running sync.WaitGroup

	connected, bytes, ended atomic.Int64
}

func openHostile(_ context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[fleetConfig](config)
	if err != nil {
		return nil, err
	}
	h := &hostile{cfg: cfg}
	if h.devices, _, err = readRegister(cfg.Register, cfg.From, cfg.N); err != nil {
		return nil, err
	}
	if h.to, err = net.ResolveUDPAddr("udp4", cfg.Gateway); err != nil {
		return nil, fmt.Errorf("gateway's address: %w", err)
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("open udp socket on loopback: %w", err)
	}
	h.udp = &leaky{PacketConn: udp}
	h.tr = &quic.Transport{Conn: h.udp}
	return h, nil
}

// Do implements floor.Service.
func (h *hostile) Do(ctx context.Context, command string) (any, error) {
	name, arg, _ := strings.Cut(command, " ")
	switch name {
	case commandAttack:
		return nil, h.attack(ctx, arg)
	case commandSent:
		return sent{Connections: h.connected.Load(), Bytes: h.bytes.Load(), Ended: h.ended.Load()}, nil
	case commandRelease:
		h.release()
		return nil, nil
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, name)
}

// Close implements floor.Service.
func (h *hostile) Close() error {
	h.release()
	return errors.Join(h.tr.Close(), h.udp.Close())
}

func (h *hostile) release() {
	if h.cancel == nil {
		return
	}
	h.cancel()
	h.running.Wait()
	h.cancel = nil
}

// attack connects all devices; each goes on in a goroutine until release.
func (h *hostile) attack(ctx context.Context, name string) error {
	if h.cancel != nil {
		return errRunning
	}
	ctx, h.cancel = context.WithCancel(ctx)
	h.cfg.Start++
	conns := make([]*hostileConn, len(h.devices))
	for i, d := range h.devices {
		var err error
		if conns[i], err = h.connect(ctx, d, name); err != nil {
			h.release()
			return fmt.Errorf("attack %s: %w", name, err)
		}
	}
	h.udp.leaks.Store(name == attackCrumbs || name == attackTrickle)
	for _, conn := range conns {
		h.running.Go(func() { h.hold(ctx, conn, name) })
	}
	return nil
}

// connect completes a handshake and, but for silent ones, attaches.
func (h *hostile) connect(ctx context.Context, d *device, name string) (*hostileConn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	qc := &quic.Config{MaxIdleTimeout: 4 * time.Minute, DisablePathMTUDiscovery: true}
	if name == attackDeaf {
		qc.InitialStreamReceiveWindow, qc.MaxStreamReceiveWindow = 1<<10, 1<<10
	}
	c, err := h.tr.Dial(ctx, h.to, d.client(), qc)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	h.connected.Add(1)
	hc := &hostileConn{conn: c, device: d}
	if name == attackSilent {
		return hc, nil
	}
	return hc, hc.attach(ctx, h.cfg.Start)
}

// hold does the harm and keeps it up until ctx ends.
func (h *hostile) hold(ctx context.Context, c *hostileConn, name string) {
	defer c.conn.CloseWithError(0, "") //nolint:errcheck // it is over
	gone := c.conn.Context()
	switch name {
	case attackFill:
		c.fill(ctx, &h.bytes, 1200, 0)
	case attackCrumbs:
		c.fill(ctx, &h.bytes, 128, crumbPause)
	case attackTrickle:
		c.fill(ctx, &h.bytes, 1, crumbPause)
	case attackDeaf:
		c.flood(ctx, &h.bytes)
	}
	select {
	case <-ctx.Done():
	case <-gone.Done():
		h.ended.Add(1)
	}
}

// hostileConn is one hostile connection.
type hostileConn struct {
	conn   *quic.Conn
	device *device
	ctl    *quic.Stream
}

func (c *hostileConn) attach(ctx context.Context, start uint64) error {
	var err error
	if c.ctl, err = c.conn.OpenStreamSync(ctx); err != nil {
		return fmt.Errorf("open control stream: %w", err)
	}
	leaf := c.conn.ConnectionState().TLS.PeerCertificates[0]
	a, err := c.device.attach(leaf.URIs[0].String(), start)
	if err != nil {
		return err
	}
	frame, err := wire.AppendFrame(nil, wire.TypeAttach, a)
	if err != nil {
		return err
	}
	if _, err := c.ctl.Write(frame); err != nil {
		return fmt.Errorf("send attach: %w", err)
	}
	if err := c.ctl.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return fmt.Errorf("bound wait: %w", err)
	}
	t, body, err := wire.NewFrameReader(c.ctl, wire.MaxFrame).Next()
	if err != nil {
		return fmt.Errorf("await welcome: %w", err)
	}
	_, err = read[wire.Welcome](t, body, wire.TypeWelcome)
	return err
}

// crumbPause lets each piece leave in a packet of its own.
const crumbPause = 300 * time.Microsecond

// gapPause lets the packet that makes the gap leave alone.
const gapPause = 20 * time.Millisecond

// largest is a statement of the greatest size that the protocol has.
func largest() []byte {
	frame, err := wire.AppendFrame(nil, wire.TypeStatement, wire.Statement{Sealed: make([]byte, wire.MaxStatement)})
	if err != nil {
		return nil // it fits
	}
	return frame
}

// fill sends all but the end of the largest frame, and then writes whatever the gateway lets it to as many streams as it may
// open, in pieces. It returns when nothing more goes.
func (c *hostileConn) fill(ctx context.Context, bytes *atomic.Int64, piece int, pause time.Duration) {
	frame := largest()
	frame = frame[:len(frame)-1]
	if pause > 0 { // leave a gap
		c.pieces(ctx, c.ctl, bytes, frame[:leakSize], leakSize, gapPause)
		frame = frame[leakSize:]
	}
	c.pieces(ctx, c.ctl, bytes, frame, piece, pause)
	var streams []*quic.Stream
	for {
		s, err := c.conn.OpenStream()
		if err != nil {
			break
		}
		streams = append(streams, s)
	}
	var wg sync.WaitGroup
	for _, s := range streams {
		wg.Go(func() {
			c.pieces(ctx, s, bytes, make([]byte, 256<<10), piece, pause)
			s.CancelWrite(0)
		})
	}
	wg.Wait()
}

// pieces writes b until the window is full, which shows as a write that does not end.
func (c *hostileConn) pieces(ctx context.Context, s *quic.Stream, bytes *atomic.Int64, b []byte, piece int, pause time.Duration) {
	defer context.AfterFunc(ctx, func() { s.CancelWrite(0) })()
	for len(b) > 0 {
		if err := s.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
			return
		}
		n, err := s.Write(b[:min(piece, len(b))])
		bytes.Add(int64(n))
		if err != nil || pause > 0 && rest(ctx, pause) != nil {
			return
		}
		b = b[n:]
	}
}

// stallTime tells a full window from a slow one.
const stallTime = time.Second

// deafPause keeps a deaf device below the number of messages a second that ends its session.
const deafPause = time.Second / 45

// flood sends the largest statements, which nobody signed, as fast as they are tolerated.
func (c *hostileConn) flood(ctx context.Context, bytes *atomic.Int64) {
	frame := largest()
	for ctx.Err() == nil {
		if err := c.ctl.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
			return
		}
		n, err := c.ctl.Write(frame)
		bytes.Add(int64(n))
		if err != nil || rest(ctx, deafPause) != nil {
			return
		}
	}
}
