package sitegw

import (
	"context"
	"net"

	"github.com/holdfast-edge/holdfast/sitegw/content"
	"github.com/holdfast-edge/holdfast/sitegw/mesh"
	"github.com/holdfast-edge/holdfast/sitegw/sibling"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// served is what siblings may dial for.
func (g *Gateway) served() map[wire.Purpose]sibling.Handler {
	return map[wire.Purpose]sibling.Handler{
		wire.PurposeRelay:   func(ctx context.Context, r *sibling.Request) { g.relay.Serve(ctx, r) },
		wire.PurposeGossip:  welcome(func(ctx context.Context, from string, c net.Conn) { g.mesh.Gossip(ctx, from, c) }),
		wire.PurposePackets: welcome(func(ctx context.Context, from string, c net.Conn) { g.mesh.Packets(ctx, from, c) }),
		wire.PurposeContent: welcome(func(ctx context.Context, from string, c net.Conn) { g.content.Sibling(ctx, from, c) }),
		wire.PurposeMirror:  welcome(func(ctx context.Context, from string, c net.Conn) { g.mesh.Facts(ctx, from, c) }),
	}
}

// welcome accepts every sibling; serve decides what it gets.
func welcome(serve func(ctx context.Context, from string, c net.Conn)) sibling.Handler {
	return func(ctx context.Context, r *sibling.Request) {
		if c, err := r.Accept(); err == nil {
			serve(ctx, r.From, c)
		}
	}
}

func (g *Gateway) dialSibling(ctx context.Context, name string, p wire.Purpose) (net.Conn, error) {
	c, err := g.peers.Dial(ctx, name, p)
	if err != nil {
		return nil, err // a nil *Conn is no nil net.Conn
	}
	return c, nil
}

// wayUp is what the gateway has of a way to the core.
func (g *Gateway) wayUp() mesh.Uplink {
	switch _, direct := g.uplink.Direct(); {
	case direct:
		return mesh.Direct
	case g.uplink.Connected():
		return mesh.Relayed
	}
	return mesh.None
}

// howBusy is what the gateway has to do.
func (g *Gateway) howBusy() mesh.Load {
	return mesh.Load{Sessions: g.agents.Sessions(), Busy: g.busy.last()}
}

// relays are the siblings through which to look for the core, in the order of what the mesh says of them.
func (g *Gateway) relays() []string {
	all := g.mesh.Siblings()
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return names
}

// dialRelay opens a stream to the core through a sibling.
func (g *Gateway) dialRelay(ctx context.Context, name string) (net.Conn, error) {
	return g.dialSibling(ctx, name, wire.PurposeRelay)
}

// living are the siblings that are alive, as far as the mesh knows.
func (g *Gateway) living() []content.Sibling {
	var out []content.Sibling
	for _, s := range g.mesh.Siblings() {
		if s.Alive {
			out = append(out, content.Sibling{Name: s.Name, Uplink: s.Said && s.Meta.Uplink})
		}
	}
	return out
}

// dialContent opens a session for content with a sibling.
func (g *Gateway) dialContent(ctx context.Context, name string) (net.Conn, error) {
	return g.dialSibling(ctx, name, wire.PurposeContent)
}

// coreContent opens a session for content with the core.
func (g *Gateway) coreContent(ctx context.Context, tried map[string]bool) (content.Conn, string, error) {
	ls, way, err := g.uplink.DialContent(ctx, tried)
	if err != nil {
		return nil, "", err // a nil *Session is no nil Conn
	}
	return ls, way, nil
}

// downloads joins the agents' sessions for content to what serves them.
type downloads struct{ *content.Site }

// Serve implements agentlink.Content.
func (d downloads) Serve(ctx context.Context, ls *link.Session, first wire.Fetch, allowed func() *wire.Error) {
	d.Agent(ctx, ls, first, allowed)
}
