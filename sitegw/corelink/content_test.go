package corelink

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// fetch opens a session for content away from the ways that were tried, and returns its way and who answers.
func (p *plant) fetch(tried map[string]bool) (way, node string) {
	p.t.Helper()
	ls, way, err := p.link.DialContent(p.t.Context(), tried)
	if err != nil {
		p.t.Fatal(err)
	}
	defer ls.Close()
	if err := ls.Send(wire.TypeFetch, wire.Fetch{Kind: wire.ContentChunk, Digest: wire.Digest{1}}); err != nil {
		p.t.Fatal(err)
	}
	t, body, err := ls.RecvWithin(time.Minute)
	var b wire.Blob
	if err != nil || t != wire.TypeBlob || wire.Unmarshal(body, &b) != nil {
		p.t.Fatalf("got %v, %v", t, err)
	}
	return way, string(b.Data)
}

// Content comes from the node that the uplink is with, and from another one where that was tried, or does not answer.
func TestContentNodes(t *testing.T) {
	worldOf(t, 3, func(t *testing.T, p *plant) {
		p.start()
		if _, _, err := p.link.DialContent(t.Context(), nil); err == nil {
			t.Error("a session for content without an uplink")
		}
		p.start(p.serve()...)
		n := p.connected(time.Second)
		if way, node := p.fetch(nil); way != n.addr || node != n.name {
			t.Errorf("content comes from %s at %s, the uplink is with %s", node, way, n.name)
		}
		tried := make(map[string]bool)
		for range p.nodes {
			way, _ := p.fetch(tried)
			if tried[way] {
				t.Errorf("%s was tried", way)
			}
			tried[way] = true
		}
		if way, _ := p.fetch(tried); way != n.addr {
			t.Errorf("begins again with %s", way)
		}
		n.cut(true)
		start := time.Now()
		if way, _ := p.fetch(nil); way == n.addr || time.Since(start) > attemptTime+time.Second {
			t.Errorf("content comes from %s after %v", way, time.Since(start))
		}
		n.cut(false)
	})
}

// Where the uplink is relayed, content is, too.
func TestContentThroughASibling(t *testing.T) {
	relayed(t, 1, func(t *testing.T, p *plant, addrs []string) {
		p.start(addrs...)
		p.via("", time.Second)
		p.nodes[0].cut(true)
		p.via("gw-c", 30*time.Second)
		p.relays.asks()
		if way, node := p.fetch(nil); way != "gw-c" || node != p.nodes[0].name {
			t.Errorf("content comes from %s by %s", node, way)
		}
		if got := p.relays.asks(); len(got) != 1 || got[0] != "gw-c" {
			t.Errorf("asked %q", got)
		}
		p.nodes[0].cut(false)
	})
}
