package sim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/agent/devstate"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// transport opens a socket on a host of its own, closed with the test.
func (p *plant) transport(host netip.Addr) *link.Transport {
	p.t.Helper()
	c, err := p.Net.ListenPacket(netip.AddrPortFrom(host, 0))
	p.must(err)
	return link.NewTransport(c, nil)
}

func udp(addr string) net.Addr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

// peerTLS is a client that shows cert, or none, and admits any server: it is the server's judgement that is tested.
func peerTLS(cert *tls.Certificate, alpn string) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// TestOnlyThePairsOfTheDesignConnect holds every identity against every port and protocol.
func TestOnlyThePairsOfTheDesignConnect(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 30*time.Second, func(p *plant) {
		device, err := credential.Load(filepath.Join(p.Dir, "agent-1"))
		p.must(err)
		gateway, err := credential.Load(filepath.Join(p.Dir, "gw-a"))
		p.must(err)
		pair := func(name string) *tls.Certificate {
			c, err := tls.LoadX509KeyPair(filepath.Join(p.Dir, "core-1", name+".crt"), filepath.Join(p.Dir, "core-1", name+".key"))
			p.must(err)
			return &c
		}
		stranger, err := strangerCert()
		p.must(err)
		who := map[string]*tls.Certificate{
			"device": device.Certificate(), "gateway": gateway.Certificate(), "core": pair("node"), "api": pair("api"), "nobody": nil, "stranger": stranger,
		}
		// The enrollment protocol asks nobody for a certificate; what it admits is decided by the token.
		everybody := []string{"device", "gateway", "core", "api", "nobody", "stranger"}
		ports := []struct {
			addr, alpn string
			admits     []string
		}{
			{p.gw.Addr.String(), wire.ALPNAgent, []string{"device"}},
			{p.gw.Addr.String(), wire.ALPNUplink, nil},
			{p.gw.Addr.String(), wire.ALPNEnroll, everybody},
			{p.gw.Addr.String(), wire.ALPNSite, []string{"gateway"}}, // whether it is a sibling is decided behind it
			{uplinkAddr, wire.ALPNSite, nil},
			{uplinkAddr, wire.ALPNUplink, []string{"gateway"}},
			{uplinkAddr, wire.ALPNAgent, nil},
			{uplinkAddr, wire.ALPNEnroll, everybody},
			{uplinkAddr, "holdfast-cluster/1", nil},
		}
		tr := p.transport(p.host())
		defer tr.Close()
		for _, port := range ports {
			for name, cert := range who {
				for _, carrier := range link.Carriers() {
					got := admitted(p.ctx, p.opener(tr, carrier), port.addr, peerTLS(cert, port.alpn))
					if want := slices.Contains(port.admits, name); got != want {
						t.Errorf("%s at %s as %s over %v: admitted %v, want %v", name, port.addr, port.alpn, carrier, got, want)
					}
				}
			}
		}
		for _, alpn := range []string{"holdfast-cluster/1", wire.ALPNUplink, wire.ALPNAgent} {
			for name, cert := range who {
				got := admittedTCP(p.ctx, p.Net.Dial, clusterAddr, peerTLS(cert, alpn))
				if want := name == "core" && alpn == "holdfast-cluster/1"; got != want {
					t.Errorf("%s at the cluster port as %s: admitted %v, want %v", name, alpn, got, want)
				}
			}
		}
		p.want(0, "online", "")
	})
}

// strangerCert is a certificate for a core node of this fleet's name, under another root.
func strangerCert() (*tls.Certificate, error) {
	rootKey, err := ident.NewKey()
	if err != nil {
		return nil, err
	}
	root, err := ident.NewRoot("sim", rootKey, time.Now())
	if err != nil {
		return nil, err
	}
	caKey, err := ident.NewKey()
	if err != nil {
		return nil, err
	}
	ca, err := root.Issuing("sim", ident.RoleCore, caKey, time.Now())
	if err != nil {
		return nil, err
	}
	key, err := ident.NewKey()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Issue(ident.Leaf{ID: ident.Core("sim", "core-1"), Public: key.Public(), Now: time.Now()})
	return &tls.Certificate{Certificate: [][]byte{leaf, ca.Cert.Raw, root.Cert.Raw}, PrivateKey: key}, err
}

// An opener opens a session over one of the carriers.
type opener func(ctx context.Context, addr string, tc *tls.Config) (*link.Session, error)

