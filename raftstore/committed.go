package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// committed keeps the newest configuration that this node knows to be committed; raft tells only the newest of all.
type committed struct {
	mu      sync.Mutex
	index   uint64          // guarded by mu: of the entry that brought it; 0: none is known
	members map[string]bool // guarded by mu
}

// note takes in a configuration; an older one changes nothing. It says whether this one is newer.
func (c *committed) note(index uint64, servers []raft.Server) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if index <= c.index {
		return false
	}
	c.index = index
	c.members = make(map[string]bool, len(servers))
	for _, m := range servers {
		c.members[string(m.ID)] = true
	}
	return true
}

// has says whether id is in the configuration.
func (c *committed) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[id]
}
