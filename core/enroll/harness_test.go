package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A core is a registry that commits at once, with a service before it and a clock that the test moves.
type core struct {
	t    *testing.T
	svc  *Service
	keys *Keyring
	via  ident.ID

	mu       sync.Mutex
	state    *registry.State
	index    uint64
	now      time.Time
	proposed int
	stale    *registry.View // what View shows until the next Barrier
	before   func()         // called once, before the next commit
	err      error          // what Propose fails with
}

func newCore(t *testing.T) *core {
	t.Helper()
	made, node, _ := newFleet(t)
	made.IntervalMS, made.Operator, made.Node = 30_000, command.Operator{ID: "o1", Role: "admin"}, command.CoreNode{Name: "core-1"}
	c := &core{t: t, state: registry.New(), now: start, via: ident.Gateway("acme", "plant-7", "gw-a")}
	c.do(made)
	keys, err := OpenKeyring(c.View().Fleet(), "core-1", node)
	if err != nil {
		t.Fatal(err)
	}
	c.keys = keys
	c.svc = NewService(c, keys, c.wall, slog.New(slog.DiscardHandler))
	return c
}

func (c *core) wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *core) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// View implements Registry.
func (c *core) View() registry.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale != nil {
		return *c.stale
	}
	return c.state.View()
}

// fallBehind makes this node one that has not applied what is committed from now on, until somebody asks for it.
func (c *core) fallBehind() {
	v := c.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = &v
}

// Barrier implements Registry.
func (c *core) Barrier(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = nil
	return c.err
}

// Propose implements Registry.
func (c *core) Propose(_ context.Context, cmd command.Command) (any, error) {
	b, err := command.Encode(cmd)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.before; f != nil {
		c.before = nil
		c.mu.Unlock()
		f()
		c.mu.Lock()
	}
	if c.err != nil {
		return nil, c.err
	}
	c.index++
	c.proposed++
	eff, err := c.state.Apply(c.index, c.now, [][]byte{b})
	if err != nil {
		return nil, err
	}
	if err, refused := eff.Results[0].(error); refused {
		return nil, err
	}
	return eff.Results[0], nil
}

func (c *core) do(cmd command.Command) any {
	c.t.Helper()
	if o, ok := cmd.(command.Operated); ok {
		o.Actor().Operator = "o1"
	}
	res, err := c.Propose(c.t.Context(), cmd)
	if err != nil {
		c.t.Fatalf("%T: %v", cmd, err)
	}
	return res
}

// token makes a token known to the registry.
func (c *core) token(kind seal.Kind, site string, uses uint32) *seal.Token {
	c.t.Helper()
	tok := seal.NewToken(c.keys.Trust().Pin())
	c.do(&command.CreateToken{ID: tok.ID, Public: tok.Public(), Kind: kind, Site: site, TTLMS: time.Hour.Milliseconds(), Uses: uses})
	return tok
}

// A box is a machine with a key.
type box struct {
	key       *ecdsa.PrivateKey
	csr, spki []byte
}

func newBox(t *testing.T) box {
	t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ident.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return box{key, csr, spki}
}

// request is the box's enrollment through a gateway of plant-7.
func (c *core) request(b box, tok *seal.Token, kind seal.Kind) Request {
	c.t.Helper()
	proof, err := seal.SealEnroll(tok, "acme", kind, b.spki)
	if err != nil {
		c.t.Fatal(err)
	}
	r := Request{Enroll: wire.Enroll{Capability: 1, CSR: b.csr, Proof: proof}, Via: c.via, Source: "gw-a"}
	if kind == seal.KindGateway {
		r.Name, r.Listen, r.Via = "gw-b", "gw-b:4433", ident.ID{}
	}
	return r
}

func (c *core) enroll(r Request) (*wire.Enrolled, error) { return c.svc.Enroll(c.t.Context(), r) }

func (c *core) enrolled(r Request) *wire.Enrolled {
	c.t.Helper()
	out, err := c.enroll(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func code(err error) wire.Code {
	var e *wire.Error
	if !errors.As(err, &e) {
		return wire.CodeNone
	}
	return e.Code
}
