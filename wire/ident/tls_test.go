package ident_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
)

// pair is a connection over loopback: net.Pipe has no buffer, so that an alert that nobody reads yet would block both sides.
func pair(tb testing.TB) (client, server net.Conn) {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	fatal(tb, err)
	defer ln.Close()
	client, err = new(net.Dialer).DialContext(tb.Context(), "tcp", ln.Addr().String())
	fatal(tb, err)
	server, err = ln.Accept()
	fatal(tb, err)
	limit := time.Now().Add(30 * time.Second)
	fatal(tb, errors.Join(client.SetDeadline(limit), server.SetDeadline(limit)))
	return client, server
}

// shake runs both sides of a handshake and hands over a byte in each direction. The server's error is its own verdict.
func shake(tb testing.TB, client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	tb.Helper()
	a, b := pair(tb)
	c, s := tls.Client(a, client), tls.Server(b, server)
	ctx := tb.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer b.Close()
		one := make([]byte, 1)
		if serverErr = s.HandshakeContext(ctx); serverErr == nil {
			if _, serverErr = s.Read(one); serverErr == nil {
				_, serverErr = s.Write(one)
			}
		}
	})
	if clientErr = c.HandshakeContext(ctx); clientErr == nil {
		one := []byte{1}
		if _, clientErr = c.Write(one); clientErr == nil {
			_, clientErr = c.Read(one)
		}
	}
	state = c.ConnectionState()
	a.Close()
	wg.Wait()
	return state, clientErr, serverErr
}

// Every client at every port with every protocol: only the cells that the product means connect.
func TestRoleMatrix(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	clients := f.Clients(now)
	for portName, port := range f.Ports() {
		server := f.Endpoint(f.Certificate(port.Server, now)).Server(port.Protocols...)
		for name, c := range clients {
			for _, alpn := range identtest.ALPNs() {
				state, _, err := shake(t, c.Raw(alpn), server)
				if want := port.Admits(c.Role, alpn); (err == nil) != want {
					t.Errorf("%s port, %s, protocol %q: got %v, want admitted %v", portName, name, alpn, err, want)
				}
				if err == nil && (state.NegotiatedProtocol != alpn || state.Version != tls.VersionTLS13) {
					t.Errorf("%s port, %s: speaks %q, version %x", portName, name, state.NegotiatedProtocol, state.Version)
				}
			}
		}
	}
}

func TestProtocolNames(t *testing.T) {
	f := identtest.New(t, "plant", made)
	for port, alpn := range map[string]string{"agent": wire.ALPNAgent, "uplink": wire.ALPNUplink} {
		if got := f.Ports()[port].Protocols[0].ALPN; got != alpn {
			t.Errorf("%s port speaks %q, want %q", port, got, alpn)
		}
	}
	if got := f.Ports()["agent"].Protocols[2].ALPN; got != wire.ALPNSite {
		t.Errorf("siblings speak %q, want %q", got, wire.ALPNSite)
	}
	if got := ident.FirstContact(f.Pin(), ident.RoleCore, time.Now).NextProtos; len(got) != 1 || got[0] != wire.ALPNEnroll {
		t.Errorf("first contact speaks %q, want %q", got, wire.ALPNEnroll)
	}
}

// Who asks for two protocols gets one, with that one's rules: asking for enrollment too must not open the other without a
// certificate.
func TestTwoProtocolsAtOnce(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	port := f.Ports()["agent"]
	server := f.Endpoint(f.Certificate(port.Server, now)).Server(port.Protocols...)
	for _, order := range [][]string{{wire.ALPNEnroll, wire.ALPNAgent}, {wire.ALPNAgent, wire.ALPNEnroll}} {
		tc := identtest.Client{}.Raw("")
		tc.NextProtos = order
		if state, _, err := shake(t, tc, server); err == nil && state.NegotiatedProtocol != wire.ALPNEnroll {
			t.Errorf("%v: a client without certificate speaks %s", order, state.NegotiatedProtocol)
		}
	}
}

func TestNoOldTLS(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	port := f.Ports()["agent"]
	tc := f.Clients(now)["device"].Raw(wire.ALPNAgent)
	tc.MaxVersion = tls.VersionTLS12
	if _, _, err := shake(t, tc, f.Endpoint(f.Certificate(port.Server, now)).Server(port.Protocols...)); err == nil {
		t.Error("TLS 1.2 was admitted")
	}
}

