package raftstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// port is a cluster port under test at "core-1" that welcomes everybody but those in strangers.
type port struct {
	*peerStream
	served    chan *peerConn // what was admitted
	strangers map[string]byte
}

func openPort(cfg *Config) *port {
	p := &port{peerStream: newPeerStream(cfg), served: make(chan *peerConn), strangers: map[string]byte{}}
	serve := func(c *peerConn) {
		select {
		case p.served <- c:
		case <-p.ctx.Done():
			_ = c.Close()
		}
	}
	p.hooks = streamHooks{
		greet: func(_ context.Context, peer string) byte { return p.strangers[peer] },
		serve: map[byte]func(*peerConn){kindRaft: serve, kindCall: serve},
	}
	p.start()
	return p
}

// streamPair is a port under test and a way to reach it as "core-2".
func streamPair(t *testing.T) (w *world, s *port, peer Config) {
	t.Helper()
	w = newWorld(t)
	cfg := w.config("core-1").withDefaults()
	return w, openPort(&cfg), w.config("core-2").withDefaults()
}

// handshake dials the stream as peer does, expecting to find the node id there.
func handshake(ctx context.Context, peer Config, id string) (*tls.Conn, error) {
	plain, err := peer.Dial(ctx, "core-1")
	if err != nil {
		return nil, err
	}
	c := tls.Client(plain, peer.ClientTLS(id))
	if err := c.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, err
	}
	if _, err := c.Write([]byte{kindCall}); err != nil {
		_ = plain.Close()
		return nil, err
	}
	greeting := make([]byte, 1)
	if _, err := io.ReadFull(c, greeting); err != nil {
		_ = plain.Close()
		return nil, err
	}
	if greeting[0] != greetWelcome {
		_ = plain.Close()
		return nil, errNotAdmitted
	}
	return c, nil
}

func TestSilentPeersBlockNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, peer := streamPair(t)
		defer func() { check(t, s.Close()) }()
		var silent []net.Conn
		start := time.Now()
		for i := range 2 * maxHostHandshakes {
			c, err := w.net.dialFrom("10.0.0.66:1")(t.Context(), "core-1")
			check(t, err)
			silent = append(silent, c)
			synctest.Wait()
			s.mu.Lock()
			if s.shaking > maxHostHandshakes {
				t.Errorf("%d handshakes of one host after %d connections", s.shaking, i+1)
			}
			s.mu.Unlock()
		}
		c, err := handshake(t.Context(), peer, "core-1")
		check(t, err)
		accepted := <-s.served
		if waited := time.Since(start); waited != 0 {
			t.Errorf("an honest peer waited %v", waited)
		}
		check(t, c.NetConn().Close())
		_ = accepted.Close()       // its farewell finds the pipe closed
		for i, c := range silent { // each is closed from the other side, at the latest after the deadline
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("silent connection %d got an answer", i)
			}
		}
		if waited := time.Since(start); waited != 10*time.Second {
			t.Errorf("silent peers were cut off after %v", waited)
		}
		for _, c := range silent {
			check(t, c.Close())
		}
	})
}

func TestPeersAreCheckedOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, peer := streamPair(t)
		defer func() { check(t, s.Close()) }()

		if _, err := handshake(t.Context(), peer, "core-3"); err == nil {
			t.Error("dialled core-3, found core-1, and was content")
		}
		stranger := newWorld(t)
		stranger.net = w.net
		foreign := stranger.config("core-2")
		foreign.ClientTLS = func(string) *tls.Config {
			c := stranger.ca.clientTLS(stranger.certs["core-2"])("core-1")
			c.RootCAs = w.ca.pool // trusts us; we do not trust it
			return c
		}
		c, err := handshake(t.Context(), foreign, "core-1")
		if err == nil { // the server's verdict comes after the client's handshake
			_, err = c.Read(make([]byte, 1))
			_ = c.NetConn().Close()
		}
		if err == nil {
			t.Error("a certificate of another authority was taken")
		}
		synctest.Wait()
		select {
		case <-s.served:
			t.Error("a refused peer was served")
		default:
		}
	})
}

// Dial goes through the same checks, and the id travels inside the target.
func TestDialChecksTheNodeID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, peer := streamPair(t)
		dialler := newPeerStream(&peer)
		go func() {
			for {
				select {
				case c := <-s.served:
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				case <-s.ctx.Done():
					return
				}
			}
		}()
		c, err := dialler.Dial(joinTarget("core-1", "core-1"), time.Second)
		check(t, err)
		check(t, c.Close())
		_, err = dialler.Dial(joinTarget("core-3", "core-1"), time.Second)
		if err == nil {
			t.Error("dialled core-3, found core-1, and was content")
		}
		// Even where the owner's TLS configuration would take anybody.
		dialler.clientTLS = func(string) *tls.Config { return peer.ClientTLS("core-1") }
		_, err = dialler.Dial(joinTarget("core-3", "core-1"), time.Second)
		wantError(t, err, errOther)
		_, err = dialler.Dial("core-1", time.Second)
		wantError(t, err, errTarget)
		check(t, dialler.Close())
		_, err = dialler.Dial(joinTarget("core-1", "core-1"), time.Second)
		if err == nil {
			t.Error("dialled through a closed stream")
		}
		check(t, s.Close())
	})
}

func TestDialGivesUpOnASilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := w.config("core-1").withDefaults()
		s := newPeerStream(&cfg)
		silent := w.net.listen("core-2")
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := silent.Accept()
			check(t, err)
			accepted <- c
		}()
		start := time.Now()
		if _, err := s.Dial(joinTarget("core-2", "core-2"), 3*time.Second); err == nil {
			t.Error("a handshake with a silent peer succeeded")
		}
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("gave up after %v", waited)
		}
		check(t, (<-accepted).Close())
		check(t, s.Close())
	})
}

// A peer has no more connections than it may; one too many costs it the oldest, not the newest.
func TestPeerConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, peer := streamPair(t)
		most := maxConnsOf[kindCall]
		var ours []*tls.Conn
		var theirs []*peerConn
		for range most + 2 {
			c, err := handshake(t.Context(), peer, "core-1")
			check(t, err)
			ours = append(ours, c)
			served := <-s.served
			theirs = append(theirs, served)
			go func() { // what serves a connection notices its end
				_, _ = served.Read(make([]byte, 1))
				_ = served.Close()
			}()
			synctest.Wait()
		}
		s.mu.Lock()
		if s.accepted != most || len(s.conns) != most {
			t.Errorf("%d connections are open, and %d counted; %d are allowed", len(s.conns), s.accepted, most)
		}
		for i, c := range theirs {
			if _, open := s.conns[c]; open != (i >= 2) {
				t.Errorf("connection %d: open %v", i, open)
			}
		}
		s.mu.Unlock()
		check(t, s.Close())
		for _, c := range ours {
			_ = c.NetConn().Close()
		}
	})
}

// The members change while a peer is being judged: a stranger is told its verdict all the same, and who is no member any more
// when the verdict falls is not welcomed.
func TestMembersChangeDuringTheGreeting(t *testing.T) {
	for _, c := range []struct {
		name    string
		verdict byte
	}{{"stranger", greetRemoved}, {"removed", greetWelcome}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				cfg, peer := w.config("core-1").withDefaults(), w.config("core-2").withDefaults()
				s, dialler := newPeerStream(&cfg), newPeerStream(&peer)
				nobody := func(string) bool { return false }
				s.hooks = streamHooks{
					greet: func(context.Context, string) byte {
						s.prune(nobody)
						return c.verdict
					},
					admits: nobody,
					serve:  map[byte]func(*peerConn){kindCall: func(*peerConn) { t.Error("a peer that is no member was served") }},
				}
				s.start()
				toldRemoved := false
				dialler.hooks.removed = func() { toldRemoved = true }
				_, err := dialler.connect(t.Context(), "core-1", "core-1", kindCall)
				wantError(t, err, errNotAdmitted)
				if toldRemoved != (c.verdict == greetRemoved) {
					t.Errorf("told that it was removed: %v", toldRemoved)
				}
				check(t, dialler.Close())
				check(t, s.Close())
			})
		})
	}
}

func TestLateHeartbeatsProveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ours, theirs := w.config("core-1").withDefaults(), w.config("core-2").withDefaults()
		ourPort, theirPort := newPeerStream(&ours), newPeerStream(&theirs)
		a, b := newIDTransport(&ours, ourPort), newIDTransport(&theirs, theirPort)
		theirPort.hooks = streamHooks{
			greet: func(context.Context, string) byte { return greetWelcome },
			serve: map[byte]func(*peerConn){kindRaft: b.serveRaft},
		}
		theirPort.start()
		self := raft.RPCHeader{ID: []byte("core-1")}
		ask := func(req *raft.AppendEntriesRequest, after time.Duration) error {
			go func() {
				rpc := <-b.Consumer()
				<-time.After(after)
				rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			}()
			return a.AppendEntries("core-2", "core-2", req, &raft.AppendEntriesResponse{})
		}
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: self, Term: 3}
		check(t, ask(heartbeat, 500*time.Millisecond))
		wantError(t, ask(heartbeat, 501*time.Millisecond), errLateAnswer)
		slowDisk := &raft.AppendEntriesRequest{RPCHeader: self, Term: 3, Entries: []*raft.Log{{Index: 1}}}
		check(t, ask(slowDisk, 5*time.Second))
		check(t, a.Close())
		check(t, b.Close())
	})
}

func TestTargets(t *testing.T) {
	for _, c := range [][2]string{{"core-1", "10.0.0.1:7"}, {"", "x"}, {"odd\nid", "[::1]:7"}} {
		id, addr, ok := splitTarget(joinTarget(raft.ServerID(c[0]), raft.ServerAddress(c[1])))
		if !ok || id != c[0] || addr != c[1] {
			t.Errorf("%q: %q, %q, %v", c, id, addr, ok)
		}
	}
}

// A listener that errs is not given up as long as it is not closed.
func TestAcceptErrorsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := w.config("core-1").withDefaults()
		flaky := &flakyListener{Listener: cfg.Listener, failures: 3}
		cfg.Listener = flaky
		s := openPort(&cfg)
		c, err := handshake(t.Context(), w.config("core-2"), "core-1")
		check(t, err)
		_ = c.NetConn().Close()
		check(t, s.Close())
	})
}

type flakyListener struct {
	net.Listener
	failures int
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, fmt.Errorf("too many open files, %d more to come", l.failures)
	}
	return l.Listener.Accept()
}
