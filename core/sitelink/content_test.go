package sitelink

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A shelf is the content of this node and of another one.
type shelf struct {
	mu          sync.Mutex
	here, there map[wire.Digest][]byte
	err         error // what the other one says
}

// Local implements Content.
func (s *shelf) Local(d wire.Digest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.here[d]; ok {
		return b, nil
	}
	return nil, content.ErrMissing
}

// Get implements Content.
func (s *shelf) Get(_ context.Context, d wire.Digest) ([]byte, error) {
	if b, err := s.Local(d); err == nil {
		return b, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.there[d]; ok {
		return b, nil
	}
	if s.err != nil {
		return nil, s.err
	}
	return nil, content.ErrMissing
}

func shelve(list []pack.Chunk) map[wire.Digest][]byte {
	out := make(map[wire.Digest][]byte)
	for _, c := range list {
		out[c.Digest] = c.Stored
	}
	return out
}

// stock makes an artifact known whose manifest has two parts, one of which is on another node, as are half of its chunks.
func (c *core) stock() *contenttest.Artifact {
	c.t.Helper()
	c.do(contenttest.Publishers(c.t, "acme", c.keys.Authority()))
	a := contenttest.New(c.t, "app", 1, 40, 6_000)
	if len(a.Parts) != 2 {
		c.t.Fatalf("%d parts", len(a.Parts))
	}
	c.content.mu.Lock()
	defer c.content.mu.Unlock()
	c.content.here = shelve(append(slices.Clone(a.Chunks[:20]), a.Parts[0]))
	c.content.there = shelve(append(slices.Clone(a.Chunks[20:]), a.Parts[1]))
	c.do(a.Add())
	return a
}

// fetching opens a session for content as a gateway that is enrolled.
func (c *core) fetching(id ident.ID, ep ident.Endpoint) *gateway {
	c.t.Helper()
	conn, _ := c.socket()
	tr := link.NewTransport(conn, nil)
	s, err := tr.Dial(c.t.Context(), c.addr, ep.Client(wire.ALPNUplink, ident.RoleCore, nil), link.Options{Limits: link.ContentLimits})
	if err != nil {
		c.t.Fatal(err)
	}
	return &gateway{Session: s, c: c, id: id, tr: tr}
}

// enrolled makes a gateway's record.
func (c *core) enrolled(site, name string) (ident.ID, ident.Endpoint) {
	c.t.Helper()
	id := ident.Gateway("acme", site, name)
	key, ep := c.endpoint(id)
	c.do(&command.Enroll{Token: c.token(seal.KindGateway, site).ID, Kind: seal.KindGateway, Name: name, SPKI: spkiOf(c.t, key)})
	return id, ep
}

// fetch asks and waits for the answer.
func (g *gateway) fetch(f wire.Fetch) *wire.Blob {
	g.c.t.Helper()
	g.send(wire.TypeFetch, f)
	return recv[wire.Blob](g, wire.TypeBlob)
}

func TestContentSession(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		a := c.stock()
		g := c.fetching(c.enrolled("plant-7", "gw-a"))
		defer g.hangUp()
		for i := 0; i < len(a.Chunks); i += wire.MaxFetches { // as many at a time as may be, answered in order
			some := a.Chunks[i:min(i+wire.MaxFetches, len(a.Chunks))]
			for _, x := range some {
				g.send(wire.TypeFetch, wire.Fetch{Capability: 1, Kind: wire.ContentChunk, Digest: x.Digest})
			}
			for _, x := range some {
				if b := recv[wire.Blob](g, wire.TypeBlob); b.Code != 0 || b.Codec != wire.Codec(x.Stored[0]) || !bytes.Equal(b.Data, x.Stored[1:]) {
					t.Fatalf("chunk %s: %+v", x.Digest.Short(), b)
				}
			}
		}
		var manifest []byte
		for total := uint64(1); uint64(len(manifest)) < total; {
			b := g.fetch(wire.Fetch{Kind: wire.ContentManifest, Digest: a.Digest, Offset: uint64(len(manifest))})
			if b.Code != 0 || b.Codec != wire.CodecRaw {
				t.Fatalf("manifest: %+v", b)
			}
			total = b.Total
			manifest = append(manifest, b.Data...)
		}
		if wire.DigestOf(manifest) != a.Digest {
			t.Error("another manifest")
		}
		if b := g.fetch(wire.Fetch{Kind: wire.ContentRelease, Digest: a.Digest}); !bytes.Equal(b.Data, a.Release) {
			t.Errorf("release: %+v", b)
		}
		b := g.fetch(wire.Fetch{Kind: wire.ContentPublishers, Number: 1})
		if _, err := seal.OpenPublisherSet(b.Data, "acme", nil, c.authority()); err != nil {
			t.Errorf("publishers: %v", err)
		}
		c.content.mu.Lock()
		c.content.err = content.ErrUnreached
		c.content.mu.Unlock()
		for name, tc := range map[string]struct {
			fetch wire.Fetch
			want  wire.Code
		}{
			"chunk that no node was found to have": {wire.Fetch{Kind: wire.ContentChunk, Digest: wire.DigestOf(nil)}, wire.CodeUnavailable},
			"chunk of another node, asked of this": {wire.Fetch{Kind: wire.ContentChunk, Digest: a.Chunks[30].Digest, Local: true}, wire.CodeNoContent},
			"unknown manifest":                     {wire.Fetch{Kind: wire.ContentManifest, Digest: wire.DigestOf(nil)}, wire.CodeNoContent},
			"unknown release":                      {wire.Fetch{Kind: wire.ContentRelease, Digest: wire.DigestOf(nil)}, wire.CodeNoContent},
			"no part":                              {wire.Fetch{Kind: wire.ContentManifest, Digest: a.Digest, Offset: 7}, wire.CodeMalformed},
			"behind the manifest":                  {wire.Fetch{Kind: wire.ContentManifest, Digest: a.Digest, Offset: 1 << 63}, wire.CodeMalformed},
			"a set to come":                        {wire.Fetch{Kind: wire.ContentPublishers, Number: 2}, wire.CodeNoContent},
			"set zero":                             {wire.Fetch{Kind: wire.ContentPublishers}, wire.CodeNoContent},
			"unknown kind":                         {wire.Fetch{Kind: 99}, wire.CodeUnsupported},
		} {
			if b := g.fetch(tc.fetch); b.Code != tc.want || len(b.Data) != 0 || (b.RetryAfterMS != 0) != (tc.want == wire.CodeUnavailable) {
				t.Errorf("%s: %+v", name, b)
			}
		}
		c.content.mu.Lock()
		c.content.err = nil
		c.content.mu.Unlock()
		if b := g.fetch(wire.Fetch{Kind: wire.ContentChunk, Digest: wire.DigestOf(nil)}); b.Code != wire.CodeNoContent {
			t.Errorf("chunk that no node has: %+v", b)
		}
		if _, heard := c.tracker.LastHeard("plant-7/gw-a", time.Now()); heard {
			t.Error("a session for content counts as an uplink")
		}
	})
}

