package raftstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// vitalsEvery is how often a node asks the other members how they are; it varies by a tenth, so that they do not all
	// ask at once.
	vitalsEvery = 5 * time.Second

	// maxSkew is how far a leader's clock may be from the median of the voters' clocks.
	maxSkew = 5 * time.Minute

	vitalsFixed    = 3 * 8
	checkpointSize = 8 + 32
)

// vitals is what a node tells of itself. On the wire: wall clock in ms(8), last index of the log(8), index applied(8), then its
// checkpoints, ascending: index(8), hash(32).
type vitals struct {
	wallMS      int64
	last        uint64
	applied     uint64
	checkpoints []Checkpoint
}

func (v *vitals) encode() []byte {
	b := make([]byte, 0, vitalsFixed+len(v.checkpoints)*checkpointSize)
	b = binary.BigEndian.AppendUint64(b, uint64(v.wallMS)) //nolint:gosec // clampTime keeps it within 0..maxLogTime
	b = binary.BigEndian.AppendUint64(b, v.last)
	b = binary.BigEndian.AppendUint64(b, v.applied)
	for _, p := range v.checkpoints {
		b = binary.BigEndian.AppendUint64(b, p.Index)
		b = append(b, p.Hash[:]...)
	}
	return b
}

func decodeVitals(b []byte) (vitals, error) {
	count := (len(b) - vitalsFixed) / checkpointSize
	if len(b) < vitalsFixed || len(b) != vitalsFixed+count*checkpointSize || count > keepCheckpoints {
		return vitals{}, fmt.Errorf("%w: vitals of %d bytes", errAnswer, len(b))
	}
	ms := binary.BigEndian.Uint64(b)
	if ms > maxLogTime {
		return vitals{}, fmt.Errorf("%w: a clock at %d ms", errAnswer, ms)
	}
	v := vitals{wallMS: int64(ms), last: binary.BigEndian.Uint64(b[8:]), applied: binary.BigEndian.Uint64(b[16:])}
	for b = b[vitalsFixed:]; len(b) > 0; b = b[checkpointSize:] {
		p := Checkpoint{Index: binary.BigEndian.Uint64(b)}
		copy(p.Hash[:], b[8:])
		v.checkpoints = append(v.checkpoints, p)
	}
	return v, nil
}

// vitals tells how this node is.
func (s *Store) vitals() vitals {
	return vitals{
		wallMS:      clampTime(s.batcher.wall()),
		last:        s.raft.LastIndex(),
		applied:     s.applier.applied.load(),
		checkpoints: s.applier.checkpoints.list(),
	}
}

// askVitals asks a member how it is.
func (s *Store) askVitals(ctx context.Context, id string) (vitals, error) {
	b, err := s.ask(ctx, id, methodVitals, nil)
	if err != nil {
		return vitals{}, err
	}
	v, err := decodeVitals(b)
	if err != nil {
		return vitals{}, fmt.Errorf("%s: %w", id, err)
	}
	s.heard.note(id, v.last)
	return v, nil
}

// heard keeps what the members said last, for Status.
type heard struct {
	mu   sync.Mutex
	last map[string]uint64 // guarded by mu: by id, the last index of a member's log
}

func (h *heard) note(id string, last uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[id] = last
}

// keep forgets all but the members.
func (h *heard) keep(members []raft.Server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.last {
		if !slices.ContainsFunc(members, func(m raft.Server) bool { return string(m.ID) == id }) {
			delete(h.last, id)
		}
	}
}

func (h *heard) lastIndex(id string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last[id]
}

// vitalsLoop compares this node with the other members. It is also how a node that nobody speaks to any more finds out that it
// was removed: it dials them, and they say so.
func (s *Store) vitalsLoop() {
	warned := uint64(0)
	for pause(s.ctx, vitalsEvery-vitalsEvery/10+rand.N(vitalsEvery/5)) { //nolint:gosec // spreads load, guards nothing
		members := s.members()
		s.heard.keep(members)
		answers := s.gatherVitals(members)
		warned = s.judgeState(members, answers, warned)
		if s.raft.State() == raft.Leader {
			s.judgeClock(members, answers)
		}
	}
}

