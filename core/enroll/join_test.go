package enroll

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func (b box) join(t *testing.T, tok *seal.Token, name string, holder *HolderKey) Request {
	t.Helper()
	proof, err := seal.SealEnroll(tok, "acme", seal.KindCore, b.spki)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Source: "10.0.0.9", Enroll: wire.Enroll{
		CSR: b.csr, Proof: proof, Name: name, API: "a2:8443", Uplink: "u2:7400", Cluster: "c2:7401", Holder: holder.Public(),
	}}
}

// A core node joins with one token, once; a retry after a lost reply gets the same, and its holder key opens the fleet's keys.
func TestCoreNodeJoins(t *testing.T) {
	c := newCore(t)
	tok := c.token(seal.KindCore, "", 1)
	second, holder := newBox(t), newHolder(t)
	req := second.join(t, tok, "core-2", holder)

	for name, change := range map[string]func(*Request){
		"through a gateway":    func(r *Request) { r.Via = ident.Gateway("acme", "plant-7", "gw-a") },
		"no name":              func(r *Request) { r.Name = "" },
		"no cluster address":   func(r *Request) { r.Cluster = "" },
		"a bad API address":    func(r *Request) { r.API = "nowhere" },
		"a short holder's key": func(r *Request) { r.Holder = []byte{1} },
	} {
		bad := req
		change(&bad)
		if _, err := c.svc.Enroll(t.Context(), bad); code(err) != wire.CodeRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	out, err := c.svc.Enroll(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if out.Identity != "spiffe://acme/core/core-2" || len(out.Cores) != 2 || out.Site != "" || len(out.Gateways) != 0 {
		t.Errorf("joined as %+v", out)
	}
	again, err := c.svc.Enroll(t.Context(), req)
	if err != nil || string(again.Chain[0]) != string(out.Chain[0]) {
		t.Errorf("retry: %v", err)
	}
	if _, err := OpenKeyring(c.View().Fleet(), "core-2", holder); err != nil {
		t.Errorf("the new node cannot open the fleet's keys: %v", err)
	}
	// The token is used up, and the name is taken whatever the token.
	if _, err := c.svc.Enroll(t.Context(), newBox(t).join(t, tok, "core-3", holder)); code(err) != wire.CodeRefused {
		t.Errorf("second use: %v", err)
	}
	if _, err := c.svc.Enroll(t.Context(), newBox(t).join(t, c.token(seal.KindCore, "", 1), "core-2", holder)); code(err) != wire.CodeForbidden {
		t.Errorf("a name that is taken: %v", err)
	}
}

// A fleet key that is rotated between the wrap and the commit is wrapped again.
func TestJoinBesideRotation(t *testing.T) {
	c := newCore(t)
	two := newHolder(t)
	if _, err := c.svc.Enroll(t.Context(), newBox(t).join(t, c.token(seal.KindCore, "", 1), "core-2", two)); err != nil {
		t.Fatal(err)
	}
	tok, holder := c.token(seal.KindCore, "", 1), newHolder(t)
	c.before = func() {
		f := c.View().Fleet()
		r, err := c.keys.Rotate(f, []string{"core-1"})
		if err != nil {
			t.Error(err)
			return
		}
		c.do(&command.RemoveNode{Name: "core-2", Rotation: r})
	}
	if _, err := c.svc.Enroll(t.Context(), newBox(t).join(t, tok, "core-3", holder)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(c.View().Fleet(), "core-3", holder); err != nil {
		t.Errorf("the joined node's wrap is of the old fleet key: %v", err)
	}
	if _, err := OpenKeyring(c.View().Fleet(), "core-2", two); !errors.Is(err, ErrKey) {
		t.Errorf("the removed node still opens the keys: %v", err)
	}
}

// Each refusal is noted for the audit trail with the token that it named and why, which the answer does not tell.
func TestRefusalsAreNoted(t *testing.T) {
	c := newCore(t)
	type note struct{ action, actor, source, reason string }
	var notes []note
	c.svc.Note = func(action, actor, source, reason string) { notes = append(notes, note{action, actor, source, reason}) }
	tok := c.token(seal.KindCore, "", 1)
	c.pass(time.Hour)
	if _, err := c.svc.Enroll(context.Background(), newBox(t).join(t, tok, "core-2", newHolder(t))); code(err) != wire.CodeRefused {
		t.Fatal(err)
	}
	if len(notes) != 1 || notes[0].action != "enroll" || notes[0].actor != "token:"+tok.ID.String() || notes[0].source != "10.0.0.9" || notes[0].reason == "" {
		t.Errorf("noted %+v", notes)
	}
}

// A node that is behind the one which made a token, or let a device in, finds out before it refuses.
func TestNodeThatIsBehind(t *testing.T) {
	c := newCore(t)
	c.fallBehind()
	tok := c.token(seal.KindDevice, "plant-7", 1)
	b := newBox(t)
	proof, err := seal.SealEnroll(tok, "acme", seal.KindDevice, b.spki)
	if err != nil {
		t.Fatal(err)
	}
	c.svc.Note = func(_, _, _, reason string) { t.Errorf("refused: %s", reason) }
	out, err := c.svc.Enroll(t.Context(), Request{Source: "gw", Via: c.via, Enroll: wire.Enroll{CSR: b.csr, Proof: proof}})
	if err != nil {
		t.Fatal(err)
	}
	id, err := ident.Parse(out.Identity)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.svc.Renew(t.Context(), id, b.csr); err != nil {
		t.Error(err)
	}
}
