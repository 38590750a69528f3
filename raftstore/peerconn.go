package raftstore

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
)

// peerConn is a TLS connection that its stream knows of until it is closed.
type peerConn struct {
	*tls.Conn
	plain    net.Conn // under Conn; closing it never blocks, while tls.Conn.Close may wait to send its farewell
	stream   *peerStream
	peer     string // the verified id of the other side
	kind     byte   // kindRaft or kindCall; on accepted connections
	accepted bool
	open     bool   // guarded by stream.mu: the peer was admitted, or admitted this node
	order    uint64 // the higher, the younger
	once     sync.Once
}

// track makes c known to the stream, which closes it at the end, or as soon as its peer is no member. A peer that has as many
// accepted connections of this kind as it may have loses the oldest: after a crash it comes back while its old ones
// still look alive.
func (s *peerStream) track(c *peerConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errStreamClosed
	}
	if c.accepted {
		if oldest, full := s.oldest(c.peer, c.kind); full {
			_ = oldest.plain.Close() // its owner notices and closes the rest
		}
		if s.accepted >= maxPeerConns {
			return fmt.Errorf("%d peer connections are open", s.accepted)
		}
		s.accepted++
	}
	c.stream = s
	s.opened++
	c.order = s.opened
	s.conns[c] = struct{}{}
	return nil
}

// oldest returns the oldest accepted connection of a kind from peer, and whether there may be no more. The caller holds mu.
func (s *peerStream) oldest(peer string, kind byte) (oldest *peerConn, full bool) {
	count := 0
	for c := range s.conns {
		if !c.accepted || c.peer != peer || c.kind != kind {
			continue
		}
		count++
		if oldest == nil || c.order < oldest.order {
			oldest = c
		}
	}
	return oldest, count > 0 && count >= maxConnsOf[kind]
}

// Close implements net.Conn.
func (c *peerConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.stream.forget(c) })
	return err
}

func (s *peerStream) forget(c *peerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.accepted {
		s.accepted--
	}
}

// judged notes that the peer of an accepted connection is to be welcomed. It says whether that still holds: a removal before it
// shows in admits, and one after it finds the connection.
func (s *peerStream) judged(c *peerConn) bool {
	s.mu.Lock()
	c.open = true
	s.mu.Unlock()
	return s.hooks.admits == nil || s.hooks.admits(c.peer)
}

// prune closes the connections, of both directions, whose peer is not admitted any more. Those that are still being judged it
// leaves alone: a stranger's must live until it was told why it is refused, or a node that was removed would take the end of
// the connection for an accident. It does not block.
func (s *peerStream) prune(admits func(id string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.open && !admits(c.peer) {
			s.logger.Info("connection closed, the peer is no member", "peer", c.peer)
			_ = c.plain.Close() // its owner notices and closes the rest
			if !c.accepted {
				delete(s.conns, c) // raft may keep it for later, and will never use it
			}
		}
	}
}
