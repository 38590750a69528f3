package netsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// errRefused is what a dial to nobody gets.
var errRefused = errors.New("connection refused")

// window is how many bytes one direction of a stream holds before its writer waits.
const window = 256 << 10

type listener struct {
	net  *Net
	addr string
	in   chan net.Conn
	done chan struct{}
	once sync.Once
}

// Listen accepts streams at host:port.
func (n *Net) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.streams[addr]; taken {
		return nil, fmt.Errorf("listen %s: address in use", addr)
	}
	l := &listener{net: n, addr: addr, in: make(chan net.Conn), done: make(chan struct{})}
	n.streams[addr] = l
	return l, nil
}

// Dial opens a stream to host:port from a host that nothing is cut off from.
func (n *Net) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return n.DialFrom(ctx, netip.Addr{}, addr)
}

// DialFrom opens a stream from a host to host:port. While either direction between the two is cut, what is sent waits, as it
// does in TCP, and so does the dial.
func (n *Net) DialFrom(ctx context.Context, from netip.Addr, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	for n.isCut(from, to.Addr()) || n.isCut(to.Addr(), from) {
		if !pause(ctx, 100*time.Millisecond) {
			return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
		}
	}
	n.mu.Lock()
	l, ok := n.streams[addr]
	ok = ok && !n.off[from] && !n.off[to.Addr()]
	latency := n.steady(from, to.Addr())
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	}
	if latency > 0 && !pause(ctx, 2*latency) {
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
	there, back := n.newHalf(from, to.Addr()), n.newHalf(to.Addr(), from)
	client := &stream{in: back, out: there, local: streamAddr(from.String()), remote: streamAddr(addr)}
	server := &stream{in: there, out: back, local: streamAddr(addr), remote: streamAddr(from.String() + ":1")}
	select {
	case l.in <- server:
		return client, nil
	case <-l.done:
		err = errRefused
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(fmt.Errorf("dial %s: %w", addr, err), client.Close())
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *Net) isCut(from, to netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[[2]netip.Addr{from, to}]
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.streams, l.addr)
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return streamAddr(l.addr) }

type streamAddr string

func (streamAddr) Network() string  { return "tcp" }
func (a streamAddr) String() string { return string(a) }

// A segment is what one Write sent, and when it may be read.
type segment struct {
	b  []byte
	at time.Time
}

// half is one direction of a stream. All fields but the first two are guarded by the net's lock.
type half struct {
	net      *Net
	from, to netip.Addr

	sent    []segment // in order
	size    int       // of sent, in bytes
	closed  bool      // by the writer: the reader sees the end after what was sent
	broken  bool      // by the reader: writes fail
	changed chan struct{}
}

func (n *Net) newHalf(from, to netip.Addr) *half {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &half{net: n, from: from, to: to, changed: make(chan struct{})}
	n.open[h] = struct{}{}
	return h
}

// flow wakes whoever waits. The caller holds the net's lock.
func (h *half) flow() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// read waits for what was sent. It returns the channel to wait on, or how long, when there is nothing yet.
func (h *half) read(p []byte) (n int, wait <-chan struct{}, until time.Time, err error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	switch {
	case h.broken:
		return 0, nil, time.Time{}, net.ErrClosed
	case h.net.cut[[2]netip.Addr{h.from, h.to}]:
		return 0, h.changed, time.Time{}, nil
	case len(h.sent) == 0 && h.closed:
		return 0, nil, time.Time{}, io.EOF
	case len(h.sent) == 0:
		return 0, h.changed, time.Time{}, nil
	case time.Now().Before(h.sent[0].at):
		return 0, h.changed, h.sent[0].at, nil
	}
	n = copy(p, h.sent[0].b)
	h.size -= n
	if h.sent[0].b = h.sent[0].b[n:]; len(h.sent[0].b) == 0 {
		h.sent = h.sent[1:]
	}
	h.flow()
	return n, nil, time.Time{}, nil
}

func (h *half) write(p []byte) (n int, wait <-chan struct{}, err error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	switch {
	case h.closed || h.broken:
		return 0, nil, io.ErrClosedPipe
	case h.size >= window:
		return 0, h.changed, nil
	}
	n = min(len(p), window-h.size)
	h.sent = append(h.sent, segment{append([]byte(nil), p[:n]...), time.Now().Add(h.net.steady(h.from, h.to))})
	h.size += n
	h.flow()
	return n, nil, nil
}

// end closes the half from one side or the other.
func (h *half) end(byReader bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if byReader {
		h.broken = true
	} else {
		h.closed = true
	}
	if h.closed && h.broken {
		delete(h.net.open, h)
	}
	h.flow()
}

// stream is one end of a connection.
type stream struct {
	in, out       *half
	local, remote streamAddr

	mu          sync.Mutex
	read, write time.Time // deadlines; zero: none
	moved       chan struct{}
}

var _ net.Conn = (*stream)(nil)

// Read implements net.Conn.
func (s *stream) Read(p []byte) (int, error) {
	for {
		n, wait, until, err := s.in.read(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		if err := s.wait(wait, until, func() time.Time { return s.read }); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn.
func (s *stream) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, wait, err := s.out.write(p[done:])
		done += n
		if err != nil {
			return done, err
		}
		if n == 0 {
			if err := s.wait(wait, time.Time{}, func() time.Time { return s.write }); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// wait returns nil when the half changed, until has come or a deadline was moved, and an error when the deadline has passed.
func (s *stream) wait(changed <-chan struct{}, until time.Time, deadline func() time.Time) error {
	s.mu.Lock()
	if s.moved == nil {
		s.moved = make(chan struct{})
	}
	end, moved := deadline(), s.moved
	s.mu.Unlock()
	if !end.IsZero() && !time.Now().Before(end) {
		return os.ErrDeadlineExceeded
	}
	next := until
	if !end.IsZero() && (next.IsZero() || end.Before(next)) {
		next = end
	}
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-moved:
	case <-timer:
	}
	return nil
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.in.end(true)
	s.out.end(false)
	return nil
}

// LocalAddr implements net.Conn.
func (s *stream) LocalAddr() net.Addr { return s.local }

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements net.Conn.
func (s *stream) SetDeadline(t time.Time) error { return s.set(&s.read, &s.write, t) }

// SetReadDeadline implements net.Conn.
func (s *stream) SetReadDeadline(t time.Time) error { return s.set(&s.read, nil, t) }

// SetWriteDeadline implements net.Conn.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.set(&s.write, nil, t) }

func (s *stream) set(a, b *time.Time, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	*a = t
	if b != nil {
		*b = t
	}
	if s.moved != nil {
		close(s.moved)
	}
	s.moved = make(chan struct{})
	return nil
}
