package sitegw

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// ErrRetired says that the authority's list of the site no longer has this gateway. Nothing on its disk is touched, and it must
// not be started again.
var ErrRetired = errors.New("this gateway has ended: the core revoked it, or enrolled another machine under its name")

// changed takes the mirror's news to the sessions, to those with siblings, and to whoever looks whether this gateway is still in the
// list. The agents' sessions are first: agents that know the list leave by themselves.
func (g *Gateway) changed(devices []ident.DeviceID, site bool) {
	g.agents.Changed(devices, site)
	if site {
		g.content.Changed()
		g.peers.Changed()
		g.mesh.ListChanged()
		select {
		case g.listed <- struct{}{}:
		default:
		}
	}
}

// retired is ErrRetired when the authority's list says that this gateway has ended. A core node's word alone, unsigned, stops no
// plant.
func (g *Gateway) retired() error {
	leaf := g.cred.Certificate().Leaf
	self := ident.Peer{ID: g.cred.ID, Key: g.cred.KeyID, Leaf: leaf}
	if !g.mirror.Drops(self.ID.Name, self.Key, self.Issued()) {
		return nil
	}
	return fmt.Errorf("%w; %s keeps what it had not passed on, which its devices bring elsewhere; to bring the machine back, enroll it with a new token into an empty data directory",
		ErrRetired, g.DataDir)
}

// watchList ends the gateway once the authority's list says that it has ended.
func (g *Gateway) watchList(ctx context.Context) error {
	for {
		if err := g.retired(); err != nil {
			g.Log.Error("this gateway stops for good", "identity", g.cred.ID.String(), "err", err)
			return err
		}
		select {
		case <-g.listed:
		case <-ctx.Done():
			return nil
		}
	}
}