// There is nothing to resume: every session is verified from the start.
func TestNoResumption(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	for portName, port := range f.Ports() {
		server := f.Endpoint(f.Certificate(port.Server, now)).Server(port.Protocols...)
		for _, p := range port.Protocols {
			tc := identtest.Client{}.Raw(p.ALPN)
			if len(p.Roles) > 0 {
				tc = f.Clients(now)[string(p.Roles[0])].Raw(p.ALPN)
			}
			tc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			tc.ServerName = "same"
			for dial := range 2 {
				state, _, err := shake(t, tc, server)
				if err != nil || state.DidResume {
					t.Errorf("%s port, %s, dial %d: resumed %v, %v", portName, p.ALPN, dial, state.DidResume, err)
				}
			}
			if s, ok := tc.ClientSessionCache.Get("same"); ok && s != nil {
				t.Errorf("%s port, %s: a ticket was issued", portName, p.ALPN)
			}
		}
	}
}

// A renewal reaches a listener that keeps running.
func TestRenewedCertificateIsPresented(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	port := f.Ports()["agent"]
	var current atomic.Pointer[tls.Certificate]
	e := f.Endpoint(nil)
	e.Certificate = current.Load
	server := e.Server(port.Protocols...)
	for _, alpn := range []string{wire.ALPNAgent, wire.ALPNEnroll} {
		for range 2 {
			want := f.Certificate(port.Server, now)
			current.Store(want)
			state, _, err := shake(t, f.Clients(now)["device"].Raw(alpn), server)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(state.PeerCertificates[0].Raw, want.Certificate[0]) {
				t.Errorf("%s: not the newest certificate was shown", alpn)
			}
			if wantLen := map[string]int{wire.ALPNAgent: 2, wire.ALPNEnroll: 3}[alpn]; len(state.PeerCertificates) != wantLen {
				t.Errorf("%s: chain of %d certificates, want %d", alpn, len(state.PeerCertificates), wantLen)
			}
			if len(want.Certificate) != 2 {
				t.Errorf("%s: the stored chain grew", alpn)
			}
		}
	}
}

// A side without a certificate fails its handshakes; it does not fail itself.
func TestNoCertificateYet(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	port := f.Ports()["agent"]
	device := f.Clients(now)["device"]
	bare := f.Endpoint(nil)
	for _, p := range port.Protocols {
		if _, _, err := shake(t, device.Raw(p.ALPN), bare.Server(port.Protocols...)); err == nil {
			t.Errorf("%s: a listener without certificate connects", p.ALPN)
		}
	}
	server := f.Endpoint(f.Certificate(port.Server, now)).Server(port.Protocols...)
	if _, _, err := shake(t, bare.Client(wire.ALPNAgent, ident.RoleGateway, nil), server); err == nil {
		t.Error("a client without certificate was admitted")
	}
}

