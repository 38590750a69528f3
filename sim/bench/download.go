package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/pki"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

const (
	// downloadChunk is the usual size of a chunk, in bytes.
	downloadChunk = 64 << 10
	// downloaders is how many devices download at a time, where memory is measured, each in the largest chunks.
	downloaders = 16
)

// downloads measures how fast a device gets what is cached at its site: incompressible chunks out of the gateway's cache, each held
// against its digest, against a stream of QUIC that carries as many bytes from memory to a reader who hashes them.
func downloads(ctx context.Context, b *bench) (err error) {
	chunks, large, err := b.world.cacheChunks(ctx, b.size.downloaded)
	if err != nil {
		return err
	}
	raw, err := startRaw(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.close()) }()
	devices, _, err := readRegister(b.world.register(), 0, downloaders)
	if err != nil {
		return err
	}
	tr, to, err := dialler(ctx, b.world.listen)
	if err != nil {
		return err
	}
	defer tr.Close() //nolint:errcheck // what it carried has arrived
	s, err := dialContent(ctx, tr, to, devices[0])
	if err != nil {
		return err
	}
	defer s.Close()
	var pairs []downloadPair
	for range b.size.downloadRounds {
		foreign, err := proc.StartForeign(os.Getpid(), b.world.gateway.PID(), raw.child.PID())
		if err != nil {
			return err
		}
		var p downloadPair
		if p.floor, err = timedDownload(func() error { return raw.read(ctx, len(chunks)) }); err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		if p.own, err = timedDownload(func() error { return download(s, chunks) }); err != nil {
			return err
		}
		if p.foreign, err = foreign.Share(); err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	reportDownloads(b, pairs, len(chunks))
	s.Close()
	return downloadMemory(ctx, b, tr, to, devices, large)
}

// downloadPair is one download of each of the two.
type downloadPair struct {
	floor, own time.Duration
	foreign    float64
}

func timedDownload(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}

func reportDownloads(b *bench, pairs []downloadPair, chunks int) {
	quiet := quieter(pairs, func(p downloadPair) float64 { return p.foreign })
	rate := func(d time.Duration) float64 { return float64(chunks) * downloadChunk / mib / d.Seconds() }
	low := median(quiet, func(p downloadPair) float64 { return rate(p.floor) })
	own := median(quiet, func(p downloadPair) float64 { return rate(p.own) })
	ratio := func(p downloadPair) float64 { return p.floor.Seconds() / p.own.Seconds() }
	worst, best := extremes(quiet, ratio)
	b.add("download.floor_rate", low, "MiB/s", fmt.Sprintf("raw quic-go and SHA-256, %d pieces of %d KiB from memory", chunks, downloadChunk/kib))
	b.add("download.rate", own, "MiB/s", "out of the gateway's cache, its own checksums included")
	b.judge(verdict{
		name: "download of cached chunks", target: "at least 60 % of the floor", unit: "MiB/s", floor: low, own: own, ratio: median(quiet, ratio), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("one device; median of the quieter %d of %d pairs, %.2f to %.2f", len(quiet), len(pairs), worst, best),
	})
}

