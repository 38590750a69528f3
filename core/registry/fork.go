package registry

import (
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
)

// A gateway whose disk was copied while it runs, or put back to an older state, gives itself away in two ways. Its spool does
// not hold what the core has committed from it: the chain behind the record up to which that is (the mark) is another, or the
// spool ends before it. And runs that were replaced by one another come back in turn, which no restart does. One that comes back may have
// been replaced by mistake: by the hello of a run that had died, committed late. When the one that replaced it comes back, too, there
// are two.
//
// The mark travels with the statements and spans that it is about, and costs no entry of its own. It may be ahead of what the
// gateway has heard of, when an answer was lost, but never of the gateway's disk: a gateway sends nothing that is not synced. A
// core that was put back to an older state has an older mark, behind which its gateways have trimmed: nothing is held against them.
//
// A hello may be old when it is decided about. A gateway dials several nodes at once, and what the session that won brought can be committed
// before the other hello is looked at; one that died can leave a hello behind that its successor overtakes. So a spool that ends before the mark
// proves nothing, unless it was asked for the record after that was committed.

// keptGatewayRuns bounds the runs that are remembered of a gateway.
const keptGatewayRuns = 16

// Fork tells how a gateway that comes up contradicts the record; "": it does not, as far as the points that it showed reach. asked is
// the number of a mark that the record had before the gateway told s; 0: it was not asked. proof is the point there, nil when there is none.
// settled is false when no point is at the mark: then asking for that one may say more.
func (g *Gateway) Fork(run uint64, s *wire.SpoolEnds, asked uint64, proof *wire.SpoolPoint) (reason string, settled bool) {
	if i := g.run(run); i >= 0 && g.Runs[i].Refused || i > 0 && g.Runs[0].Back {
		return "runs that had replaced each other came back in turn: there are two of the gateway", true
	}
	if g.Spool == nil || g.Spool.Incarnation != s.Incarnation {
		return "", true
	}
	mark := g.Spool.Upto
	if s.Last.Seq < min(asked, mark.Seq) {
		return fmt.Sprintf("the spool ends with record %d, and %d were committed from it: it is an older copy", s.Last.Seq, mark.Seq), true
	}
	for _, p := range []*wire.SpoolPoint{&s.Trimmed, &s.Last, proof} {
		if p == nil || p.Seq != mark.Seq {
			continue
		}
		if p.Chain != mark.Chain {
			return fmt.Sprintf("record %d of the spool is not the one that was committed: it is a copy that went another way", mark.Seq), true
		}
		return "", true
	}
	return "", mark.Seq < s.Trimmed.Seq
}

// Known tells whether a run is the newest of the gateway, with the spool that the record has.
func (g *Gateway) Known(run uint64, s *wire.SpoolEnds) bool {
	return g.run(run) == 0 && g.Spool != nil && g.Spool.Incarnation == s.Incarnation
}

// run is the place of a run among those that are remembered; -1: it is not.
func (g *Gateway) run(run uint64) int {
	return slices.IndexFunc(g.Runs, func(r GatewayRun) bool { return r.Run == run })
}

// uplinked decides about a gateway that comes up. Result: nil: it is admitted; a *wire.Error: it is refused.
func (a *applier) uplinked(c *command.Uplinked) any {
	old, ok := a.view.gateways.get(c.Gateway)
	if !ok {
		return fmt.Errorf("gateway %s: %w", c.Gateway, ErrNotFound)
	}
	if _, active := old.ActiveKey(c.Key); !active {
		return ErrRevoked
	}
	if reason, settled := old.Fork(c.Run, &c.Spool, c.Asked, c.Proof); reason != "" {
		return a.forked(old, c.Run, old.run(c.Run) == 0, reason)
	} else if !settled && c.Asked != old.Spool.Upto.Seq {
		return ErrRetry // the mark went on since the proposer looked
	}
	if old.Known(c.Run, &c.Spool) {
		return nil
	}
	g := *old
	if i := old.run(c.Run); i != 0 {
		g.Runs = []GatewayRun{{Run: c.Run, Back: i > 0}}
		for _, r := range old.Runs {
			if r.Run != c.Run && len(g.Runs) < keptGatewayRuns {
				g.Runs = append(g.Runs, r)
			}
		}
	}
	data := make(map[string]string)
	if old.Spool == nil || old.Spool.Incarnation != c.Spool.Incarnation {
		g.Spool = &SpoolMark{Incarnation: c.Spool.Incarnation}
		if old.Spool != nil {
			data["spool"] = "new: what the one before had not passed on, the devices alone have"
		}
	}
	a.view.gateways.put(&g)
	a.event(EventGatewayStarted, Subject{Site: g.Site, Gateway: g.ID()}, data)
	return nil
}

// forked refuses a copy of a gateway and reports it: each run once, so that one that tries again and again makes one record. shared
// says that the copy acts as a run that is another machine's, too, so that no more is held against the run.
func (a *applier) forked(old *Gateway, run uint64, shared bool, reason string) *wire.Error {
	refusal := wire.Refuse(wire.CodeForked, "%s", reason)
	i := old.run(run)
	if shared {
		i = -1
	}
	if old.Forked != nil && old.Forked.Run == run && (i < 0 || old.Runs[i].Refused) {
		return refusal
	}
	g := *old
	g.Forked = &Fork{AtMS: a.ms, Run: run, Reason: reason}
	if i >= 0 {
		g.Runs = slices.Clone(old.Runs)
		g.Runs[i].Refused = true
	}
	a.view.gateways.put(&g)
	on, detail := Subject{Site: g.Site, Gateway: g.ID()}, map[string]string{"reason": reason}
	a.event(EventGatewayForked, on, detail)
	a.auditCore("gateway.fork", on, detail)
	return refusal
}

// marked takes over how far a gateway's spool is committed. After an error nothing of what came with the mark may be taken:
// ErrReplaced says that the run is not the newest, a *wire.Error that two act as one run and their spools differ.
func (a *applier) marked(m *command.Mark) error {
	if m == nil {
		return nil
	}
	old, ok := a.view.gateways.get(m.Gateway)
	if !ok || old.Spool == nil {
		return nil
	}
	if old.run(m.Run) != 0 || old.Spool.Incarnation != m.Incarnation {
		return ErrReplaced
	}
	was := old.Spool.Upto
	if m.Upto.Seq == was.Seq && m.Upto.Chain != was.Chain {
		return a.forked(old, m.Run, true, fmt.Sprintf("record %d of the spool came in two ways: there are two of the gateway", m.Upto.Seq))
	}
	if m.Upto.Seq <= was.Seq {
		return nil // sent again
	}
	g := *old
	g.Spool = &SpoolMark{Incarnation: m.Incarnation, Upto: m.Upto}
	a.view.gateways.put(&g)
	return nil
}