// A node that is behind learns of an artifact when it is asked for it.
func TestContentOfANodeBehind(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		id, ep := c.enrolled("plant-7", "gw-a")
		c.fallBehind()
		a := c.stock()
		g := c.fetching(id, ep)
		defer g.hangUp()
		if b := g.fetch(wire.Fetch{Kind: wire.ContentRelease, Digest: a.Digest}); !bytes.Equal(b.Data, a.Release) {
			t.Errorf("release: %+v", b)
		}
	})
}

// A gateway that is revoked fetches nothing, neither in a session that is open nor in a new one.
func TestContentRefused(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		a := c.stock()
		ask := wire.Fetch{Kind: wire.ContentChunk, Digest: a.Chunks[0].Digest}
		refused := func(g *gateway, want wire.Code) {
			t.Helper()
			if err := g.Send(wire.TypeFetch, ask); err != nil && !errors.As(err, new(*wire.Error)) {
				t.Error(err)
			}
			if e := recv[wire.Error](g, wire.TypeError); e.Code != want {
				t.Errorf("told %+v, want %v", e, want)
			}
			g.hangUp()
		}
		id, ep := c.enrolled("plant-7", "gw-a")
		g := c.fetching(id, ep)
		if b := g.fetch(ask); b.Code != 0 {
			t.Errorf("%+v", b)
		}
		c.do(&command.RevokeGateway{Gateway: "plant-7/gw-a", Reason: "stolen"})
		refused(g, wire.CodeRetired)
		refused(c.fetching(id, ep), wire.CodeRetired)
		stranger := ident.Gateway("acme", "plant-7", "gw-z")
		_, ep = c.endpoint(stranger)
		refused(c.fetching(stranger, ep), wire.CodeUnknownKey)
	})
}

// A gateway has few sessions for content at a time; one that is silent ends; one that says something else ends.
func TestContentBounds(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		a := c.stock()
		ask := wire.Fetch{Kind: wire.ContentChunk, Digest: a.Chunks[0].Digest}
		id, ep := c.enrolled("plant-7", "gw-a")
		var open []*gateway
		for range maxContentEach {
			g := c.fetching(id, ep)
			g.fetch(ask)
			open = append(open, g)
		}
		more := c.fetching(id, ep)
		more.send(wire.TypeFetch, ask)
		if e := recv[wire.Error](more, wire.TypeError); e.Code != wire.CodeBusy || e.RetryAfter() == 0 {
			t.Errorf("told %+v", e)
		}
		more.hangUp()
		open[0].send(wire.TypeAsk, wire.Ask{})
		if e := recv[wire.Error](open[0], wire.TypeError); e.Code != wire.CodeMalformed {
			t.Errorf("told %+v", e)
		}
		settle()
		again := c.fetching(id, ep)
		again.fetch(ask)
		time.Sleep(contentIdle + time.Second)
		for _, g := range append(open[1:], again) {
			if _, _, err := g.Recv(); err == nil {
				t.Error("a silent session goes on")
			}
		}
		for _, g := range append(open, again) {
			g.hangUp()
		}
	})
}
