package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

const removeText = "The fleet's keys are put where the node cannot open them. It takes a majority of the nodes that remain."

func (s *server) whoami(_ context.Context, c *call, _ *struct{}) (*reply[v1.Whoami], error) {
	out := v1.Whoami{ID: c.who.ID, Operator: c.who.Name, Role: string(c.who.Role), Sites: append([]string{}, c.who.Sites...)}
	if f := c.view.Fleet(); f != nil {
		out.Fleet = f.Name
	}
	return answer(out), nil
}

func (s *server) getCluster(ctx context.Context, _ *call, _ *struct{}) (*reply[v1.Cluster], error) {
	return s.clusterReply(ctx), nil
}

func (s *server) clusterReply(ctx context.Context) *reply[v1.Cluster] {
	out := s.Cluster.Status(ctx)
	if out.Nodes == nil {
		out.Nodes = []v1.Node{}
	}
	return answer(out)
}

type removeNodeInput struct {
	Name string `path:"name" maxLength:"63" doc:"the node's name"`
}

func (s *server) removeNode(ctx context.Context, c *call, in *removeNodeInput) (*reply[v1.Cluster], error) {
	if err := ident.CheckName("core node", in.Name); err != nil {
		return nil, invalid("path.name", "%v", err)
	}
	member := false
	if f := c.view.Fleet(); f != nil {
		_, member = f.Node(in.Name)
	}
	if !member && c.once == nil { // with a key it may be a repetition, of which the registry knows
		return nil, fmt.Errorf("core node %s: %w", in.Name, registry.ErrNotFound)
	}
	if err := s.Cluster.Remove(ctx, c.actor(), in.Name); err != nil {
		return nil, err
	}
	c.replayed(!member)
	return s.clusterReply(ctx), nil
}

func (s *server) makeSnapshot(ctx context.Context, _ *call, _ *struct{}) (*reply[v1.Snapshot], error) {
	out, err := s.Cluster.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return answer(out), nil
}

type transferInput struct {
	Body *v1.TransferLeadership
}

func (s *server) transferLeadership(ctx context.Context, _ *call, in *transferInput) (*reply[v1.Cluster], error) {
	to := ""
	if in.Body != nil {
		to = in.Body.To
	}
	if to != "" {
		if err := ident.CheckName("core node", to); err != nil {
			return nil, invalid("body.to", "%v", err)
		}
	}
	switch err := s.Cluster.Transfer(ctx, to); {
	case errors.Is(err, raftstore.ErrNotMember):
		return nil, invalid("body.to", "the core has no node %q that can lead", to)
	case err != nil:
		return nil, err
	}
	return s.clusterReply(ctx), nil
}

func (s *server) healthz(context.Context, *call, *struct{}) (*reply[v1.Health], error) {
	return answer(v1.Health{Status: "ok"}), nil
}

// UnreadyError is an error of Config.Ready whose text may be shown to everybody: it names no secret, path or address.
type UnreadyError string

// Error implements error.
func (u UnreadyError) Error() string { return string(u) }

func (s *server) readyz(ctx context.Context, _ *call, _ *struct{}) (*reply[v1.Health], error) {
	if err := s.Ready(); err != nil {
		why := unready(err)
		if why == "" {
			s.Log.WarnContext(ctx, "node not ready", "err", err)
			why = "its log says why"
		}
		return nil, later(v1.ProblemUnavailable, "not ready: "+why)
	}
	return answer(v1.Health{Status: "ok"}), nil
}

// unready says why a node cannot serve, as far as everybody may know; empty: that is not known to be harmless.
func unready(err error) string {
	if u, ok := errors.AsType[UnreadyError](err); ok {
		return clip(string(u))
	}
	for _, known := range []struct {
		err  error
		says string
	}{
		{raftstore.ErrRemoved, "this node was removed from the core"},
		{raftstore.ErrDiverged, "this node's state differs from the majority's"},
		{raftstore.ErrStorage, "this node's storage failed"},
		{raftstore.ErrNotLeader, "no leader is known"},
		{raftstore.ErrClosed, "this node is stopping"},
		{history.ErrFailed, "this node's storage failed"},
		{history.ErrIncomplete, "this node fetches history that it lacks"},
		{registry.ErrNoFleet, "the fleet has not been made"},
	} {
		if errors.Is(err, known.err) {
			return known.says
		}
	}
	return ""
}
