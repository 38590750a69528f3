package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire"
)

// What core nodes ask of one another, beside what their stores do. docs/core-state.md has the table.
const (
	methodPresence = raftstore.FirstMethod + iota // sharedPresence; answered with nothing
	methodHistory                                 // historyRequest; answered with a chunk of the history
	methodState                                   // nothing; answered with peerState
	methodContent                                 // and those behind it: see content.Call
)

// sharedPresence is what a node tells of the gateways that are connected to it.
type sharedPresence struct {
	Gateways []liveness.GatewayState `cbor:"1,keyasint"`
}

// historyRequest asks for the records behind (After, AfterN) up to log index Upto.
type historyRequest struct {
	After  uint64 `cbor:"1,keyasint"`
	AfterN uint32 `cbor:"2,keyasint"`
	Upto   uint64 `cbor:"3,keyasint"`
}

// peerState is what a node says of itself.
type peerState struct {
	Applied    uint64 `cbor:"1,keyasint"` // log index
	CatchingUp bool   `cbor:"2,keyasint,omitempty"`
}

const (
	peerTime     = 3 * time.Second  // for one call
	historyTime  = 30 * time.Second // for one chunk
	historyChunk = 1 << 20          // bytes
	// ahead is how far ahead of this node's clock a gateway's time may be.
	ahead = 5 * time.Minute
)

// peers is the conversation of this node with the other nodes of the core.
type peers struct {
	name    string
	history *history.Store
	content *content.Keeper
	tracker *liveness.Tracker
	wall    func() time.Time
	log     *slog.Logger
	raft    atomic.Pointer[raftstore.Store] // set once it is open; calls may come in before
}

var errStarting = errors.New("the node is starting")

// handle answers a call of another node. It is a raftstore.Config's Handler.
func (p *peers) handle(ctx context.Context, from string, method uint8, body []byte) ([]byte, error) {
	switch method {
	case methodPresence:
		var m sharedPresence
		if err := wire.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		now, limit := time.Now(), p.wall().Add(ahead)
		for i := range m.Gateways {
			p.tracker.Import(from, &m.Gateways[i], now, limit)
		}
		return nil, nil
	case methodHistory:
		var m historyRequest
		if err := wire.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		chunk, _, err := p.history.Export(m.After, m.AfterN, m.Upto, historyChunk) //nolint:contextcheck // one chunk is read at once
		return chunk, err
	case methodState:
		r := p.raft.Load()
		if r == nil {
			return nil, errStarting
		}
		_, _, _, gap := p.history.Missing()
		return wire.Marshal(peerState{Applied: r.Status().AppliedIndex, CatchingUp: gap})
	}
	if method >= methodContent {
		return p.content.Handle(ctx, content.Call(method-methodContent), body)
	}
	return nil, fmt.Errorf("method %d is not known to this build: %w", method, wire.ErrMalformed)
}

// others are the names of the other members.
func (p *peers) others() []string {
	var out []string
	for _, n := range p.raft.Load().Status().Nodes {
		if n.ID != p.name {
			out = append(out, n.ID)
		}
	}
	return out
}

// each calls f for every other member at once, and returns when all are through.
func (p *peers) each(ctx context.Context, f func(ctx context.Context, node string)) {
	var wg sync.WaitGroup
	for _, node := range p.others() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, peerTime)
			defer cancel()
			f(ctx, node)
		})
	}
	wg.Wait()
}

// share tells the other nodes what is heard here, until ctx ends.
func (p *peers) share(ctx context.Context) error {
	t := time.NewTicker(min(max(p.tracker.Period()/10, 100*time.Millisecond), time.Second))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		for _, part := range split(p.tracker.Export(time.Now())) {
			body, err := wire.Marshal(sharedPresence{Gateways: part})
			if err != nil {
				return fmt.Errorf("encode presence: %w", err)
			}
			p.each(ctx, func(ctx context.Context, node string) {
				if _, err := p.raft.Load().Call(ctx, node, methodPresence, body); err != nil {
					p.log.Debug("presence not told", "node", node, "err", err) // it is told again within a report period
				}
			})
		}
	}
}

const (
	maxCallGateways = 256
	maxCallDevices  = 40_000 // under 2 MiB
)

// split cuts what is to be told into calls of a bounded size.
func split(all []liveness.GatewayState) [][]liveness.GatewayState {
	var out [][]liveness.GatewayState
	from, devices := 0, 0
	for i := range all {
		if n := len(all[i].Devices); i > from && (devices+n > maxCallDevices || i-from == maxCallGateways) {
			out = append(out, all[from:i])
			from, devices = i, 0
		}
		devices += len(all[i].Devices)
	}
	if from < len(all) {
		out = append(out, all[from:])
	}
	return out
}

// states asks every other member how it is. Who does not answer is not in the result.
func (p *peers) states(ctx context.Context) map[string]peerState {
	var mu sync.Mutex
	out := make(map[string]peerState)
	p.each(ctx, func(ctx context.Context, node string) {
		b, err := p.raft.Load().Call(ctx, node, methodState, nil)
		var st peerState
		if err != nil || wire.Unmarshal(b, &st) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		out[node] = st
	})
	return out
}

// catchUpEvery is how often a node looks whether its history has a gap.
const catchUpEvery = time.Second

// catchUp fills gaps in the history from the other nodes, until ctx ends. It returns an error when this node cannot go on.
func (p *peers) catchUp(ctx context.Context) error {
	t := time.NewTicker(catchUpEvery)
	defer t.Stop()
	for {
		if _, _, upto, open := p.history.Missing(); open {
			if err := p.fill(ctx, upto); err != nil {
				return err
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// fill asks one node after the other for what is missing.
func (p *peers) fill(ctx context.Context, upto uint64) error {
	nodes := p.others()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] }) //nolint:gosec // G404: spreads the work
	for _, node := range nodes {
		done, err := p.fillFrom(ctx, node)
		switch {
		case done:
			p.log.Info("history is whole again", "up_to", upto, "from", node)
			return nil
		case errors.Is(err, history.ErrMismatch), errors.Is(err, history.ErrChunk):
			p.log.Error("another node's history is not what the registry says", "node", node, "err", err)
		case errors.Is(err, errAsk):
			p.log.Info("history not fetched, trying another node", "node", node, "err", err)
		case ctx.Err() != nil:
			return nil //nolint:nilerr // an end that was asked for is no error
		case err != nil:
			return fmt.Errorf("fill the history: %w", err)
		}
	}
	return nil
}

// errAsk marks a failure to get a chunk, which another node may have.
var errAsk = errors.New("not answered")

func (p *peers) fillFrom(ctx context.Context, node string) (done bool, err error) {
	for {
		after, n, upto, open := p.history.Missing()
		if !open {
			return true, nil
		}
		body, err := wire.Marshal(historyRequest{After: after, AfterN: n, Upto: upto})
		if err != nil {
			return false, err
		}
		chunk, err := p.ask(ctx, node, body)
		if err != nil {
			return false, fmt.Errorf("%w: %w", errAsk, err)
		}
		if done, err := p.history.Fill(chunk); done || err != nil { //nolint:contextcheck // a chunk is taken as a whole
			return done, err
		}
	}
}

func (p *peers) ask(ctx context.Context, node string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	return p.raft.Load().Call(ctx, node, methodHistory, body)
}
