package linktest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// inFlight is how many pieces of a stream are on their way, each way, before the writer waits.
const inFlight = 256

// Listen accepts streams at host:port until the test ends.
func (n *Net) Listen(addr string) (net.Listener, error) {
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &listener{net: n, addr: at, in: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	n.streams[at.String()] = l
	n.mu.Unlock()
	n.t.Cleanup(func() { l.Close() }) //nolint:errcheck // it returns none
	return l, nil
}

type listener struct {
	net  *Net
	addr net.Addr
	in   chan net.Conn
	done chan struct{}
	once sync.Once
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
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.streams[l.addr.String()] == l {
			delete(l.net.streams, l.addr.String())
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// A conn is an end of a stream that knows its addresses.
type conn struct {
	net.Conn
	local, remote net.Addr
}

func (c conn) LocalAddr() net.Addr  { return c.local }
func (c conn) RemoteAddr() net.Addr { return c.remote }

// Dial opens a stream to a listener, which breaks when the test ends. One to nobody, or through a cut, takes until ctx ends.
func (n *Net) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	l, ok := n.streams[addr]
	ok = ok && !n.dark[addr]
	n.mu.Unlock()
	if !ok {
		<-ctx.Done()
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
	here, out := net.Pipe()
	in, there := net.Pipe()
	from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 250), Port: 1}
	select {
	case l.in <- conn{there, l.addr, from}:
	case <-l.done:
		return nil, fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
	var wg sync.WaitGroup
	n.t.Cleanup(func() {
		defer wg.Wait()
		n.Cut(l.addr, false)
		for _, c := range []net.Conn{here, there} {
			c.Close() //nolint:errcheck // a pipe
		}
	})
	wg.Go(func() { n.carry(addr, out, in) })
	wg.Go(func() { n.carry(addr, in, out) })
	return conn{here, from, l.addr}, nil
}

type piece struct {
	b   []byte
	due time.Time
}

// carry takes what is written at one end to the other one, after the latency and not through a cut.
func (n *Net) carry(addr string, from, to net.Conn) {
	defer to.Close() //nolint:errcheck // a pipe
	pieces := make(chan piece, inFlight)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer from.Close() //nolint:errcheck // a pipe
		for p := range pieces {
			wait(time.Until(p.due))
			for n.isDark(addr) {
				wait(100 * time.Millisecond)
			}
			if _, err := to.Write(p.b); err != nil {
				return
			}
		}
	}()
	defer func() { <-done }() // the end arrives behind what was sent
	defer close(pieces)
	for buf := make([]byte, 1<<10); ; {
		k, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case pieces <- piece{append([]byte(nil), buf[:k]...), time.Now().Add(Latency)}:
		case <-done:
			return
		}
	}
}

func wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

func (n *Net) isDark(addr string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dark[addr]
}