func (p *plant) opener(tr *link.Transport, c link.Carrier) opener {
	if c == link.QUIC {
		return func(ctx context.Context, addr string, tc *tls.Config) (*link.Session, error) {
			return tr.Dial(ctx, udp(addr), tc, link.Options{})
		}
	}
	return func(ctx context.Context, addr string, tc *tls.Config) (*link.Session, error) {
		c, err := p.Net.Dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		return link.DialConn(ctx, c, tc, link.Options{})
	}
}

// admitted tells whether the server answers a first frame with a message of the protocol instead of ending the handshake.
func admitted(ctx context.Context, open opener, addr string, tc *tls.Config) bool {
	s, err := open(ctx, addr, tc)
	if err != nil {
		return false
	}
	defer s.Close()
	if s.Send(wire.TypeGoAway, wire.GoAway{}) != nil {
		return false
	}
	typ, _, err := s.RecvWithin(8 * time.Second)
	var refusal *wire.Error
	return err == nil && typ == wire.TypeError || errors.As(err, &refusal)
}

// admittedTCP tells whether the server keeps the connection after the handshake.
func admittedTCP(ctx context.Context, dial func(context.Context, string) (net.Conn, error), addr string, tc *tls.Config) bool {
	raw, err := dial(ctx, addr)
	if err != nil {
		return false
	}
	defer raw.Close()
	c := tls.Client(raw, tc)
	if c.SetDeadline(time.Now().Add(2*time.Second)) != nil || c.HandshakeContext(ctx) != nil {
		return false
	}
	_, err = c.Read(make([]byte, 1))
	var wait net.Error
	return errors.As(err, &wait) && wait.Timeout()
}

// A rogue is a gateway in the hands of somebody else: its identity is genuine, what it does is not.
type rogue struct {
	p    *plant
	cred *credential.Credential
	up   *link.Session
	ids  uint64

	mu      sync.Mutex
	orders  [][]byte // that the core told it for devices
	receipt []byte   // the newest
}

// newRogue takes over the plant's gateway, which has been stopped, and opens an uplink with its identity.
func newRogue(p *plant, tr *link.Transport) *rogue {
	p.t.Helper()
	return rogueAs(p, tr, p.gw, wire.UplinkHello{Capability: wire.Capability, Run: 1})
}

// rogueAs opens an uplink with the identity of a gateway that does not run.
func rogueAs(p *plant, tr *link.Transport, gw *Gateway, hello wire.UplinkHello) *rogue {
	p.t.Helper()
	cred, err := credential.Load(gw.Dir())
	p.must(err)
	tc := cred.Endpoint(time.Now).Client(wire.ALPNUplink, ident.RoleCore, nil)
	up, err := tr.Dial(p.ctx, udp(uplinkAddr), tc, link.Options{Limits: link.UplinkLimits})
	p.must(err)
	p.must(up.Send(wire.TypeUplinkHello, hello))
	typ, _, err := up.RecvWithin(5 * time.Second)
	p.must(err)
	if typ != wire.TypeUplinkWelcome {
		p.t.Fatalf("the uplink answers %v", typ)
	}
	return &rogue{p: p, cred: cred, up: up}
}

// relay passes an enrollment to the core and returns what the core says.
func (r *rogue) relay(e wire.Enroll) (*wire.Enrolled, error) {
	r.p.t.Helper()
	r.ids++
	r.p.must(r.up.Send(wire.TypeRelayEnroll, wire.RelayEnroll{ID: r.ids, Enroll: e}))
	for {
		typ, body, err := r.up.RecvWithin(10 * time.Second)
		r.p.must(err)
		switch typ {
		case wire.TypeRelayEnrolled:
			var m wire.RelayEnrolled
			r.p.must(wire.Unmarshal(body, &m))
			return &m.Enrolled, nil
		case wire.TypeError:
			e := new(wire.Error)
			r.p.must(wire.Unmarshal(body, e))
			return nil, e
		}
	}
}

