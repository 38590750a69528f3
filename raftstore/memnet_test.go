package raftstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// memNet is a network of pipes between named hosts. A host that is cut reaches nobody and is reached by nobody. A muted
// direction swallows what is sent, as a network does that loses every packet one way.
type memNet struct {
	mu        sync.Mutex
	muted     map[[2]string]bool // from, to
	listeners map[string]*memListener
	conns     map[*memConn]struct{}
	cut       map[string]bool
}

func newMemNet() *memNet {
	return &memNet{listeners: make(map[string]*memListener), conns: make(map[*memConn]struct{}), cut: make(map[string]bool), muted: make(map[[2]string]bool)}
}

type memListener struct {
	net   *memNet
	addr  peerAddr
	queue chan net.Conn
	once  sync.Once
	done  chan struct{}
}

type memConn struct {
	net.Conn
	net           *memNet
	local, remote peerAddr
	lossy         bool // guarded by net.mu: bytes were swallowed
}

func (c *memConn) Write(p []byte) (int, error) {
	c.net.mu.Lock()
	muted := c.net.muted[[2]string{string(c.local), string(c.remote)}]
	c.lossy = c.lossy || muted
	c.net.mu.Unlock()
	if muted {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// mute swallows everything from one host to another, or stops doing so. A connection that lost bytes does not come back.
func (n *memNet) mute(from, to string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.muted[[2]string{from, to}] = on
	for c := range n.conns {
		if !on && c.lossy {
			_ = c.Conn.Close()
		}
	}
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }
func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

var errUnreachable = errors.New("memnet: unreachable")

func (n *memNet) listen(addr string) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{net: n, addr: peerAddr(addr), queue: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Addr() net.Addr { return l.addr }
func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (n *memNet) dialFrom(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.mu.Lock()
		l, ok := n.listeners[addr]
		if !ok || n.cut[from] || n.cut[addr] {
			n.mu.Unlock()
			return nil, errUnreachable
		}
		if n.muted[[2]string{from, addr}] || n.muted[[2]string{addr, from}] {
			n.mu.Unlock()
			<-ctx.Done() // half of the TCP handshake gets lost
			return nil, errUnreachable
		}
		a, b := net.Pipe()
		ours := &memConn{Conn: a, net: n, local: peerAddr(from), remote: peerAddr(addr)}
		theirs := &memConn{Conn: b, net: n, local: peerAddr(addr), remote: peerAddr(from)}
		n.conns[ours], n.conns[theirs] = struct{}{}, struct{}{}
		n.mu.Unlock()
		select {
		case l.queue <- theirs:
			return ours, nil
		case <-l.done:
		case <-ctx.Done():
		}
		return nil, errors.Join(errUnreachable, ours.Close(), theirs.Close())
	}
}

// isolate cuts host off, or lets it back.
func (n *memNet) isolate(host string, cut bool) {
	n.mu.Lock()
	n.cut[host] = cut
	var ended []*memConn
	for c := range n.conns {
		if cut && (string(c.local) == host || string(c.remote) == host) {
			ended = append(ended, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ended {
		_ = c.Conn.Close()
	}
}

// authority issues certificates whose common name is the node's id.
type authority struct {
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	check(tb, err)
	cert, err := x509.ParseCertificate(der)
	check(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{pool: pool, cert: cert, key: key}
}

func (a *authority) issue(tb testing.TB, id string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, DNSNames: []string{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	check(tb, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool,
	}
}

func (a *authority) clientTLS(cert tls.Certificate) func(string) *tls.Config {
	return func(id string) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: a.pool, ServerName: id}
	}
}