// cacheChunks gives the gateway a past: n chunks of the usual size in its cache, and some of the largest.
func (w *world) cacheChunks(ctx context.Context, n int) (chunks, large []wire.Digest, err error) {
	if err := w.stopGateway(); err != nil {
		return nil, nil, err
	}
	c := cache.Open(cache.Config{Dir: filepath.Join(w.dir, "gateway", "content"), Log: slog.New(slog.DiscardHandler)})
	fill := func(n, size int) (out []wire.Digest, err error) {
		for range n {
			data := make([]byte, size)
			if _, err := rand.Read(data); err != nil {
				return nil, fmt.Errorf("random bytes: %w", err)
			}
			d := wire.DigestOf(data)
			if err := c.Put(cache.Key{Kind: wire.ContentChunk, Digest: d}, wire.CodecRaw, data); err != nil {
				return nil, err
			}
			out = append(out, d)
		}
		return out, nil
	}
	if chunks, err = fill(n, downloadChunk); err == nil {
		large, err = fill(wire.MaxFetches, wire.MaxChunk)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := w.startGateway(ctx, proc.AnyCPU); err != nil {
		return nil, nil, err
	}
	return chunks, large, rest(ctx, w.settle)
}

// dialContent opens a device's session for content.
func dialContent(ctx context.Context, tr *link.Transport, to net.Addr, d *device) (*link.Session, error) {
	return tr.Dial(ctx, to, d.end.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{Limits: link.ContentLimits, KeepAlive: keepAlive})
}

// download fetches chunks, with as many questions under way as may be.
func download(s *link.Session, chunks []wire.Digest) error {
	ask := func(i int) error {
		if i >= len(chunks) {
			return nil
		}
		return s.Send(wire.TypeFetch, wire.Fetch{Capability: wire.Capability, Kind: wire.ContentChunk, Digest: chunks[i]})
	}
	for i := range wire.MaxFetches {
		if err := ask(i); err != nil {
			return err
		}
	}
	for i, want := range chunks {
		m, err := expect[wire.Blob](s, wire.TypeBlob)
		if err != nil {
			return err
		}
		if m.Code != wire.CodeNone || wire.DigestOf(m.Data) != want {
			return fmt.Errorf("chunk %d: %v %s, %d bytes: %w", i, m.Code, m.Detail, len(m.Data), wire.ErrMalformed)
		}
		if err := ask(i + wire.MaxFetches); err != nil {
			return err
		}
	}
	return nil
}

// downloadMemory measures what downloads under way take of the gateway's memory: devices that asked for as much as they may, of the
// largest chunks, and do not read, so that all that can lie at the gateway does.
func downloadMemory(ctx context.Context, b *bench, tr *link.Transport, to net.Addr, devices []*device, chunks []wire.Digest) error {
	if err := rest(ctx, b.size.settle); err != nil {
		return err
	}
	before, err := holdings(ctx, b.world.gateway)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	sessions := make([]*link.Session, len(devices))
	for i, d := range devices {
		g.Go(func() (err error) {
			if sessions[i], err = dialContent(gctx, tr, to, d); err != nil {
				return err
			}
			for _, c := range chunks {
				if err := sessions[i].Send(wire.TypeFetch, wire.Fetch{Capability: wire.Capability, Kind: wire.ContentChunk, Digest: c}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	if err := rest(ctx, b.size.settle); err != nil {
		return err
	}
	during, err := holdings(ctx, b.world.gateway)
	if err != nil {
		return err
	}
	each := func(after int64) float64 { return float64(after-before.rss) / float64(len(devices)) / kib }
	b.add("download.memory", each(during.rss), "KiB", fmt.Sprintf("of the gateway, per download under way, %d of them, that is not read; after a collection", len(devices)))
	b.add("download.memory_uncollected", each(during.loose), "KiB", "the same before the collection: what the machine sees")
	b.judge(verdict{
		name: "gateway memory per download", target: "at most 1024 KiB", unit: "KiB", own: each(during.rss), ratio: each(during.rss) / kib, limit: 1,
		note: "resident, after a collection",
	})
	return nil
}

// rawConfig is the floor's sender: a QUIC listener that sends pieces from memory on the first stream of each connection.
type rawConfig struct{ Authority pki.Material }

// rawSender is it at work.
type rawSender struct {
	udp *net.UDPConn
	tr  *quic.Transport
	ln  *quic.Listener
	g   errgroup.Group
}

// commandAddress answers with the address of the floor's sender.
const commandAddress = "address"

func openSender(_ context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[rawConfig](config)
	if err != nil {
		return nil, err
	}
	authority, err := pki.Load(cfg.Authority)
	if err != nil {
		return nil, err
	}
	tc, err := authority.ServerTLS()
	if err != nil {
		return nil, err
	}
	r := new(rawSender)
	if r.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, fmt.Errorf("open udp socket on loopback: %w", err)
	}
	r.tr = &quic.Transport{Conn: r.udp}
	if r.ln, err = r.tr.Listen(tc, &quic.Config{}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for quic: %w", err), r.Close())
	}
	r.g.Go(r.accept)
	return r, nil
}

func (r *rawSender) accept() error {
	for {
		c, err := r.ln.Accept(context.Background())
		if err != nil {
			return nil //nolint:nilerr // closed
		}
		r.g.Go(func() error { r.send(c); return nil })
	}
}

// send answers each byte that comes with a piece.
func (r *rawSender) send(c *quic.Conn) {
	s, err := c.AcceptStream(context.Background())
	if err != nil {
		return
	}
	piece, asked := make([]byte, downloadChunk), make([]byte, 1)
	if _, err := rand.Read(piece); err != nil {
		return
	}
	for {
		if _, err := io.ReadFull(s, asked); err != nil {
			return
		}
		if _, err := s.Write(piece); err != nil {
			return
		}
	}
}

// Do implements floor.Service.
func (r *rawSender) Do(_ context.Context, command string) (any, error) {
	if command == commandAddress {
		return r.udp.LocalAddr().String(), nil
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, command)
}

// Close implements floor.Service.
func (r *rawSender) Close() error {
	var errs []error
	if r.ln != nil {
		errs = append(errs, r.ln.Close())
	}
	errs = append(errs, r.tr.Close(), r.udp.Close())
	return errors.Join(append(errs, r.g.Wait())...)
}

// rawReader is the floor's other end.
type rawReader struct {
	child *floor.Child
	conn  *quic.Conn
	s     *quic.Stream
}

func startRaw(ctx context.Context) (_ *rawReader, err error) {
	authority, err := pki.New()
	if err != nil {
		return nil, err
	}
	material, err := authority.Material()
	if err != nil {
		return nil, err
	}
	tc, err := authority.DeviceTLS(0)
	if err != nil {
		return nil, err
	}
	r := new(rawReader)
	if r.child, err = floor.StartChild(ctx, floor.ChildConfig{Role: roleRaw, CPU: proc.AnyCPU, Config: rawConfig{material}}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	var addr string
	if err := r.child.Ask(ctx, commandAddress, &addr); err != nil {
		return nil, err
	}
	if r.conn, err = quic.DialAddr(ctx, addr, tc, &quic.Config{}); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if r.s, err = r.conn.OpenStreamSync(ctx); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return r, nil
}

// read reads n pieces and hashes them, with as many asked for as in a download.
func (r *rawReader) read(_ context.Context, n int) error {
	piece := make([]byte, downloadChunk)
	if _, err := r.s.Write(make([]byte, min(n, wire.MaxFetches))); err != nil {
		return err
	}
	for i := range n {
		if _, err := io.ReadFull(r.s, piece); err != nil {
			return err
		}
		sha256.Sum256(piece)
		if i+wire.MaxFetches < n {
			if _, err := r.s.Write([]byte{1}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rawReader) close() error {
	if r.conn != nil {
		r.conn.CloseWithError(0, "") //nolint:errcheck // it is over
	}
	return r.child.Close()
}
