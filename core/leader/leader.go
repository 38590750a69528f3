// Package leader runs the duties that only the leader has. They start with leadership and have stopped before the next term's
// begin; every one proposes through the log, which refuses what no longer fits.
package leader

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
)

// Registry is what the duties need of the replicated state.
type Registry interface {
	View() registry.View
	Propose(ctx context.Context, c command.Command) (any, error)
}

// Config of Run. All fields are required.
type Config struct {
	Lead     func() (raftstore.Leadership, <-chan struct{})
	Registry Registry
	Tracker  *liveness.Tracker
	Log      *slog.Logger
}

// Run follows leadership until ctx ends.
func Run(ctx context.Context, c Config) error {
	for {
		l, changed := c.Lead()
		c.Tracker.Lead(l.Leader, time.Now())
		if l.Leader {
			c.duties(ctx, changed)
		} else {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an end that was asked for is no error
		}
	}
}

// duties runs until leadership changes.
func (c *Config) duties(ctx context.Context, changed <-chan struct{}) {
	c.Log.Info("this node leads")
	t := time.NewTicker(c.Tracker.Period() / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.survey(ctx)
		case <-changed:
			c.Log.Info("this node no longer leads")
			return
		case <-ctx.Done():
			return
		}
	}
}

// proposeTime bounds one proposal; what it did not get done is done at the next tick.
const proposeTime = 5 * time.Second

// survey commits what silence means: sites that fell silent or came back, devices that nobody vouches for.
func (c *Config) survey(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	now := time.Now()
	sites, expired := c.Tracker.Survey(c.Registry.View(), now)
	for name, reachable := range sites {
		c.propose(ctx, &command.SiteReach{Site: name, Reachable: reachable, AtMS: c.Tracker.SiteHeard(name, now).UnixMilli()})
	}
	byGateway := make(map[string][]command.PresenceItem)
	for _, e := range expired {
		byGateway[e.Gateway] = append(byGateway[e.Gateway], command.PresenceItem{
			Device: e.Device, AtMS: now.UnixMilli(), LastMS: e.Last.UnixMilli(),
		})
	}
	for gw, items := range byGateway {
		for len(items) > 0 {
			n := min(len(items), maxItems)
			c.propose(ctx, &command.Presence{Gateway: gw, Items: items[:n]})
			items = items[n:]
		}
	}
}

// maxItems bounds the transitions of one command.
const maxItems = 1000

func (c *Config) propose(ctx context.Context, cmd command.Command) {
	if _, err := c.Registry.Propose(ctx, cmd); err != nil {
		c.Log.Warn("leader's duty not committed, trying again at the next tick", "err", err)
	}
}
