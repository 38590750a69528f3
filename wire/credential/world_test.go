package credential_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A world is a device that enrolls with a gateway, which here is the core as well.
type world struct {
	t     *testing.T
	net   *linktest.Net
	fleet *identtest.Fleet
	token *seal.Token
	dir   string
	box   *link.Dialer
	addr  string

	// Changed by a test before it enrolls.
	answer func(*wire.Enrolled) // spoils the answer
	lose   bool                 // the answer is lost
	refuse []*wire.Error        // the first answers, in order

	mu     sync.Mutex // guards what follows
	seen   [][]byte   // every message that came in, undecoded
	keys   []ident.KeyID
	device map[ident.KeyID]ident.ID
}

// inWorld runs f in a bubble with a gateway that shows cert, or that of the device's own fleet.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, net: linktest.New(t), fleet: identtest.New(t, "plant", time.Now()), dir: dir, device: make(map[ident.KeyID]ident.ID),
			answer: func(*wire.Enrolled) {},
		}
		w.token = seal.NewToken(w.fleet.Pin())
		w.box = link.NewDialer(w.transport(2), nil)
		w.addr = w.serve(1, w.fleet, ident.Gateway("plant", "berlin", "a")).String()
		f(t, w)
	})
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) transport(host byte) *link.Transport {
	tr := link.NewTransport(w.net.Socket(host), nil)
	w.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			w.t.Errorf("close the transport: %v", err)
		}
	})
	return tr
}

// serve answers enrollments at host, as id of fleet f, until the test ends.
func (w *world) serve(host byte, f *identtest.Fleet, id ident.ID) net.Addr {
	w.t.Helper()
	tr := w.transport(host)
	e := f.Endpoint(f.Certificate(id, time.Now()))
	ln, err := tr.Listen(e.Server(f.Ports()["agent"].Protocols...), link.Options{})
	w.ok(err)
	ctx, stop := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			p, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { w.enroll(ctx, f, p) })
		}
	})
	w.t.Cleanup(func() { stop(); wg.Wait() })
	return tr.Addr()
}

// enroll answers one client.
func (w *world) enroll(ctx context.Context, f *identtest.Fleet, p *link.Pending) {
	s, err := p.Session(ctx, 5*time.Second)
	if err != nil {
		return
	}
	defer s.Close()
	typ, body, err := s.RecvWithin(5 * time.Second)
	if err != nil || typ != wire.TypeEnroll {
		return
	}
	w.mu.Lock()
	w.seen = append(w.seen, append([]byte(nil), body...))
	w.mu.Unlock()
	var m wire.Enroll
	if err := wire.Unmarshal(body, &m); err != nil {
		s.Refuse(wire.Refuse(wire.CodeMalformed, "%v", err))
		return
	}
	if len(w.refuse) > 0 {
		e := w.refuse[0]
		w.refuse = w.refuse[1:]
		s.Refuse(e)
		return
	}
	out, err := w.issue(f, &m)
	switch {
	case w.lose:
		return
	case err != nil:
		s.Refuse(wire.Refuse(wire.CodeRefused, "enrollment refused").After(time.Second))
	case s.Send(wire.TypeEnrolled, out) == nil:
		s.Finish(time.Second)
	}
}

// issue checks the proof and gives the key its identity, the same one each time.
func (w *world) issue(f *identtest.Fleet, m *wire.Enroll) (*wire.Enrolled, error) {
	pub, err := ident.ParseCSR(m.CSR)
	if err != nil {
		return nil, err
	}
	proof, err := seal.ParseEnroll(m.Proof)
	if err != nil {
		return nil, err
	}
	if err := proof.Verify(w.token.Public(), f.Name, seal.KindDevice, pub.SPKI); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = append(w.keys, pub.ID)
	id, ok := w.device[pub.ID]
	if !ok {
		id = ident.Device(f.Name, ident.NewDeviceID())
		w.device[pub.ID] = id
	}
	out := &wire.Enrolled{
		Identity: id.String(), Chain: f.Chain(id, pub.Key, time.Now()), Root: f.Root.Cert.Raw, Authority: f.AuthCert,
		Gateways: []string{"10.0.0.1:4433"}, IntervalMS: 5000, Site: "berlin",
	}
	w.answer(out)
	return out, nil
}

// enrollment is the device's request.
func (w *world) enrollment() credential.Enrollment {
	return credential.Enrollment{
		Dir: w.dir, Token: w.token, Kind: seal.KindDevice, Server: ident.RoleGateway, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	}
}

func (w *world) do() (*credential.Credential, *wire.Enrolled, error) {
	return credential.Enroll(w.t.Context(), w.box, w.addr, w.enrollment())
}

// keyFile is the key as it lies on the disk.
func (w *world) keyFile() (path string, content []byte) {
	w.t.Helper()
	path = filepath.Join(w.dir, "key.pem")
	b, err := os.ReadFile(path)
	w.ok(err)
	return path, b
}

// secrets are byte strings that must never leave the device.
func (w *world) secrets() map[string][]byte {
	w.t.Helper()
	_, b := w.keyFile()
	block, _ := pem.Decode(b)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	w.ok(err)
	scalar, err := k.(interface{ Bytes() ([]byte, error) }).Bytes()
	w.ok(err)
	token := w.token.Reveal()
	t, err := seal.ParseToken(token)
	w.ok(err)
	return map[string][]byte{
		"private key": scalar, "key file": block.Bytes, "token string": []byte(token[:20]), "token seed": seedOf(w.t, t),
	}
}

// certificate is what the credential shows, parsed.
func shown(t *testing.T, c *credential.Credential) (*tls.Certificate, *x509.Certificate) {
	t.Helper()
	cert := c.Certificate()
	return cert, identtest.Parse(t, cert.Certificate[0])[0]
}
