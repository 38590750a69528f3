package sitelink

import (
	"bytes"
	"errors"
	"log/slog"
	"reflect"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/facts"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A gateway that comes back is told what it lacks, and no more; one of another cluster epoch is told all.
func TestOnlyWhatIsNewIsTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		a := c.device("plant-7")
		c.device("plant-7")
		g := c.dial("plant-7", "gw-a", true)
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		s := recv[wire.Site](g, wire.TypeSite)
		if len(c.entries(s)) != 2 {
			t.Fatalf("told first: %+v", s)
		}
		g.hangUp()
		for _, again := range []struct {
			name  string
			known seal.Stamp
			want  int
		}{
			{"knows all", seal.Stamp{ClusterEpoch: s.UptoEpoch, Number: s.Upto}, 0},
			{"says more than was signed", seal.Stamp{ClusterEpoch: s.UptoEpoch, Number: s.Upto + 7}, 2},
			{"of another cluster epoch", seal.Stamp{ClusterEpoch: s.UptoEpoch + 1, Number: s.Upto}, 2},
			{"lacks one", seal.Stamp{ClusterEpoch: s.UptoEpoch, Number: a.record().Entry.Number}, 1},
			{"knows nothing", seal.Stamp{}, 2},
		} {
			c.known = again.known
			g := c.dial("plant-7", "gw-a", true)
			recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
			m := recv[wire.Site](g, wire.TypeSite)
			if got := c.entries(m); len(got) != again.want || m.Upto < s.Upto {
				t.Errorf("%s: told %d entries up to %d, want %d", again.name, len(got), m.Upto, again.want)
			}
			g.hangUp()
		}
	})
}

// A list of devices that is longer than a message comes in several; only the last says that it was all.
func TestLongListsComeInPages(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		for range sitePage + 1 {
			c.device("plant-7")
		}
		g := c.dial("plant-7", "gw-a", true)
		defer g.hangUp()
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		first := recv[wire.Site](g, wire.TypeSite)
		second := recv[wire.Site](g, wire.TypeSite)
		if len(first.Entries) != sitePage || first.Upto != 0 || len(second.Entries) != 1 || second.Upto == 0 || len(first.List) == 0 {
			t.Errorf("%d entries up to %d, then %d up to %d", len(first.Entries), first.Upto, len(second.Entries), second.Upto)
		}
	})
}

// A device of another site is told once its attach has reached the core, and so is every change of it while it is here.
func TestGuestsAreTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		guest := c.device("plant-8")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		g.send(wire.TypePresence, online(guest, guest.attach(g.id, 1)))
		if es := c.entries(recv[wire.Site](g, wire.TypeSite)); len(es) != 1 || es[0].Device != guest.id || es[0].Site != "plant-8" {
			t.Errorf("told %+v", es)
		}
		c.do(&command.SetInterval{Device: guest.id, IntervalMS: 7000})
		if es := c.entries(recv[wire.Site](g, wire.TypeSite)); len(es) != 1 || es[0].Device != guest.id || es[0].IntervalMS != 7000 {
			t.Errorf("told %+v", es)
		}
	})
}

// Whichever node is asked, the bytes are the same.
func TestFactsHaveTheSameBytesEverywhere(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		sign := func(v registry.View) (out []byte) {
			t.Helper()
			e, err := facts.Entry(v, d.record(), c.keys.Authority())
			if err != nil {
				t.Fatal(err)
			}
			l, err := facts.List(v, "plant-7", c.keys.Authority())
			if err != nil || l == nil {
				t.Fatalf("list %x, %v", l, err)
			}
			return append(e, l...)
		}
		before := sign(c.View())
		c.do(&command.SetSite{Site: "plant-7", IntervalMS: 9000}) // the log goes on, and says nothing new of them
		var snapshot bytes.Buffer
		if err := c.View().Persist(&snapshot); err != nil {
			t.Fatal(err)
		}
		other, err := registry.Restore(&snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if after := sign(other.View()); !bytes.Equal(before, after) {
			t.Errorf("signed as\n%x and as\n%x", before, after)
		}
		if l, err := facts.List(c.View(), "nowhere", c.keys.Authority()); l != nil || err != nil {
			t.Errorf("list of no site: %x, %v", l, err)
		}
	})
}

// A gateway is told the key of its site's present generation, the one that every core node makes.
func TestTheSiteKeyIsTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.dial("plant-7", "gw-a", true)
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		s := recv[wire.Site](g, wire.TypeSite)
		if want := c.keys.SiteKey("plant-7", 0); s.SiteKey == nil || !reflect.DeepEqual(*s.SiteKey, want) {
			t.Errorf("told %v, want %v", s.SiteKey, &want)
		}
		g.hangUp()
	})
}

// A session that fell behind the events is told anew, but not when the gateway was shut out meanwhile: no site key goes there.
func TestNoSiteKeyForWhoIsShutOut(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.dial("plant-7", "gw-a", true)
		defer g.hangUp()
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		recv[wire.Site](g, wire.TypeSite)
		peer := ident.Peer{ID: g.id, Key: ident.KeyID{1}} // not the key that is active
		u := &uplink{Server: New(Config{Authority: c.keys.Authority(), SiteKey: c.keys.SiteKey, Registry: c, Log: slog.New(slog.DiscardHandler)}), ses: g.Session, peer: peer, gw: "plant-7/gw-a"}
		var refusal *wire.Error
		if err := u.tellAll(); !errors.As(err, &refusal) || refusal.Code != wire.CodeUnknownKey {
			t.Errorf("told everything: %v", err)
		}
	})
}
