package content

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-edge/holdfast/wire"
)

// Put stores chunks on this node and on all others, and returns when a majority of those who vote have them on their disks. What then
// still goes on ends by itself: at most maxCalls packs for each node. The errors are ErrNoMajority, with ErrQuota when a node is full,
// and ctx's.
func (k *Keeper) Put(ctx context.Context, v Verified) error {
	m, packs := k.cluster.Members(), v.split(maxCallPack)
	begin, decided := context.WithCancel(ctx) // who has not begun when it is decided does not begin
	defer decided()
	work, stop := context.WithTimeout(k.base, callTime)
	nodes := append(m.others(), m.Self)
	results := make(chan outcome, len(nodes))
	var working sync.WaitGroup
	working.Add(len(nodes))
	if !k.spawn(func() { working.Wait(); stop() }) {
		stop()
		return fmt.Errorf("%w: this node stops", ErrNoMajority)
	}
	for _, node := range nodes {
		k.wg.Go(func() { // the first keeps the counter above zero
			defer working.Done()
			if node == m.Self {
				results <- outcome{node, k.store.Put(begin, v)}
			} else {
				results <- outcome{node, k.send(begin, work, node, packs)}
			}
		})
	}
	done, left, errs := 0, len(m.Voters), []error(nil)
	for done+left >= m.majority() {
		select {
		case r := <-results:
			if r.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", r.node, r.err))
			}
			if slices.Contains(m.Voters, r.node) {
				left--
				if r.err == nil {
					done++
				}
			}
		case <-ctx.Done():
			stop()
			return fmt.Errorf("store chunks on a majority: %w", context.Cause(ctx))
		}
		if done >= m.majority() {
			return nil
		}
	}
	stop()
	return fmt.Errorf("%w: %d of %d have stored the chunks: %w", ErrNoMajority, done, len(m.Voters), errors.Join(errs...))
}

// outcome is what became of something on a node.
type outcome struct {
	node string
	err  error
}

// send has another node store packs. It waits for its turn within begin, and goes on within work.
func (k *Keeper) send(begin, work context.Context, node string, packs [][]byte) error {
	release, err := k.slot(begin, node)
	if err != nil {
		return err
	}
	defer release()
	for _, p := range packs {
		r, err := exchange[storeReply](work, k, node, CallStore, storeRequest{Pack: p})
		if err != nil {
			return err
		}
		if r.Full {
			return ErrQuota
		}
	}
	return nil
}

// Lacking returns, in order, those of the chunks that are not known to be on the disks of a majority, and touches the others on one. The
// errors are ErrNoMajority when fewer nodes answer, and ctx's.
func (k *Keeper) Lacking(ctx context.Context, list []wire.Digest) ([]wire.Digest, error) {
	m := k.cluster.Members()
	var out []wire.Digest
	for part := range slices.Chunk(list, maxAsk) {
		lacking, err := k.lackingPart(ctx, &m, part)
		if err != nil {
			return nil, err
		}
		out = append(out, lacking...)
	}
	return out, nil
}

// lackingPart is Lacking for what fits into one call.
func (k *Keeper) lackingPart(ctx context.Context, m *Members, list []wire.Digest) ([]wire.Digest, error) {
	asking, decided := context.WithTimeout(ctx, askTime)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer decided()
	type answer struct {
		stored []byte
		err    error
	}
	answers := make(chan answer, len(m.Voters))
	body := haveRequest{packDigests(list)}
	for _, node := range m.Voters {
		wg.Go(func() {
			if node == m.Self {
				answers <- answer{stored: k.bits(list)}
				return
			}
			r, err := ask[haveReply](asking, k, node, CallHave, body)
			if err == nil && len(r.Stored) != (len(list)+7)/8 {
				err = fmt.Errorf("%s: %d bytes about %d chunks: %w", node, len(r.Stored), len(list), wire.ErrMalformed)
			}
			if err != nil {
				answers <- answer{err: err}
				return
			}
			answers <- answer{stored: r.Stored}
		})
	}
	held, answered, errs := make([]int, len(list)), 0, []error(nil)
	for n := range m.Voters {
		a, left := <-answers, len(m.Voters)-1-n
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		answered++
		for i := range list {
			held[i] += int(a.stored[i/8] >> (i % 8) & 1)
		}
		if answered >= m.majority() && settled(held, left, m.majority()) {
			break
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("ask who has the chunks: %w", err)
	}
	if answered < m.majority() {
		return nil, fmt.Errorf("%w: %d of %d say which chunks they have: %w", ErrNoMajority, answered, len(m.Voters), errors.Join(errs...))
	}
	var out []wire.Digest
	for i, d := range list {
		if held[i] < m.majority() {
			out = append(out, d)
		}
	}
	return out, nil
}

// settled tells whether the answers that are left out can change nothing.
func settled(held []int, left, majority int) bool {
	return !slices.ContainsFunc(held, func(n int) bool { return n < majority && n+left >= majority })
}
