package content

import (
	"bytes"
	"crypto/ed25519"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Each chunk crosses the WAN once, however many devices want it, at however many gateways, at once or later.
func TestOncePerSite(t *testing.T) {
	inPlant(t, 3, func(t *testing.T, p *plant) {
		all := p.core.chunks(60, 10_000)
		var wg sync.WaitGroup
		for _, g := range p.gateways {
			for range 2 {
				a := g.agent()
				defer a.conn.Close()
				wg.Go(func() { a.download(all, time.Minute) })
			}
		}
		wg.Wait()
		if most, n := p.core.times(); most != 1 || n != len(all) {
			t.Errorf("the core answered %d times, for one chunk %d times", n, most)
		}
		a := p.gateways[0].agent()
		defer a.conn.Close()
		before := p.gateways[0].Status()
		a.download(all, time.Minute)
		after := p.gateways[0].Status()
		if after.Cached-before.Cached != 600_000 || after.WAN != before.WAN || after.Sibling != before.Sibling {
			t.Errorf("a device that came later: %+v and then %+v", before, after)
		}
		wan, sibling := uint64(0), uint64(0)
		for _, g := range p.gateways {
			s := g.Status()
			wan, sibling = wan+s.WAN, sibling+s.Sibling
			if s.WAN == 0 || s.Refused != 0 {
				t.Errorf("%s: %+v", g.name, s)
			}
		}
		if wan != 600_000 || sibling != 1_200_000 {
			t.Errorf("%d bytes over the WAN, %d between gateways", wan, sibling)
		}
	})
}

// A gateway whose owner hangs, dies or lies goes itself; one without an uplink has its siblings go.
func TestOwnerFails(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(g *gateway)
		within time.Duration
	}{
		"dead":           {func(g *gateway) { g.dead = true }, 10 * time.Second},
		"mute":           {func(g *gateway) { g.mute = true }, ownerTime + 10*time.Second},
		"lies":           {func(g *gateway) { g.lies = true }, 10 * time.Second},
		"without uplink": {func(g *gateway) { g.uplink = false }, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inPlant(t, 2, func(t *testing.T, p *plant) {
				all := p.core.chunks(16, 1000)
				p.gateways[1].set(c.fail)
				a := p.gateways[0].agent()
				defer a.conn.Close()
				start := time.Now()
				a.download(all, 10*time.Minute)
				if d := time.Since(start); d > c.within {
					t.Errorf("took %v", d)
				}
				if most, _ := p.core.times(); most != 1 {
					t.Errorf("the core answered %d times for one chunk", most)
				}
				if s := p.gateways[0].Status(); name == "lies" && s.Refused == 0 || s.WAN != 16_000 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
	inPlant(t, 2, func(t *testing.T, p *plant) {
		all := p.core.chunks(16, 1000)
		p.gateways[0].set(func(g *gateway) { g.uplink = false })
		a := p.gateways[0].agent()
		defer a.conn.Close()
		a.download(all, 10*time.Minute)
		if s := p.gateways[0].Status(); s.WAN != 0 || s.Sibling != 16_000 {
			t.Errorf("without an uplink: %+v", s)
		}
	})
}

// The WAN is cut in the middle of a download: what the site has is served, and when the WAN is back the rest comes, and nothing twice.
func TestWANIsCut(t *testing.T) {
	inPlant(t, 2, func(t *testing.T, p *plant) {
		all := p.core.chunks(200, 10_000)
		d, manifest := p.core.manifest(3*wire.MaxPart + 5)
		a := p.gateways[0].agent()
		defer a.conn.Close()
		var wg sync.WaitGroup
		wg.Go(func() { a.download(all, time.Hour) })
		time.Sleep(time.Second)
		wan := func(on bool) {
			for _, g := range p.gateways {
				g.set(func(g *gateway) { g.uplink = on })
			}
			if !on {
				p.core.cut()
			}
		}
		wan(false)
		_, before := p.core.times()
		if before == 0 || before == len(all) {
			t.Fatalf("%d chunks came before the cut", before)
		}
		time.Sleep(10 * time.Minute)
		had := p.gateways[1].Status().Sibling + p.gateways[1].Status().WAN
		b := p.gateways[1].agent()
		served := 0
		for _, f := range all {
			got, err := b.ask(t.Context(), &f)
			if err != nil {
				t.Fatal(err)
			}
			if got.Code == wire.CodeNone {
				served++
			} else if got.Code != wire.CodeUnavailable || got.RetryAfterMS == 0 {
				t.Errorf("refused with %+v", got)
			}
		}
		if served < before-1 || had == 0 { // one may have been on its way
			t.Errorf("%d of %d chunks that the site has are served by the other gateway", served, before)
		}
		b.conn.Close()
		wan(true)
		wg.Wait()
		if most, n := p.core.times(); most != 1 || n != len(all) {
			t.Errorf("the core answered %d times for %d chunks, %d for one", n, len(all), most)
		}
		// A manifest goes on where the cut was.
		p.core.with(func(c *core) { clear(c.asked); c.delay = 5 * time.Second })
		b = p.gateways[1].agent()
		wg.Go(func() { b.ask(t.Context(), &wire.Fetch{Kind: wire.ContentManifest, Digest: d}) }) //nolint:errcheck // it is cut
		time.Sleep(12 * time.Second)
		wan(false)
		wg.Wait()
		wan(true)
		b.conn.Close()
		time.Sleep(time.Minute)
		b = p.gateways[1].agent()
		defer b.conn.Close()
		var got []byte
		for len(got) < len(manifest) {
			got = append(got, b.want(wire.Fetch{Kind: wire.ContentManifest, Digest: d, Offset: uint64(len(got))}).Data...)
		}
		if most, n := p.core.times(); !bytes.Equal(got, manifest) || most > 1 || n != 4 {
			t.Errorf("%d bytes, the core was asked %d times, %d for one part", len(got), n, most)
		}
	})
}

// A disk that takes nothing slows down and fails nothing.
func TestDiskKeepsNothing(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) {
		p.gateways[0].disk.Limit(0)
		all := p.core.chunks(40, 10_000)
		d, manifest := p.core.manifest(2*wire.MaxPart + 5)
		a := p.gateways[0].agent()
		defer a.conn.Close()
		a.download(all, time.Minute)
		b := a.want(wire.Fetch{Kind: wire.ContentManifest, Digest: d, Offset: wire.MaxPart})
		if !bytes.Equal(b.Data, manifest[wire.MaxPart:2*wire.MaxPart]) || b.Total != uint64(len(manifest)) {
			t.Errorf("a part of %d bytes of %d", len(b.Data), b.Total)
		}
		if most, n := p.core.times(); most > 2 || n > len(all)+wire.MaxFetches+1 { // what was fetched ahead when the disk failed
			t.Errorf("the core answered %d times, for one chunk %d times", n, most)
		}
		if s := p.gateways[0].Cache.Status(); s.Failed == 0 || s.Files != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// What rots on the disk is fetched anew and never handed out.
func TestDamagedFile(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) {
		g := p.gateways[0]
		f := p.core.chunks(1, 10_000)[0]
		a := g.agent()
		defer a.conn.Close()
		a.want(f)
		g.disk.Flip(g.disk.Files()[0], 8*500)
		a.want(f)
		if _, n := p.core.times(); n != 2 || g.Cache.Status().Damaged != 1 {
			t.Errorf("the core answered %d times, %+v", n, g.Cache.Status())
		}
	})
}

// A core that brings other bytes than were asked for is refused, and nothing of it is kept.
func TestCoreLies(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) {
		g := p.gateways[0]
		f := p.core.chunks(1, 1000)[0]
		d, manifest := p.core.manifest(1000)
		p.core.with(func(c *core) { c.broken = true })
		a := g.agent()
		defer a.conn.Close()
		m := wire.Fetch{Kind: wire.ContentManifest, Digest: d}
		if b := a.refused(f); b.Code != wire.CodeUnavailable || b.RetryAfterMS == 0 {
			t.Errorf("refused with %+v", b)
		}
		if a.refused(m); g.Status().Refused < 2 || len(g.disk.Files()) != 0 {
			t.Errorf("%+v, kept %v", g.Status(), g.disk.Files())
		}
		p.core.with(func(c *core) { c.broken = false })
		a.want(f)
		if !bytes.Equal(a.want(m).Data, manifest) {
			t.Error("another manifest")
		}
	})
}

// A manifest that a sibling has spoilt is fetched anew from the core.
func TestManifestOfALiar(t *testing.T) {
	inPlant(t, 2, func(t *testing.T, p *plant) {
		p.gateways[1].set(func(g *gateway) { g.lies = true })
		d, manifest := p.core.manifest(2*wire.MaxPart + 5)
		a := p.gateways[0].agent()
		defer a.conn.Close()
		var got []byte
		for len(got) < len(manifest) {
			got = append(got, a.want(wire.Fetch{Kind: wire.ContentManifest, Digest: d, Offset: uint64(len(got))}).Data...)
		}
		if !bytes.Equal(got, manifest) {
			t.Error("another manifest")
		}
		if b := a.refused(wire.Fetch{Kind: wire.ContentManifest, Digest: d, Offset: uint64(len(manifest))}); b.Code != wire.CodeMalformed {
			t.Errorf("behind its end: %+v", b)
		}
	})
}

// Questions that cannot be answered are refused, and the session goes on.
func TestRefusals(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) {
		f := p.core.chunks(1, 1000)[0]
		a := p.gateways[0].agent()
		defer a.conn.Close()
		local := f
		local.Local = true
		for i, c := range []struct {
			f    wire.Fetch
			want wire.Code
		}{
			{wire.Fetch{Kind: wire.ContentChunk}, wire.CodeMalformed},
			{wire.Fetch{Kind: wire.ContentPublishers}, wire.CodeMalformed},
			{wire.Fetch{Kind: 9, Digest: f.Digest}, wire.CodeUnsupported},
			{wire.Fetch{Kind: wire.ContentChunk, Digest: wire.Digest{1}}, wire.CodeNoContent},
			{local, wire.CodeNoContent},
		} {
			if b := a.refused(c.f); b.Code != c.want {
				t.Errorf("%d: refused with %v %s, want %v", i, b.Code, b.Detail, c.want)
			}
		}
		a.want(f)
		a.want(local)
		time.Sleep(quietTime + time.Second)
		synctest.Wait()
		if a.alive() {
			t.Error("a session that asks for nothing stays open")
		}
	})
}

