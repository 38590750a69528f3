package core

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
)

// A replica joins the pure registry to what must happen beside it: history is appended before anybody sees the new view, and
// subscribers are told after.
type replica struct {
	history *history.Store
	hub     *events.Hub
	view    atomic.Pointer[registry.View]

	state *registry.State // owned by the store's apply goroutine
}

var (
	_ raftstore.StateMachine = (*replica)(nil)
	_ raftstore.Hasher       = (*replica)(nil)
)

func newReplica(h *history.Store, hub *events.Hub) *replica {
	r := &replica{history: h, hub: hub, state: registry.New()}
	r.publish()
	return r
}

func (r *replica) publish() {
	v := r.state.View()
	r.view.Store(&v)
}

// Apply implements raftstore.StateMachine.
func (r *replica) Apply(m raftstore.Meta, commands [][]byte) ([]any, error) {
	eff, err := r.state.Apply(m.Index, m.Time, commands)
	if err != nil {
		return nil, err
	}
	recs := make([]history.Record, len(eff.Records))
	for i, x := range eff.Records {
		recs[i] = history.Record{
			Index: m.Index, N: uint32(i), Time: m.Time, Kind: history.Kind(x.Kind), Stream: history.StreamID(x.Stream), Data: x.Data,
		}
	}
	if err := r.history.Append(recs); err != nil {
		return nil, fmt.Errorf("append to the history: %w", err)
	}
	r.history.Applied(m.Index)
	r.publish()
	r.hub.Publish(eff.Events)
	return eff.Results, nil
}

// StateHash implements raftstore.Hasher.
func (r *replica) StateHash() [32]byte { return r.state.Hash() }

// Snapshot implements raftstore.StateMachine. What the log may drop afterwards must be in the history for good first.
func (r *replica) Snapshot() (raftstore.Snapshot, error) {
	if err := r.history.Sync(); err != nil {
		return nil, fmt.Errorf("sync the history: %w", err)
	}
	return snapshot{r.state.View()}, nil
}

// Restore implements raftstore.StateMachine. The history that the snapshot sums up may be missing here: the gap that then
// opens is filled from the other nodes, see peers.catchUp.
func (r *replica) Restore(rd io.Reader) error {
	s, err := registry.Restore(rd)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, rd); err != nil { // the end is where the store says that all of it verified
		return err
	}
	v := s.View()
	m := v.History()
	if err := r.history.Skip(v.Index(), history.Mark{Count: m.Count, Head: m.Head}); err != nil {
		return fmt.Errorf("note what the history lacks: %w", err)
	}
	r.state = s
	r.publish()
	r.hub.Forget(r.view.Load().Index())
	return nil
}

type snapshot struct{ registry.View }

// Release implements raftstore.Snapshot.
func (snapshot) Release() {}

// A store is the replicated registry as the rest of the core sees it.
type store struct {
	*replica
	raft *raftstore.Store
}

// View is the registry as this node knows it.
func (s *store) View() registry.View { return *s.view.Load() }

// Propose commits a command. A refusal by the registry is returned as the error; the result is what the command says.
func (s *store) Propose(ctx context.Context, c command.Command) (any, error) {
	b, err := command.Encode(c)
	if err != nil {
		return nil, err
	}
	res, _, err := s.raft.Propose(ctx, b)
	if err != nil {
		return nil, err
	}
	if err, ok := res.(error); ok {
		return nil, err
	}
	return res, nil
}

// Barrier waits until View shows everything that was committed before the call.
func (s *store) Barrier(ctx context.Context) error {
	_, err := s.raft.ReadBarrier(ctx)
	return err
}

// History is the node's history.
func (s *store) History() *history.Store { return s.history }