// TestRogueGatewayEnrollsNothing lets a real device enroll through a gateway that alters the request, or keeps it and swaps
// the key. It also holds what the device sent against its secrets.
func TestRogueGatewayEnrollsNothing(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 30*time.Second, func(p *plant) {
		token, err := p.Token(p.ctx, "device", "plant-7", 5)
		p.must(err)
		p.gateway.Kill()
		tr := p.transport(p.gw.Addr.Addr())
		defer tr.Close()
		r := newRogue(p, tr)
		defer r.up.Close()

		pc, err := p.Net.ListenPacket(p.gw.Addr)
		p.must(err)
		down := link.NewTransport(pc, nil)
		defer down.Close()
		ln, err := down.Listen(r.cred.Endpoint(time.Now).Server(ident.Protocol{ALPN: wire.ALPNEnroll}), link.Options{})
		p.must(err)
		defer ln.Close()
		heard := make(chan []byte, 1)
		answered := make(chan struct{})
		var victim wire.Enroll
		go func() {
			defer close(answered)
			pending, err := ln.Accept(p.ctx)
			if err != nil {
				return
			}
			s, err := pending.Session(p.ctx, time.Second)
			if err != nil {
				return
			}
			_, body, err := s.RecvWithin(time.Second)
			if err != nil {
				return
			}
			heard <- bytes.Clone(body)
			s.Refuse(wire.Refuse(wire.CodeUnavailable, "not now").After(time.Second))
		}()
		a := p.NewAgent("victim", p.gw)
		short, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		defer cancel()
		if err := a.Enroll(short, token); err == nil {
			t.Fatal("the device enrolled although the gateway kept its request")
		}
		<-answered
		body := <-heard
		p.must(wire.Unmarshal(body, &victim))
		noSecrets(t, body, token, filepath.Join(p.Dir, "victim"))

		own, err := ident.NewKey()
		p.must(err)
		ownCSR, err := ident.NewCSR(own)
		p.must(err)
		altered := bytes.Clone(victim.CSR)
		altered[len(altered)/2] ^= 1
		forged := victim
		forged.Proof = forgeProof(t, p, token, own.Public())
		attempts := map[string]wire.Enroll{
			"altered CSR":          {Capability: 1, CSR: altered, Proof: victim.Proof},
			"own key, their proof": {Capability: 1, CSR: ownCSR, Proof: victim.Proof},
			"own key, own proof":   {Capability: 1, CSR: ownCSR, Proof: forged.Proof},
			"no proof":             {Capability: 1, CSR: ownCSR},
			"as a gateway":         {Capability: 1, CSR: ownCSR, Proof: victim.Proof, Name: "gw-b", Listen: "10.9.9.9:1"},
		}
		for name, e := range attempts {
			_, err := r.relay(e)
			var refusal *wire.Error
			if !errors.As(err, &refusal) || refusal.Code != wire.CodeRefused || refusal.Detail != "enrollment refused" {
				t.Errorf("%s: %v, want the one refusal", name, err)
			}
		}
		var l v1.List[v1.Device]
		p.must(p.Call(p.ctx, &l, http.MethodGet, "/v1/devices", nil))
		if len(l.Items) != 0 {
			t.Errorf("%d records after refused enrollments", len(l.Items))
		}
		// What the device did ask for works, twice with the same outcome, and gives the gateway nothing: the certificate is
		// for a key that never left the device.
		first, err := r.relay(victim)
		p.must(err)
		second, err := r.relay(victim)
		p.must(err)
		if !bytes.Equal(first.Chain[0], second.Chain[0]) {
			t.Error("a retry got another certificate")
		}
		var tok v1.Token
		p.must(p.Call(p.ctx, &tok, http.MethodGet, "/v1/tokens/"+token.ID.String(), nil))
		if tok.Used != 1 {
			t.Errorf("the token was used %d times, want 1", tok.Used)
		}
	})
}

// forgeProof signs a proof in the token's name with a key that is not the token's.
func forgeProof(t *testing.T, p *plant, token *seal.Token, pub any) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	p.must(err)
	other := seal.NewToken(token.Pin)
	other.ID = token.ID
	b, err := seal.SealEnroll(other, "sim", seal.KindDevice, spki)
	p.must(err)
	return b
}

// noSecrets checks that neither the token's seed nor the device's private key is in what was sent, in any usual encoding.
func noSecrets(t *testing.T, sent []byte, token *seal.Token, dir string) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token.Reveal()[len("hf1_"):])
	if err != nil {
		t.Fatal(err)
	}
	seed := raw[8 : 8+ed25519.SeedSize]
	secrets := map[string][]byte{"seed": seed}
	if key := privateKey(t, dir); key != nil {
		secrets["private key"] = key
	}
	for name, s := range secrets {
		for how, form := range map[string][]byte{
			"raw": s, "hex": []byte(hex.EncodeToString(s)), "base64": []byte(base64.StdEncoding.EncodeToString(s)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(s)),
		} {
			if bytes.Contains(sent, form) {
				t.Errorf("the %s is in what the device sent (%s)", name, how)
			}
		}
	}
	if !bytes.Contains(sent, token.ID[:]) {
		t.Error("not even the token's public id is there: the check looks at the wrong bytes")
	}
}

// privateKey is the scalar of the key that the device made.
func privateKey(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := k.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return scalar
}

