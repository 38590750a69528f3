package credential_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
)

// uses fails unless the credential, and one loaded anew, show chain.
func (w *world) uses(c *credential.Credential, chain [][]byte, when string) *credential.Credential {
	w.t.Helper()
	again, err := credential.Load(w.dir)
	w.ok(err)
	for _, c := range []*credential.Credential{c, again} {
		cert, leaf := shown(w.t, c)
		if !bytes.Equal(cert.Certificate[0], chain[0]) || !bytes.Equal(cert.Leaf.Raw, leaf.Raw) {
			w.t.Errorf("%s: another certificate is in use", when)
		}
	}
	return again
}

// A renewed certificate is used at once, and the one before is kept until the new one has worked.
func TestRenewal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		c, out, err := w.do()
		w.ok(err)
		old := out.Chain
		next := func() [][]byte { return w.fleet.Chain(c.ID, c.Key.Public(), time.Now()) }

		w.ok(c.Confirm())
		w.ok(c.Reject())
		c = w.uses(c, old, "before a renewal")

		second := next()
		w.ok(c.Renewed(second))
		c = w.uses(c, second, "renewed")
		w.ok(c.Reject())
		c = w.uses(c, old, "rejected")
		w.ok(c.Reject())
		c = w.uses(c, old, "rejected twice")

		third, fourth := next(), next()
		w.ok(c.Renewed(third))
		w.ok(c.Renewed(fourth))
		c = w.uses(c, fourth, "renewed twice")
		w.ok(c.Confirm())
		c = w.uses(c, fourth, "confirmed")
		w.ok(c.Reject())
		w.uses(c, fourth, "rejected after it had worked")
	})
}

func TestRenewalsThatAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		c, out, err := w.do()
		w.ok(err)
		twin := identtest.New(t, "plant", time.Now())
		for name, chain := range map[string][][]byte{
			"nothing": nil, "leaf alone": out.Chain[:1], "no certificate": {[]byte("x"), out.Chain[1]},
			"another key":      w.fleet.Chain(c.ID, identtest.Key(t).Public(), time.Now()),
			"another identity": w.fleet.Chain(ident.Device("plant", ident.NewDeviceID()), c.Key.Public(), time.Now()),
			"another root":     twin.Chain(c.ID, c.Key.Public(), time.Now()),
			"another role":     w.fleet.Chain(ident.Gateway("plant", "berlin", "a"), c.Key.Public(), time.Now()),
		} {
			if err := c.Renewed(chain); err == nil {
				t.Errorf("%s: was taken", name)
			} else if name == "another key" && !errors.Is(err, ident.ErrUntrusted) {
				t.Errorf("%s: got %v, want ErrUntrusted", name, err)
			}
			w.uses(c, out.Chain, name)
		}
	})
}

// Handshakes go on while a certificate is renewed. The race detector is what checks this test.
func TestRenewalUnderUse(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		c, _, err := w.do()
		w.ok(err)
		e := c.Endpoint(time.Now)
		chains := [][][]byte{w.fleet.Chain(c.ID, c.Key.Public(), time.Now()), w.fleet.Chain(c.ID, c.Key.Public(), time.Now())}
		var wg sync.WaitGroup
		done := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if e.Trust().Pin() != w.fleet.Pin() || e.Certificate() == nil || c.ID.Fleet != "plant" || c.KeyID.IsZero() {
					t.Error("a renewal shows in between")
					return
				}
			}
		})
		for _, chain := range chains {
			w.ok(c.Renewed(chain))
			w.ok(c.Confirm())
		}
		close(done)
		wg.Wait()
	})
}

func TestRenewAt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		c, _, err := w.do()
		w.ok(err)
		_, leaf := shown(t, c)
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		for fraction, want := range map[float64]time.Time{0: leaf.NotBefore, 0.5: leaf.NotBefore.Add(life / 2), 1: leaf.NotAfter} {
			if got := c.RenewAt(fraction); got.Sub(want).Abs() > time.Second {
				t.Errorf("at %v of its life: %v, want %v", fraction, got, want)
			}
		}
	})
}