// Another node is asked when one refuses.
func TestAnotherNode(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) {
		p.core.with(func(c *core) { c.refuse = wire.Refuse(wire.CodeBusy, "too much to do") })
		a := p.gateways[0].agent()
		defer a.conn.Close()
		a.want(p.core.chunks(1, 1000)[0])
		if p.core.with(func(c *core) {
			if len(c.ways) != 2 || c.ways[1] != "core-2" {
				t.Errorf("dialled %v", c.ways)
			}
		}); p.gateways[0].Status().WAN != 1000 {
			t.Error("not by the core")
		}
	})
}

// Sets of publishers are fetched as they are told, verified one by the other, and are there without the WAN, also after a restart.
// A core that offers one that does not verify is counted, and who asks for it decides himself.
func TestPublishers(t *testing.T) {
	_, root, _ := ed25519.GenerateKey(nil)
	pub, publisher, _ := ed25519.GenerateKey(nil)
	inPlant(t, 2, func(t *testing.T, p *plant) {
		who := seal.Publisher{Name: "ops", Key: pub}
		p.core.set(1, root, p.core.authority.Key, who)
		p.core.set(2, root, root, who)
		p.core.set(3, root, p.core.authority.Key, seal.Publisher{Name: "mallory", Key: pub}, who) // the core may not
		g := p.gateways[0]
		tell := func(n uint64) {
			g.told.mu.Lock()
			g.told.publishers = n
			g.told.mu.Unlock()
			g.Changed()
			time.Sleep(time.Minute)
		}
		tell(2)
		if n := g.sets.number(); n != 2 || !g.Cache.Has(setKey(1)) || !g.Cache.Has(setKey(2)) {
			t.Fatalf("has %d sets", n)
		}
		r := seal.Release{Format: 1, Name: "app", Version: "1", Number: 1, Manifest: wire.Digest{7}}
		good, err := seal.SealRelease(&r, publisher)
		if err != nil {
			t.Fatal(err)
		}
		bad, err := seal.SealRelease(&r, root)
		if err != nil {
			t.Fatal(err)
		}
		release := cache.Key{Kind: wire.ContentRelease, Digest: wire.Digest{7}}
		a := g.agent()
		for _, c := range []struct {
			sealed []byte
			kept   bool
		}{{bad, false}, {good, true}} {
			p.core.with(func(x *core) { x.has[release] = c.sealed })
			if b := a.want(wire.Fetch{Kind: wire.ContentRelease, Digest: wire.Digest{7}}); !bytes.Equal(b.Data, c.sealed) || g.Cache.Has(release) != c.kept {
				t.Errorf("a release of %d bytes, kept %v", len(b.Data), g.Cache.Has(release))
			}
		}
		tell(3)
		a.conn.Close()
		a = g.agent()
		if b := a.want(wire.Fetch{Kind: wire.ContentPublishers, Number: 3}); g.sets.number() != 2 || g.Cache.Has(setKey(3)) || g.Status().BadSets == 0 || len(b.Data) == 0 {
			t.Errorf("a forged set: has %d, %+v", g.sets.number(), g.Status())
		}
		a.conn.Close()
		for _, g := range p.gateways {
			g.set(func(g *gateway) { g.uplink = false })
		}
		g.stop()
		g.start()
		// The other gateway takes the sets from this one, and the release, but not what is not proved.
		b := p.gateways[1].agent()
		defer b.conn.Close()
		b.refused(wire.Fetch{Kind: wire.ContentPublishers, Number: 2})
		for n := range uint64(2) {
			b.want(wire.Fetch{Kind: wire.ContentPublishers, Number: n + 1})
		}
		b.want(wire.Fetch{Kind: wire.ContentRelease, Digest: wire.Digest{7}})
		b.refused(wire.Fetch{Kind: wire.ContentPublishers, Number: 3})
		if n := p.gateways[1].sets.number(); n != 2 {
			t.Errorf("the other gateway has %d sets", n)
		}
	})
}
