package sitelink

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/facts"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// artifact makes a set of publishers and an artifact of theirs, and returns its digest.
func (c *core) artifact() wire.Digest {
	c.t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		c.t.Fatalf("the key is %T", key.Public())
	}
	set := &seal.PublisherSet{
		Format: seal.PublisherSetFormat, Fleet: "acme", Number: 1, Roots: [][]byte{pub}, Threshold: 1, Publishers: []seal.Publisher{{Name: "ada", Key: pub}},
	}
	sig, err := seal.SignPublisherSet(set, c.keys.Authority())
	if err != nil {
		c.t.Fatal(err)
	}
	sealed, err := seal.JoinPublisherSet(sig)
	if err != nil {
		c.t.Fatal(err)
	}
	c.do(&command.SetPublishers{Sealed: sealed})
	manifest := wire.DigestOf([]byte("manifest"))
	release, err := seal.SealRelease(&seal.Release{Format: seal.ReleaseFormat, Name: "app", Version: "1.0", Number: 1, Manifest: manifest, Size: 8}, key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.do(&command.AddArtifact{Release: release, Parts: []wire.Digest{manifest}, Kind: 1, Size: 1, Chunks: 1})
	return manifest
}

// orders are the orders of a message, verified.
func (c *core) orders(m *wire.Site) (out []*seal.Order) {
	c.t.Helper()
	for _, b := range m.Orders {
		o, err := seal.OpenOrder(b, "acme", c.authority())
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

func (c *core) assign(d *device, artifact wire.Digest) {
	c.t.Helper()
	c.do(&command.Assign{Device: d.id, Slot: "app", Verb: command.VerbSet, Artifact: artifact})
}

// oneOrder holds a message against what it must tell: the entry of a device and its order with one assignment.
func (c *core) oneOrder(m *wire.Site, d *device, number uint64, want seal.Assignment) {
	c.t.Helper()
	es, os := c.entries(m), c.orders(m)
	if len(es) != 1 || es[0].Device != d.id || len(os) != 1 {
		c.t.Fatalf("told %+v and %+v", es, os)
	}
	o := os[0]
	desired, err := o.Desired()
	if err != nil {
		c.t.Fatal(err)
	}
	if o.Device != d.id || o.Number != number || !slices.Equal(o.Keys, es[0].Keys) || len(o.Keys) != 1 || !slices.Equal(desired.Assignments, []seal.Assignment{want}) {
		c.t.Errorf("order %+v with %+v", o, desired)
	}
}

// An assignment reaches the gateways of a device's site as an order beside the entry: at once, when one comes back, when one asks, and
// wherever the device is a guest.
func TestOrdersAreTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		app := c.artifact()
		d := c.device("plant-7")
		c.device("plant-7") // has no order
		g := c.connect("plant-7", "gw-a")
		other := c.connect("plant-8", "gw-b")
		defer other.hangUp()
		c.assign(d, app)
		c.oneOrder(recv[wire.Site](g, wire.TypeSite), d, 1, seal.Assignment{Slot: "app", Artifact: app})
		c.do(&command.Assign{Device: d.id, Slot: "app", Verb: command.VerbRetry})
		retried := seal.Assignment{Slot: "app", Artifact: app, Attempt: 1}
		c.oneOrder(recv[wire.Site](g, wire.TypeSite), d, 2, retried)
		g.hangUp()

		again := c.toldFirst("plant-7", "gw-a")
		if os := c.orders(again); len(os) != 1 || os[0].Number != 2 || len(again.Entries) != 2 {
			t.Errorf("told %d entries and %+v", len(again.Entries), os)
		}

		other.send(wire.TypeAsk, wire.Ask{Device: d.id})
		c.oneOrder(recv[wire.Site](other, wire.TypeSite), d, 2, retried)
		other.send(wire.TypePresence, online(d, d.attach(other.id, 1)))
		c.oneOrder(recv[wire.Site](other, wire.TypeSite), d, 2, retried)
		c.do(&command.Assign{Device: d.id, Slot: "app", Verb: command.VerbUnset})
		c.oneOrder(recv[wire.Site](other, wire.TypeSite), d, 3, seal.Assignment{Slot: "app", Attempt: 1})
	})
}

// toldFirst is what a gateway is told first, in a session that ends.
func (c *core) toldFirst(site, gw string) *wire.Site {
	c.t.Helper()
	g := c.dial(site, gw, true)
	defer g.hangUp()
	recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
	return recv[wire.Site](g, wire.TypeSite)
}

// Whichever node is asked, an order has the same bytes, also behind a snapshot.
func TestOrdersHaveTheSameBytesEverywhere(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		sign := func(v registry.View) []byte {
			t.Helper()
			r, ok := v.Device(d.id)
			if !ok {
				t.Fatal("no record")
			}
			o, err := facts.Order(v, r, c.keys.Authority())
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		if o := sign(c.View()); o != nil {
			t.Errorf("an order for a device that nothing was assigned to: %x", o)
		}
		c.assign(d, c.artifact())
		before := sign(c.View())
		c.do(&command.SetInterval{Device: d.id, IntervalMS: 9000}) // the log goes on, and says nothing new of it
		var snapshot bytes.Buffer
		if err := c.View().Persist(&snapshot); err != nil {
			t.Fatal(err)
		}
		other, err := registry.Restore(&snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if after := sign(other.View()); len(before) == 0 || !bytes.Equal(before, after) {
			t.Errorf("signed as\n%x and as\n%x", before, after)
		}
	})
}

// Gateways are told the newest set of publishers and the site's limit, when they come and when either changes.
func TestPublishersAndLimitAreTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.dial("plant-7", "gw-a", true)
		defer g.hangUp()
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		if m := recv[wire.Site](g, wire.TypeSite); m.Publishers != 0 || m.Content == nil || *m.Content != (wire.ContentLimit{}) {
			t.Errorf("told %d, %+v", m.Publishers, m.Content)
		}
		c.artifact()
		if m := recv[wire.Site](g, wire.TypeSite); m.Publishers != 1 || m.Content != nil {
			t.Errorf("told %d, %+v", m.Publishers, m.Content)
		}
		night := wire.ContentLimit{BytesPerSecond: 2 << 20, Window: "22:00-05:00"}
		c.do(&command.SetSite{Site: "plant-7", ContentRate: &night.BytesPerSecond, ContentWindow: &night.Window})
		if m := recv[wire.Site](g, wire.TypeSite); m.Publishers != 1 || m.Content == nil || *m.Content != night {
			t.Errorf("told %d, %+v", m.Publishers, m.Content)
		}
		c.do(&command.SetSite{Site: "plant-7", ContentRate: new(uint64), ContentWindow: new(string)}) // no limit any more
		if m := recv[wire.Site](g, wire.TypeSite); m.Content == nil || *m.Content != (wire.ContentLimit{}) {
			t.Errorf("told %+v", m.Content)
		}
	})
}
