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
	accepted bool
	once     sync.Once
}

// track makes conn known to the stream, which then closes it at the end.
func (s *peerStream) track(conn *tls.Conn, accepted bool) (*peerConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStreamClosed
	}
	if accepted && s.accepted >= maxPeerConns {
		return nil, fmt.Errorf("%d peer connections are open", s.accepted)
	}
	c := &peerConn{Conn: conn, plain: conn.NetConn(), stream: s, accepted: accepted}
	s.conns[c] = struct{}{}
	if accepted {
		s.accepted++
		s.wg.Add(1) // until Close, which raft's handler calls last of all
	}
	return c, nil
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
		s.wg.Done()
	}
}