// reply is a member's vitals, and how far its clock is ahead of this node's.
type reply struct {
	vitals
	ahead time.Duration
}

// gatherVitals asks all other members at once.
func (s *Store) gatherVitals(members []raft.Server) map[string]reply {
	ctx, cancel := context.WithTimeout(s.ctx, askTime)
	defer cancel()
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		answers = make(map[string]reply)
	)
	for _, m := range members {
		id := string(m.ID)
		if id == s.id {
			continue
		}
		wg.Go(func() {
			v, err := s.askVitals(ctx, id)
			now := clampTime(s.batcher.wall())
			if err != nil {
				s.logger.Debug("a member does not say how it is", "peer", id, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[id] = reply{vitals: v, ahead: clockDistance(v.wallMS - now)}
		})
	}
	wg.Wait()
	return answers
}

// clockDistance turns milliseconds into a duration; clocks that are more than 30 years apart count as 30 years apart.
func clockDistance(ms int64) time.Duration {
	const most = 30 * 366 * 24 * int64(time.Hour/time.Millisecond)
	return time.Duration(min(max(ms, -most), most)) * time.Millisecond
}

// judgeState stops this node when the majority's state is another one. Otherwise it warns of a difference, once an index.
func (s *Store) judgeState(members []raft.Server, answers map[string]reply, warned uint64) uint64 {
	voters := 0
	others := make(map[string][]Checkpoint)
	for _, m := range members {
		if m.Suffrage != raft.Voter {
			continue
		}
		voters++
		if a, ok := answers[string(m.ID)]; ok {
			others[string(m.ID)] = a.checkpoints
		}
	}
	v := compareStates(s.applier.checkpoints.list(), others, voters)
	switch {
	case v.diverged:
		s.fail(fmt.Errorf("%w: at log entry %d, %d of %d voters have another state; keep a copy of this node's data directory for a "+
			"report, then remove the node from the cluster, empty the directory and join it again", ErrDiverged, v.index, v.differing, voters))
	case v.index > warned:
		s.logger.Warn("members have another state than this node, but no majority agrees on one", "index", v.index, "differing", v.differing)
		return v.index
	}
	return warned
}

// judgeClock hands leadership over when this node's clock is far from the others'. Log time is the leader's clock.
func (s *Store) judgeClock(members []raft.Server, answers map[string]reply) {
	voters := 0
	ahead := make(map[string]time.Duration)
	for _, m := range members {
		if m.Suffrage != raft.Voter {
			continue
		}
		voters++
		if a, ok := answers[string(m.ID)]; ok {
			ahead[string(m.ID)] = a.ahead
		}
	}
	ahead[s.id] = 0
	next, skew, ok := successor(s.id, ahead, voters)
	if !ok {
		return
	}
	log := s.logger.With("skew", skew, "limit", maxSkew)
	if next == "" {
		log.Warn("this leader's clock is far from the other voters', and none of them has a better one")
		return
	}
	log.Warn("this leader's clock is far from the other voters', it hands over", "to", next)
	ctx, cancel := context.WithTimeout(s.ctx, changeTime)
	defer cancel()
	if err := s.transferAsLeader(ctx, next); err != nil {
		log.Warn("leadership stays with a wrong clock for now", "error", err)
	}
}

// successor says whether the leader self must hand over because of its clock, and to whom: "" when nobody is fit. ahead is how
// far each voter's clock is ahead of some common one, of those voters that answered.
func successor(self string, ahead map[string]time.Duration, voters int) (next string, skew time.Duration, due bool) {
	if len(ahead) <= voters/2 {
		return "", 0, false
	}
	all := make([]time.Duration, 0, len(ahead))
	ids := make([]string, 0, len(ahead))
	for id, d := range ahead {
		all, ids = append(all, d), append(ids, id)
	}
	slices.Sort(all)
	slices.Sort(ids)
	middle := all[(len(all)-1)/2]/2 + all[len(all)/2]/2
	skew = ahead[self] - middle
	if skew.Abs() <= maxSkew {
		return "", 0, false
	}
	best := maxSkew
	for _, id := range ids {
		if off := (ahead[id] - middle).Abs(); off <= best && id != self {
			next, best = id, off
		}
	}
	return next, skew, true
}
