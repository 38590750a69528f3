package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	dialsAtOnce = 48 // below what a gateway lets enroll at the same time
	dialTries   = 8
	dialPause   = 150 * time.Millisecond
	answerTime  = 20 * time.Second
	// keepAlive is long enough that no keep-alive falls into a measurement, as at the floor.
	keepAlive = 2 * time.Minute
	// intervalMS is what devices say that they use: the fleet's default.
	intervalMS = 30_000
)

// register is the file that holds the identities of all devices, for the processes that play them.
type register struct {
	Root      []byte // DER
	Authority []byte // DER
	Devices   []enrolled
}

// enrolled is one device's identity.
type enrolled struct {
	Key   []byte   // PKCS #8
	Chain [][]byte // DER: leaf, issuing CA
}

// device is an identity, ready for use.
type device struct {
	id    ident.ID
	key   *ecdsa.PrivateKey
	keyID ident.KeyID
	end   ident.Endpoint
}

// enrollAll gets n devices an identity through the gateway at addr.
func enrollAll(ctx context.Context, addr string, token *seal.Token, n int) (*register, error) {
	tr, to, err := dialler(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer tr.Close() //nolint:errcheck // every exchange is over
	answers := make([]*wire.Enrolled, n)
	r := &register{Devices: make([]enrolled, n)}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialsAtOnce)
	for i := range n {
		g.Go(func() error {
			return patiently(ctx, func() (err error) {
				r.Devices[i], answers[i], err = enroll(ctx, tr, to, token)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("enroll devices: %w", err)
	}
	if n > 0 {
		r.Root, r.Authority = answers[0].Root, answers[0].Authority
	}
	return r, nil
}

// dialler opens a socket of its own and resolves addr.
func dialler(ctx context.Context, addr string) (*link.Transport, net.Addr, error) {
	to, err := link.Resolve(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, fmt.Errorf("open udp socket on loopback: %w", err)
	}
	return link.NewTransport(pc, nil), to, nil
}

// patiently tries f again: in a crowd, packets are lost and gateways ask for patience.
func patiently(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == dialTries || !backoff.Sleep(ctx, time.Duration(try)*dialPause) {
			return err
		}
	}
}

// enroll holds one exchange of an enrollment, as credential.Enroll does, and keeps the identity in memory.
func enroll(ctx context.Context, tr *link.Transport, to net.Addr, token *seal.Token) (e enrolled, out *wire.Enrolled, err error) {
	key, err := ident.NewKey()
	if err != nil {
		return e, nil, err
	}
	csr, err := ident.NewCSR(key)
	if err != nil {
		return e, nil, err
	}
	if e.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return e, nil, fmt.Errorf("encode key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return e, nil, fmt.Errorf("encode public key: %w", err)
	}
	s, err := tr.Dial(ctx, to, ident.FirstContact(token.Pin, ident.RoleGateway, time.Now), link.Options{})
	if err != nil {
		return e, nil, err
	}
	defer s.Close()
	proof, err := seal.SealEnroll(token, fleetName, seal.KindDevice, spki)
	if err != nil {
		return e, nil, err
	}
	if err := s.Send(wire.TypeEnroll, wire.Enroll{Capability: wire.Capability, CSR: csr, Proof: proof}); err != nil {
		return e, nil, err
	}
	out, err = expect[wire.Enrolled](s, wire.TypeEnrolled)
	if err != nil {
		return e, nil, err
	}
	e.Chain = out.Chain
	return e, out, nil
}

// expect reads one message of the given type.
func expect[M any](s *link.Session, want wire.Type) (*M, error) {
	t, body, err := s.RecvWithin(answerTime)
	if err != nil {
		return nil, err
	}
	return read[M](t, body, want)
}

// read decodes a message of the wanted type; an error message is returned as the error that it is.
func read[M any](t wire.Type, body []byte, want wire.Type) (*M, error) {
	if t == wire.TypeError {
		e := new(wire.Error)
		return nil, errors.Join(wire.Unmarshal(body, e), e)
	}
	if t != want {
		return nil, fmt.Errorf("got %v, want %v: %w", t, want, wire.ErrMalformed)
	}
	m := new(M)
	return m, wire.Unmarshal(body, m)
}

func (r *register) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode identities: %w", err)
	}
	return os.WriteFile(path, b, 0o600)
}

// readRegister returns n devices from the given one on, and the key that signs their receipts.
func readRegister(path string, from, n int) ([]*device, ed25519.PublicKey, error) {
	b, err := os.ReadFile(path) //nolint:gosec // G304: the parent names the file
	if err != nil {
		return nil, nil, fmt.Errorf("identities: %w", err)
	}
	var r register
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, nil, fmt.Errorf("decode identities: %w", err)
	}
	if from+n > len(r.Devices) {
		return nil, nil, fmt.Errorf("%d devices from %d on: only %d are enrolled: %w", n, from, len(r.Devices), errUsage)
	}
	trust, err := ident.NewTrust(fleetName, r.Root)
	if err != nil {
		return nil, nil, err
	}
	authority, err := trust.VerifyAuthority(r.Authority)
	if err != nil {
		return nil, nil, err
	}
	devices := make([]*device, n)
	for i := range devices {
		if devices[i], err = r.Devices[from+i].open(trust); err != nil {
			return nil, nil, fmt.Errorf("device %d: %w", from+i, err)
		}
	}
	return devices, authority, nil
}

func (e *enrolled) open(trust *ident.Trust) (*device, error) {
	leaf, err := x509.ParseCertificate(e.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(e.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is %T, want ECDSA: %w", key, errUsage)
	}
	id, err := ident.FromCert(leaf)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: e.Chain, PrivateKey: own, Leaf: leaf}
	return &device{id: id, key: own, keyID: ident.KeyIDOf(leaf), end: ident.Endpoint{
		Trust: func() *ident.Trust { return trust }, Certificate: func() *tls.Certificate { return cert }, Wall: time.Now,
	}}, nil
}

// client is the device's side of mutual TLS with a gateway.
func (d *device) client() *tls.Config { return d.end.Client(wire.ALPNAgent, ident.RoleGateway, nil) }

// attach is the signed word that opens a session with a gateway. start must grow from one process of a device to the next,
// as it does on a real one: else the core takes them for clones.
func (d *device) attach(gateway string, start uint64) (wire.Attach, error) {
	sealed, err := seal.SealAttach(&seal.Attach{
		Version: seal.AttachVersion, Device: d.id.Device, Gateway: gateway, Start: start, Run: rand.Uint64(), Session: 1, //nolint:gosec // an id, no secret
		Epoch: 1, Lowest: 1, IntervalMS: intervalMS, TimeMS: time.Now().UnixMilli(),
	}, d.keyID, d.key)
	return wire.Attach{Capability: wire.Capability, Sealed: sealed}, err
}

// open dials a gateway, attaches, and waits for the welcome.
func (d *device) open(ctx context.Context, tr *link.Transport, to net.Addr, start uint64) (_ *link.Session, err error) {
	s, err := tr.Dial(ctx, to, d.client(), link.Options{KeepAlive: keepAlive})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	peer, ok := s.Peer(time.Now())
	if !ok {
		return nil, fmt.Errorf("the gateway shows no identity: %w", ident.ErrUntrusted)
	}
	a, err := d.attach(peer.ID.String(), start)
	if err != nil {
		return nil, err
	}
	if err := s.Send(wire.TypeAttach, a); err != nil {
		return nil, err
	}
	_, err = expect[wire.Welcome](s, wire.TypeWelcome)
	return s, err
}
