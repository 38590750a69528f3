package simdisk

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// Sector is the piece of a write that reaches the disk as a whole, unless it is torn.
const Sector = 512

// Crash returns a disk as it is found when the power is back, with what it kept chosen by r. It has no hook and no limit, and nobody holds a
// lock. The disk itself stays as it is, so it can crash in many ways.
func (d *Disk) Crash(r *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := New(r.Uint64())
	kept := maps.Clone(d.durable)
	for _, dir := range slices.Sorted(maps.Keys(d.pending)) {
		changes := d.pending[dir]
		for _, change := range changes[:r.IntN(len(changes)+1)] {
			change(kept)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if !reachable(kept, name) {
			continue
		}
		n := kept[name]
		content := n.survive(r)
		m := &node{name: name, dir: n.dir, data: content, durable: slices.Clone(content)}
		next.live[name], next.durable[name] = m, m
	}
	return next
}

// reachable tells whether the directories above name are there.
func reachable(all names, name string) bool {
	for dir := filepath.Dir(name); !isRoot(dir); dir = filepath.Dir(dir) {
		if all[dir] == nil {
			return false
		}
	}
	return true
}

// Kill returns a disk as the end of the process leaves it: with everything that was written, synced or not. Use the disk itself no more.
func (d *Disk) Kill() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := New(d.rand.Uint64())
	next.live, next.durable, next.pending, next.capacity = d.live, d.durable, d.pending, d.capacity
	return next
}

// survive is what a power cut makes of the content.
func (n *node) survive(r *rand.Rand) []byte {
	if len(n.changes) == 0 {
		return slices.Clone(n.durable)
	}
	content, size := slices.Clone(n.durable), int64(len(n.durable))
	sizes := r.IntN(len(n.changes) + 1) // changes whose size is known; the file system keeps their order
	stopped := make(map[int64]bool)     // sectors whose later versions were not written
	for i, c := range n.changes {
		if c.truncate {
			if i < sizes {
				content, size = resize(content, min(c.offset, int64(len(content)))), c.offset
			}
			continue
		}
		content = c.survive(content, stopped, r)
		if i < sizes {
			size = max(size, c.end())
		}
	}
	return resize(content, size)
}

// survive puts those sectors of a write into content that reached the disk.
func (c change) survive(content []byte, stopped map[int64]bool, r *rand.Rand) []byte {
	for start := c.offset; start < c.end(); {
		sector := start / Sector
		end := min((sector+1)*Sector, c.end())
		piece := c.data[start-c.offset : end-c.offset]
		if !stopped[sector] {
			switch r.IntN(8) {
			case 0, 1: // not written, nor anything later
				stopped[sector] = true
				piece = nil
			case 2: // torn
				stopped[sector] = true
				piece = piece[:r.IntN(len(piece)+1)]
			}
			if len(piece) > 0 {
				content = put(content, piece, start)
			}
		}
		start = end
	}
	return content
}

// replay is the durable content with all that was written since.
func (n *node) replay() []byte {
	content := slices.Clone(n.durable)
	for _, c := range n.changes {
		if c.truncate {
			content = resize(content, c.offset)
			continue
		}
		content = put(content, c.data, c.offset)
	}
	return content
}
