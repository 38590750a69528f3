package floor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/floor/pki"
)

// idleTimeout outlasts every measurement, so that neither keep-alives nor time-outs are part of one.
const idleTimeout = 20 * time.Minute

// A dial that was lost in the crowd (a full accept queue, a dropped packet) is tried again.
const (
	dialTimeout = 20 * time.Second
	dialTries   = 6
	dialPause   = 100 * time.Millisecond
)

func listenLoopback() (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("open udp socket on loopback: %w", err)
	}
	return conn, nil
}

// streamServer accepts mTLS QUIC connections on loopback and serves the first stream of each: the shape of a server of
// heartbeats, one goroutine for each device.
type streamServer struct {
	udp       *net.UDPConn
	transport *quic.Transport
	listener  *quic.Listener
	serve     func(io.ReadWriter)
	running   sync.WaitGroup
}

// newStreamServer listens. serve must return when the stream fails, which Close makes it do.
func newStreamServer(tlsConf *tls.Config, quicConf *quic.Config, serve func(io.ReadWriter)) (*streamServer, error) {
	udp, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	s := &streamServer{udp: udp, transport: &quic.Transport{Conn: udp}, serve: serve}
	if s.listener, err = s.transport.Listen(tlsConf, quicConf); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for quic: %w", err), s.transport.Close(), udp.Close())
	}
	s.running.Go(s.acceptAll)
	return s, nil
}

func (s *streamServer) address() string { return s.udp.LocalAddr().String() }

// acceptAll only hands off: the library's queue of accepted connections is short.
func (s *streamServer) acceptAll() {
	for {
		conn, err := s.listener.Accept(context.Background())
		if err != nil {
			return // closed
		}
		s.running.Go(func() {
			if stream, err := conn.AcceptStream(context.Background()); err == nil {
				s.serve(stream)
			}
		})
	}
}

// Close drops all connections and waits for the goroutines that serve them.
func (s *streamServer) Close() error {
	err := errors.Join(s.listener.Close(), s.transport.Close(), s.udp.Close())
	s.running.Wait()
	return err
}

// fleet is the other side: devices that share one socket.
type fleet struct {
	udp       *net.UDPConn
	transport *quic.Transport
	server    *net.UDPAddr
	authority *pki.Authority
	quicConf  *quic.Config
}

func newFleet(server string, authority *pki.Authority, quicConf *quic.Config) (*fleet, error) {
	address, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		return nil, fmt.Errorf("server's address: %w", err)
	}
	udp, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	return &fleet{
		udp: udp, transport: &quic.Transport{Conn: udp}, server: address, authority: authority, quicConf: quicConf,
	}, nil
}

// Close drops all connections.
func (f *fleet) Close() error { return errors.Join(f.transport.Close(), f.udp.Close()) }

// dialAll connects devices 0 to n-1, at most parallel at a time. use gets each device's stream before the next dial
// takes its place; if it fails, the device is dialled again.
func (f *fleet) dialAll(ctx context.Context, n, parallel int, use func(i int, stream *quic.Stream) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range n {
		g.Go(func() error { return f.dialPatiently(ctx, i, use) })
	}
	return g.Wait()
}

func (f *fleet) dialPatiently(ctx context.Context, i int, use func(i int, stream *quic.Stream) error) error {
	for try := 1; ; try++ {
		err := f.dial(ctx, i, use)
		if err == nil {
			return nil
		}
		if try == dialTries {
			return fmt.Errorf("connect device %d: %w", i, err)
		}
		if err := wait(ctx, dialPause); err != nil {
			return fmt.Errorf("connect device %d: %w", i, err)
		}
	}
}

func (f *fleet) dial(ctx context.Context, i int, use func(i int, stream *quic.Stream) error) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tlsConf, err := f.authority.DeviceTLS(i)
	if err != nil {
		return err
	}
	conn, err := f.transport.Dial(ctx, f.server, tlsConf, f.quicConf)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err == nil {
		err = use(i, stream)
	}
	if err != nil {
		return errors.Join(err, conn.CloseWithError(0, "abandoned"))
	}
	return nil
}

// wait returns nil after d, or earlier with the reason why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
