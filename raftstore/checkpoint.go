package raftstore

import (
	"slices"
	"sync"
)

const (
	// checkpointEvery is how many log indexes lie between two checkpoints: seconds of a busy cluster, and rare enough that
	// a hash of everything, if a state machine must make one, costs little.
	checkpointEvery = 256
	// keepCheckpoints is how many a node remembers, so that nodes some thousand entries apart have one in common.
	keepCheckpoints = 64
)

// Hasher is what a StateMachine may offer so that the nodes can compare their states.
type Hasher interface {
	// StateHash returns a hash of the state: the same state gives the same hash on every node, and another one almost
	// never does. It is called on Apply's goroutine, after the first entry at or past every 256th log index.
	StateHash() [32]byte
}

// Checkpoint is the hash of the state after the entry at Index. Nodes whose states are the same have checkpoints at the same
// indexes with the same hashes.
type Checkpoint struct {
	Index uint64 // 0: none yet
	Hash  [32]byte
}

// checkpoints keeps the newest ones.
type checkpoints struct {
	mu  sync.Mutex
	all []Checkpoint // guarded by mu: ascending, at most keepCheckpoints
}

func (c *checkpoints) add(p Checkpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) == keepCheckpoints {
		c.all = append(c.all[:0:0], c.all[1:]...)
	}
	c.all = append(c.all, p)
}

// clear forgets everything: the state was replaced.
func (c *checkpoints) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = nil
}

// list returns a copy, ascending.
func (c *checkpoints) list() []Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Checkpoint(nil), c.all...)
}

func (c *checkpoints) newest() Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) == 0 {
		return Checkpoint{}
	}
	return c.all[len(c.all)-1]
}

// verdict is what a comparison of checkpoints says.
type verdict struct {
	index     uint64 // the newest one at which others differ; 0: nobody does
	differing int    // how many voters do
	diverged  bool   // a majority of all voters agrees on another hash than ours
}

// compareStates compares this node's checkpoints with those of other voters, by id; voters is how many there are in all,
// this node included if it is one.
func compareStates(own []Checkpoint, others map[string][]Checkpoint, voters int) verdict {
	var v verdict
	for _, point := range slices.Backward(own) {
		agreeing := make(map[[32]byte]int)
		differing := 0
		for _, list := range others {
			if hash, ok := hashAt(list, point.Index); ok && hash != point.Hash {
				differing++
				agreeing[hash]++
			}
		}
		if differing > 0 && v.index == 0 {
			v.index, v.differing = point.Index, differing
		}
		for _, count := range agreeing {
			if count > voters/2 {
				return verdict{index: point.Index, differing: differing, diverged: true}
			}
		}
	}
	return v
}

func hashAt(list []Checkpoint, index uint64) (hash [32]byte, ok bool) {
	for _, p := range list {
		if p.Index == index {
			return p.Hash, true
		}
	}
	return hash, false
}