func TestClientChecksTheServer(t *testing.T) {
	now := time.Now()
	f, twin := identtest.New(t, "plant", now.AddDate(-2, 0, 0)), identtest.New(t, "plant", now.AddDate(-2, 0, 0))
	device := f.Endpoint(f.Clients(now)["device"].Cert)
	gateway := ident.Gateway("plant", "berlin", "a")
	refuse := errors.New("not this one")
	for name, tc := range map[string]struct {
		cert   *tls.Certificate
		accept func(ident.Peer) error
		ok     bool
	}{
		"gateway":                    {f.Certificate(gateway, now), nil, true},
		"gateway that is not wanted": {f.Certificate(gateway, now), func(ident.Peer) error { return refuse }, false},
		"core node":                  {f.Certificate(ident.Core("plant", "c1"), now), nil, false},
		"device":                     {f.Certificate(ident.Device("plant", ident.NewDeviceID()), now), nil, false},
		"another root's":             {twin.Certificate(gateway, now), nil, false},
		"expired":                    {f.Certificate(gateway, now.AddDate(-1, 0, 0)), nil, false},
		"expired and accepted":       {f.Certificate(gateway, now.AddDate(-1, 0, 0)), func(p ident.Peer) error { return map[bool]error{false: refuse}[p.Expired] }, true},
		"not yet valid":              {f.Certificate(gateway, now.AddDate(1, 0, 0)), nil, true},
	} {
		anybody := &tls.Config{Certificates: []tls.Certificate{*tc.cert}, NextProtos: []string{wire.ALPNAgent}, ClientAuth: tls.RequestClientCert}
		_, err, _ := shake(t, device.Client(wire.ALPNAgent, ident.RoleGateway, tc.accept), anybody)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPIServerIsApart(t *testing.T) {
	now := time.Now()
	f := identtest.New(t, "plant", now)
	cert := f.Certificate(ident.API("plant", "c1"), now)
	server := ident.APIServer(func() *tls.Certificate { return cert })
	if server.MinVersion != tls.VersionTLS13 || server.ClientAuth != tls.NoClientCert {
		t.Error("the API asks for certificates or takes old versions")
	}
	state, _, err := shake(t, identtest.Client{}.Raw(""), server)
	if err != nil || !bytes.Equal(state.PeerCertificates[0].Raw, cert.Certificate[0]) {
		t.Errorf("%v", err)
	}
	// Its certificate is good for no port of the fleet's own links: the client's side of the role matrix.
	for _, role := range []ident.Role{ident.RoleGateway, ident.RoleCore} {
		if _, err, _ := shake(t, f.Endpoint(nil).Client("", role, nil), server); err == nil {
			t.Errorf("the API's certificate passes as a %s's", role)
		}
	}
}

// spy records what a client writes.
type spy struct {
	net.Conn
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *spy) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.out.Write(b)
	s.mu.Unlock()
	return s.Conn.Write(b)
}

// applicationRecords counts the TLS records that carry data or an encrypted handshake.
func applicationRecords(b []byte) (n int) {
	for len(b) >= 5 {
		if b[0] == 23 {
			n++
		}
		b = b[min(len(b), 5+(int(b[3])<<8|int(b[4]))):]
	}
	return n
}

// A client that has only a pin says nothing but its hello, and an alert, to anybody who is not of the pinned fleet.
func TestFirstContact(t *testing.T) {
	now := time.Now()
	f, twin := identtest.New(t, "plant", now.AddDate(-2, 0, 0)), identtest.New(t, "plant", now.AddDate(-2, 0, 0))
	gateway := ident.Gateway("plant", "berlin", "a")
	with := func(f *identtest.Fleet, id ident.ID, at time.Time, root []byte) tls.Certificate {
		c := *f.Certificate(id, at)
		if root != nil {
			c.Certificate = append(c.Certificate, root)
		}
		return c
	}
	for name, tc := range map[string]struct {
		cert tls.Certificate
		ok   bool
	}{
		"as it should be":           {with(f, gateway, now, f.Root.Cert.Raw), true},
		"not yet valid":             {with(f, gateway, now.AddDate(1, 0, 0), f.Root.Cert.Raw), true},
		"wrong root":                {with(twin, gateway, now, twin.Root.Cert.Raw), false},
		"right root, wrong chain":   {with(twin, gateway, now, f.Root.Cert.Raw), false},
		"without the root":          {with(f, gateway, now, nil), false},
		"wrong role":                {with(f, ident.Core("plant", "c1"), now, f.Root.Cert.Raw), false},
		"device":                    {with(f, ident.Device("plant", ident.NewDeviceID()), now, f.Root.Cert.Raw), false},
		"expired":                   {with(f, gateway, now.AddDate(-1, 0, 0), f.Root.Cert.Raw), false},
		"name of another fleet":     {with(f, ident.Gateway("field", "berlin", "a"), now, f.Root.Cert.Raw), false},
		"the root alone, as a leaf": {tls.Certificate{Certificate: [][]byte{f.Root.Cert.Raw}, PrivateKey: f.Root.Key}, false},
	} {
		server := &tls.Config{Certificates: []tls.Certificate{tc.cert}, NextProtos: []string{wire.ALPNEnroll}}
		a, b := pair(t)
		out := &spy{Conn: a}
		client := tls.Client(out, ident.FirstContact(f.Pin(), ident.RoleGateway, time.Now))
		var wg sync.WaitGroup
		wg.Go(func() {
			defer b.Close()
			s := tls.Server(b, server)
			if s.HandshakeContext(t.Context()) == nil {
				s.Read(make([]byte, 100)) //nolint:errcheck // whether it got anything is asked of the client's side
			}
		})
		_, err := client.Write([]byte("the secret"))
		out.mu.Lock()
		records := applicationRecords(out.out.Bytes())
		out.mu.Unlock()
		a.Close()
		wg.Wait()
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		// After a good handshake: Finished and the data. After a bad one: the alert.
		if want := map[bool]int{true: 2, false: 1}[tc.ok]; records != want {
			t.Errorf("%s: %d encrypted records, want %d", name, records, want)
		}
		if !tc.ok && !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", name, err)
		}
	}
}