// TestClonedDeviceIsQuarantined runs a copy of a device's state directory beside the device.
func TestClonedDeviceIsQuarantined(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 5*time.Second, func(p *plant) {
		p.agents[0].Kill()
		p.must(os.CopyFS(filepath.Join(p.Dir, "clone"), os.DirFS(filepath.Join(p.Dir, "agent-1"))))
		p.agents[0] = p.startAgent(p.devices[0])
		p.sleep(5 * time.Second)
		if d := p.device(0); d.State != "active" {
			t.Fatalf("a restart alone made the device %s", d.State)
		}
		clone := &Agent{w: p.World, Name: "clone", Host: p.host(), Gateways: p.devices[0].Gateways}
		other := p.startAgent(clone)
		p.sleep(time.Minute)
		if d := p.device(0); d.State != "quarantined" || d.StateReason == "" {
			t.Errorf("device with a clone is %s (%s), want quarantined", d.State, d.StateReason)
		}
		if d := p.device(1); d.State != "active" {
			t.Errorf("the other device is %s", d.State)
		}
		// The operator takes the clone away and releases the device, which goes on as itself.
		other.Kill()
		p.must(p.Call(p.ctx, nil, http.MethodPost, "/v1/devices/"+p.devices[0].ID+"/release", nil))
		p.sleep(time.Minute)
		if d := p.want(0, "online", ""); d.State != "active" {
			t.Errorf("the released device is %s", d.State)
		}
	})
}

// TestDeviceCannotNameItsSite tries to set the reserved tag where a device can.
func TestDeviceCannotNameItsSite(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 30*time.Second, func(p *plant) {
		a := p.NewAgent("liar", p.gw)
		a.Tags = map[string]string{"site": "plant-9"}
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		if err := a.Enroll(p.ctx, token); !errors.Is(err, agent.ErrConfig) {
			t.Errorf("an agent with the tag site: %v, want a configuration error", err)
		}
		// A modified agent states it all the same: the core refuses the statement.
		cred, err := credential.Load(filepath.Join(p.Dir, "agent-1"))
		p.must(err)
		p.agents[0].Kill()
		tr := p.transport(p.devices[0].Host)
		defer tr.Close()
		s := attachAs(p, tr, cred, 2)
		defer s.Close()
		body, err := wire.Marshal(seal.Register{AgentVersion: "sim", Tags: map[string]string{"site": "plant-9"}})
		p.must(err)
		state, err := devstate.Open(filepath.Join(p.Dir, "agent-1"), devstate.Signer{Device: cred.ID.Device, KeyID: cred.KeyID, Key: cred.Key})
		p.must(err)
		st, err := state.State(seal.Statement{Type: seal.StatementRegister, Body: body})
		p.must(err)
		p.must(s.Send(wire.TypeStatement, wire.Statement{Sealed: st.Sealed}))
		for {
			typ, b, err := s.RecvWithin(10 * time.Second)
			p.must(err)
			if typ != wire.TypeError {
				continue
			}
			var refusal wire.Error
			p.must(wire.Unmarshal(b, &refusal))
			if refusal.Code != wire.CodeMalformed {
				t.Errorf("refused with %v, want malformed", &refusal)
			}
			break
		}
		if d := p.device(0); d.Tags["site"] != "plant-7" || d.Site != "plant-7" {
			t.Errorf("site is %q / %q", d.Site, d.Tags["site"])
		}
	})
}

// attachAs opens a session with a device's own identity.
func attachAs(p *plant, tr *link.Transport, cred *credential.Credential, start uint64) *link.Session {
	p.t.Helper()
	tc := cred.Endpoint(time.Now).Client(wire.ALPNAgent, ident.RoleGateway, nil)
	s, err := tr.Dial(p.ctx, net.UDPAddrFromAddrPort(p.gw.Addr), tc, link.Options{})
	p.must(err)
	peer, ok := s.Peer(time.Now())
	if !ok {
		p.t.Fatal("the gateway has no identity")
	}
	var run [8]byte
	rand.Read(run[:])
	sealed, err := seal.SealAttach(&seal.Attach{
		Version: 1, Device: cred.ID.Device, Gateway: peer.ID.String(), Start: start, Run: uint64(run[0]) + 1, Session: 1, Epoch: 1, Lowest: 1, IntervalMS: 30000,
	}, cred.KeyID, cred.Key)
	p.must(err)
	p.must(s.Send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: sealed}))
	typ, _, err := s.RecvWithin(5 * time.Second)
	p.must(err)
	if typ != wire.TypeWelcome {
		p.t.Fatalf("the gateway answers %v", typ)
	}
	return s
}
