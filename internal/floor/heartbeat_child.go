package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/internal/floor/beat"
	"github.com/holdfast-edge/holdfast/internal/floor/load"
	"github.com/holdfast-edge/holdfast/internal/floor/pki"
)

const (
	roleHeartbeatServer = "heartbeat-server"
	roleHeartbeatClient = "heartbeat-client"
)

// The commands of the servers and clients of the heartbeat and the idle floor.
const (
	commandAddress = "address" // server: where it listens, a string
	commandCount   = "count"   // server: exchanges served; heartbeat client: clientCounts since the last count
	commandStart   = "start"   // heartbeat client: begin the load
	commandStop    = "stop"    // heartbeat client: end the load
	commandCollect = "collect" // idle: collect garbage, then heapCounts
)

// stopGrace is how long heartbeats under way may take when the load ends.
const stopGrace = 8 * time.Second

// heartbeatDials is the number of devices that connect at the same time.
const heartbeatDials = 32

var (
	errRunning = errors.New("load is running")
	errStuck   = errors.New("heartbeats are still unanswered")
)

// serverConfig configures a server of either floor.
type serverConfig struct {
	Authority pki.Material
}

// clientConfig configures the clients of either floor.
type clientConfig struct {
	Authority   pki.Material
	Server      string
	Connections int
}

// clientCounts is what the heartbeat client answers to commandCount. Completed and Failed count from the beginning, the
// percentiles over the time since the last such command.
type clientCounts struct {
	Completed, Failed uint64
	P50, P99          time.Duration
	FirstFailure      string // for people
}

// heartbeatQUIC is the same on both sides. Path MTU discovery is off because its probes are no part of a heartbeat.
func heartbeatQUIC() *quic.Config {
	return &quic.Config{
		MaxIdleTimeout: idleTimeout, MaxIncomingStreams: 16, MaxIncomingUniStreams: 2, DisablePathMTUDiscovery: true,
	}
}

// heartbeatServer answers heartbeats.
type heartbeatServer struct {
	*streamServer
	served atomic.Uint64
}

func openHeartbeatServer(_ context.Context, config json.RawMessage) (Service, error) {
	s := &heartbeatServer{}
	var err error
	if s.streamServer, err = openServer(config, heartbeatQUIC(), s.answerAll); err != nil {
		return nil, err
	}
	return s, nil
}

func openServer(config json.RawMessage, quicConf *quic.Config, serve func(io.ReadWriter)) (*streamServer, error) {
	cfg, err := decodeConfig[serverConfig](config)
	if err != nil {
		return nil, err
	}
	authority, err := pki.Load(cfg.Authority)
	if err != nil {
		return nil, err
	}
	tlsConf, err := authority.ServerTLS()
	if err != nil {
		return nil, err
	}
	return newStreamServer(tlsConf, quicConf, serve)
}

func (s *heartbeatServer) answerAll(stream io.ReadWriter) { answerBeats(stream, &s.served) }

// answerBeats serves one device until its stream ends. A stream that breaks, or carries nonsense, is the device's loss:
// it shows as a failure on its side.
func answerBeats(stream io.ReadWriter, served *atomic.Uint64) {
	messages := beat.NewReader(stream)
	out := make([]byte, 0, 64)
	for {
		message, err := messages.Next()
		if err != nil {
			return
		}
		if out, err = beat.AppendAnswer(out[:0], message, time.Now()); err != nil {
			return
		}
		served.Add(1)
		if _, err := stream.Write(out); err != nil {
			return
		}
	}
}

func (s *heartbeatServer) Do(_ context.Context, command string) (any, error) {
	switch command {
	case commandAddress:
		return s.address(), nil
	case commandCount:
		return s.served.Load(), nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
}

// heartbeatClient is the fleet and its load.
type heartbeatClient struct {
	fleet *fleet
	load  *load.Load
	last  load.Totals // at the last commandCount

	cancel context.CancelFunc // nil while no load runs
	done   chan struct{}      // closed when the load that cancel ends has ended
}

func openHeartbeatClient(ctx context.Context, config json.RawMessage) (Service, error) {
	f, cfg, err := openFleet(config, heartbeatQUIC())
	if err != nil {
		return nil, err
	}
	devices := make([]load.Device, cfg.Connections)
	err = f.dialAll(ctx, cfg.Connections, heartbeatDials, func(i int, stream *quic.Stream) error {
		devices[i] = heartbeatDevice(stream)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := load.New(devices)
	return &heartbeatClient{fleet: f, load: l, last: l.Totals()}, nil
}

func openFleet(config json.RawMessage, quicConf *quic.Config) (*fleet, clientConfig, error) {
	cfg, err := decodeConfig[clientConfig](config)
	if err != nil {
		return nil, cfg, err
	}
	authority, err := pki.Load(cfg.Authority)
	if err != nil {
		return nil, cfg, err
	}
	f, err := newFleet(cfg.Server, authority, quicConf)
	return f, cfg, err
}

var errWrongAnswer = errors.New("answer to another heartbeat")

// heartbeatDevice beats on a stream of its own.
func heartbeatDevice(stream io.ReadWriter) load.Device {
	messages := beat.NewReader(stream)
	out := make([]byte, 0, 64)
	return func(seq uint32) error {
		h := beat.New(seq)
		var err error
		if out, err = h.AppendFrame(out[:0]); err != nil {
			return err
		}
		if _, err := stream.Write(out); err != nil {
			return fmt.Errorf("send heartbeat: %w", err)
		}
		message, err := messages.Next()
		if err != nil {
			return fmt.Errorf("await answer: %w", err)
		}
		answer, err := beat.ParseAnswer(message)
		if err != nil {
			return err
		}
		if answer.Seq != seq {
			return fmt.Errorf("%w: sent %d, got %d", errWrongAnswer, seq, answer.Seq)
		}
		return nil
	}
}

func (c *heartbeatClient) Do(ctx context.Context, command string) (any, error) {
	switch command {
	case commandStart:
		return nil, c.start(ctx)
	case commandStop:
		return nil, c.stop()
	case commandCount:
		return c.count(), nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
}

func (c *heartbeatClient) start(ctx context.Context) error {
	if c.cancel != nil {
		return errRunning
	}
	ctx, c.cancel = context.WithCancel(ctx)
	done := make(chan struct{})
	c.done = done
	go func() {
		defer close(done)
		c.load.Run(ctx)
	}()
	return nil
}

// stop ends the load and waits for the heartbeats under way. If some remain unanswered the load counts as running.
func (c *heartbeatClient) stop() error {
	if c.cancel == nil {
		return nil
	}
	c.cancel()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-c.done:
		c.cancel = nil
		return nil
	case <-grace.C:
		return errStuck
	}
}

func (c *heartbeatClient) count() clientCounts {
	now := c.load.Totals()
	window := now.Since(c.last)
	c.last = now
	counts := clientCounts{
		Completed: now.Completed(), Failed: now.Failed,
		P50: window.Latency.Percentile(0.50), P99: window.Latency.Percentile(0.99),
	}
	if err := c.load.Err(); err != nil {
		counts.FirstFailure = err.Error()
	}
	return counts
}

// Close drops the connections, which ends whatever still waits for an answer.
func (c *heartbeatClient) Close() error {
	running := c.cancel != nil
	if running {
		c.cancel()
	}
	err := c.fleet.Close()
	if running {
		<-c.done
	}
	return err
}
