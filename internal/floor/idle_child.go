package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	roleIdleServer = "idle-server"
	roleIdleClient = "idle-client"
)

const (
	// idleDials is the number of devices that connect at the same time.
	idleDials = 48
	// idleExchange is how long the one exchange of a new connection may take before it is dialled again.
	idleExchange = 8 * time.Second
	// idleMessage is as long as a heartbeat.
	idleMessage = "thirty-one bytes, like one beat"
)

// heapCounts is what both sides answer to commandCollect; Heap and Stack are spans in use, in bytes.
type heapCounts struct {
	Exchanges               uint64
	Heap, Stack, Goroutines int64
}

// idleQUIC is the same on both sides: the library's defaults in everything that takes memory.
func idleQUIC() *quic.Config {
	return &quic.Config{MaxIdleTimeout: idleTimeout, MaxIncomingStreams: 4, MaxIncomingUniStreams: 2}
}

// collect frees what is garbage and returns it to the system, three times because objects with finalizers and pools
// survive the first collections.
func collect(exchanges uint64) heapCounts {
	for range 3 {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return heapCounts{
		Exchanges: exchanges, Goroutines: int64(runtime.NumGoroutine()),
		Heap: int64(m.HeapInuse), Stack: int64(m.StackInuse), //nolint:gosec // G115: memory sizes fit
	}
}

// idleServer echoes.
type idleServer struct {
	*streamServer
	exchanges atomic.Uint64
}

func openIdleServer(_ context.Context, config json.RawMessage) (Service, error) {
	s := &idleServer{}
	var err error
	if s.streamServer, err = openServer(config, idleQUIC(), s.echoAll); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *idleServer) echoAll(stream io.ReadWriter) {
	b := make([]byte, 64)
	for {
		n, err := stream.Read(b)
		if err != nil {
			return
		}
		s.exchanges.Add(1) // before the echo, which the client may act on
		if _, err := stream.Write(b[:n]); err != nil {
			return
		}
	}
}

func (s *idleServer) Do(_ context.Context, command string) (any, error) {
	switch command {
	case commandAddress:
		return s.address(), nil
	case commandCollect:
		return collect(s.exchanges.Load()), nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
}

// idleClient holds connections, each with a goroutine that waits for the server to speak, as a device would.
type idleClient struct {
	fleet     *fleet
	exchanges atomic.Uint64
	waiting   sync.WaitGroup
}

func openIdleClient(ctx context.Context, config json.RawMessage) (Service, error) {
	f, cfg, err := openFleet(config, idleQUIC())
	if err != nil {
		return nil, err
	}
	c := &idleClient{fleet: f}
	if err := f.dialAll(ctx, cfg.Connections, idleDials, c.exchange); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *idleClient) exchange(_ int, stream *quic.Stream) error {
	if err := stream.SetDeadline(time.Now().Add(idleExchange)); err != nil {
		return fmt.Errorf("bound exchange: %w", err)
	}
	if _, err := io.WriteString(stream, idleMessage); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	b := make([]byte, len(idleMessage))
	if _, err := io.ReadFull(stream, b); err != nil {
		return fmt.Errorf("await echo: %w", err)
	}
	if string(b) != idleMessage {
		return fmt.Errorf("echo of %q: %w", b, errWrongAnswer)
	}
	if err := stream.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("unbound stream: %w", err)
	}
	c.exchanges.Add(1)
	c.waiting.Go(func() {
		_, _ = stream.Read(b) // returns with an error when Close drops the connection
	})
	return nil
}

func (c *idleClient) Do(_ context.Context, command string) (any, error) {
	if command != commandCollect {
		return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
	}
	return collect(c.exchanges.Load()), nil
}

func (c *idleClient) Close() error {
	err := c.fleet.Close()
	c.waiting.Wait()
	return err
}
