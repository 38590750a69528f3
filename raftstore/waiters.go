package raftstore

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// waiters holds the proposals that were handed over, by the number of the entry that carries them, until the state machine
// answers them. An entry carries the id of the run that made it, so that every node knows its own.
type waiters struct {
	run uint64 // random, never 0: names this process's store among all that ever wrote to the log

	mu      sync.Mutex
	last    uint64             // guarded by mu: the number given last
	entries map[uint64]*waited // guarded by mu. Invariant: each has a proposer who waits
}

// waited is one entry whose proposers wait.
type waited struct {
	proposals []*proposal
	left      int           // how many of them have gone
	settled   chan struct{} // closed when the state machine answered, or nobody waits any more
}

func newWaiters() *waiters {
	var b [8]byte
	for binary.BigEndian.Uint64(b[:]) == 0 {
		_, _ = rand.Read(b[:]) // never fails
	}
	return &waiters{run: binary.BigEndian.Uint64(b[:]), entries: make(map[uint64]*waited)}
}

// register takes those proposals that are still waited for into a new entry.
func (w *waiters) register(proposals []*proposal) (number uint64, taken []*proposal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	for _, p := range proposals {
		// A number from an earlier attempt is read by nobody while the state is waiting.
		if p.state.Load() != waiting {
			continue
		}
		p.number = w.last
		if p.state.CompareAndSwap(waiting, handed) {
			taken = append(taken, p)
		}
	}
	if len(taken) > 0 {
		w.entries[w.last] = &waited{proposals: taken, settled: make(chan struct{})}
	}
	return w.last, taken
}

// revoke takes the proposals of an entry back that will never be applied.
func (w *waiters) revoke(number uint64, taken []*proposal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.entries, number)
	for _, p := range taken {
		p.state.CompareAndSwap(handed, waiting)
	}
}

// leave notes that a proposer of an entry has gone.
func (w *waiters) leave(number uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[number]
	if e == nil {
		return
	}
	if e.left++; e.left == len(e.proposals) {
		w.drop(number, e)
	}
}

// drop ends the wait for an entry. The caller holds mu.
func (w *waiters) drop(number uint64, e *waited) {
	delete(w.entries, number)
	close(e.settled)
}

// settled returns what is closed when an entry's proposers have their answers; nil when they have.
func (w *waiters) settled(number uint64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.entries[number]; e != nil {
		return e.settled
	}
	return nil
}

// answer settles the proposals of an entry that this run made; results is nil when err is not.
func (w *waiters) answer(run, number, index uint64, results []any, err error) {
	if run != w.run {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[number]
	if e == nil || (err == nil && len(results) != len(e.proposals)) {
		return
	}
	w.drop(number, e)
	for i, p := range e.proposals {
		if err != nil {
			p.settle(nil, 0, err)
			continue
		}
		p.settle(results[i], index, nil)
	}
}

// answerAll settles everything that was handed over with err.
func (w *waiters) answerAll(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for number, e := range w.entries {
		w.drop(number, e)
		for _, p := range e.proposals {
			p.settle(nil, 0, err)
		}
	}
}
