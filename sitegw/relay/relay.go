// Package relay carries siblings' sessions with the core over this gateway's uplink: bytes, both ways, between a session with the
// sibling and a TCP connection to a core node. TLS runs from the sibling to the core, so nothing here can read or change what goes
// through; whoever tries breaks it.
//
// It is no proxy: the node is one of this gateway's own list, and the sibling names none. A gateway whose own uplink is relayed relays
// for nobody, so that relays form no chain.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/sibling"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Limits of what siblings can make this gateway carry.
const (
	// maxRelays is how many sessions one sibling may have: its uplink, the next one before the older one's end is noticed, and one for
	// content.
	maxRelays = 3
	piece     = 16 << 10 // bytes that lie here, each way
	dialTime  = 3 * time.Second
	maxDials  = 2 // nodes that are tried for one request: the sibling has no patience for more
	// writeTime is how long a core node that does not read can block a relay; the session that it carries gives up as soon.
	writeTime  = 10 * time.Second
	lingerTime = 5 * time.Second // for the second half to end after the first
	retryAfter = 5 * time.Second // told to siblings that are refused
)

// Config of a Server. All fields are required.
type Config struct {
	// Direct is the address of the core node with which this gateway has a session of its own; false: it has none.
	Direct func() (core string, ok bool)
	Cores  func() []string // addresses of core nodes that are tried beside it
	Dial   link.StreamDial
	Log    *slog.Logger
}

// Server relays. Its methods may be called from any goroutine.
type Server struct {
	Config
	carried atomic.Uint64 // relays, since the start
	bytes   atomic.Uint64

	mu   sync.Mutex
	open map[string]int // relays, by sibling; none is 0
}

// New makes a server.
func New(c Config) *Server { return &Server{Config: c, open: make(map[string]int)} }

// A Status is what is relayed.
type Status struct {
	Open    int    // relays
	Carried uint64 // relays that began, since the start
	Bytes   uint64 // both ways, since the start
}

// Status is what is relayed now.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := 0
	for _, n := range s.open {
		open += n
	}
	return Status{Open: open, Carried: s.carried.Load(), Bytes: s.bytes.Load()}
}

// Serve is the sibling.Handler of wire.PurposeRelay.
func (s *Server) Serve(ctx context.Context, r *sibling.Request) {
	if !s.enter(r.From) {
		r.Refuse(wire.Refuse(wire.CodeBusy, "%d relays are open", maxRelays).After(retryAfter))
		return
	}
	defer s.leave(r.From)
	out, err := s.dial(ctx)
	if err != nil {
		s.Log.Info("a sibling asked for a relay in vain", "sibling", r.From, "err", err)
		r.Refuse(wire.Refuse(wire.CodeUnavailable, "this gateway does not reach the core either").After(retryAfter))
		return
	}
	defer out.Close() //nolint:errcheck // nothing is left to be lost
	in, err := r.Accept()
	if err != nil {
		return
	}
	s.carried.Add(1)
	s.Log.Info("relay begins", "sibling", r.From, "core", out.RemoteAddr().String())
	up, down, err := s.splice(in, out)
	s.Log.Info("relay ends", "sibling", r.From, "up_bytes", up, "down_bytes", down, "err", err)
}

func (s *Server) enter(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[name] >= maxRelays {
		return false
	}
	s.open[name]++
	return true
}

func (s *Server) leave(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[name]--; s.open[name] == 0 {
		delete(s.open, name)
	}
}

// errNoUplink says that there is nothing to relay over.
var errNoUplink = errors.New("this gateway has no uplink of its own")

// dial opens a connection to a core node: the one of the uplink, or, where that does not take one over TCP, another.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	core, ok := s.Direct()
	if !ok {
		return nil, errNoUplink
	}
	all := append([]string{core}, slices.DeleteFunc(slices.Clone(s.Cores()), func(a string) bool { return a == core })...)
	var errs []error
	for _, a := range all[:min(len(all), maxDials)] {
		c, err := s.dialOne(ctx, a)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (s *Server) dialOne(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := s.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial core node: %w", err)
	}
	return c, nil
}

// A halfCloser can end its side's half of a stream.
type halfCloser interface{ CloseWrite() error }

// splice carries bytes until both halves have ended, or one has and the other one does not follow. It closes both.
func (s *Server) splice(in, out net.Conn) (up, down uint64, err error) {
	end := func() {
		out.Close() //nolint:errcheck // it is over either way
		in.Close()  //nolint:errcheck // it never fails
	}
	defer end()
	halves := make(chan error, 2)
	half := func(to, from net.Conn, n *uint64) {
		err := s.carry(to, from, n)
		if c, ok := to.(halfCloser); err != nil || !ok || c.CloseWrite() != nil {
			end()
		}
		halves <- err
	}
	go half(out, in, &up)
	go half(in, out, &down)
	err = <-halves
	late := time.AfterFunc(lingerTime, end)
	defer late.Stop()
	err = errors.Join(err, <-halves) // before the counts are read
	return up, down, err
}

// carry copies one half until it ends.
func (s *Server) carry(to, from net.Conn, n *uint64) error {
	b := make([]byte, piece)
	for {
		k, err := from.Read(b)
		if k > 0 {
			if err := to.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
				return err
			}
			if _, err := to.Write(b[:k]); err != nil {
				return err
			}
			*n += uint64(k)
			s.bytes.Add(uint64(k))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
