package history

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// A node is a store with what a node's consensus log would know beside it.
type node struct {
	fs       *simdisk.Disk
	opts     Options
	s        *Store
	applied  uint64 // log index up to which the log was applied
	snapshot uint64 // the newest snapshot of the node: applying begins behind it after a restart
}

// cluster is two nodes and the log that both apply; the model is the log alone.
type cluster struct {
	log   []Record
	end   uint64 // newest index of the log; not every index has records
	nodes [2]*node
	rand  *rand.Rand
}

func (c *cluster) mark(upto uint64) Mark { return markOf(upToIndex(c.log, upto)) }

// grow adds entries to the log, with no, one or more records.
func (c *cluster) grow(t *rapid.T) {
	for range rapid.IntRange(1, 4).Draw(t, "entries") {
		c.end++
		for n := range rapid.Uint32Range(0, 3).Draw(t, "records") {
			c.log = append(c.log, testRecord(c.end, n))
		}
	}
}

// apply has a node apply the log up to an index. What it stored already it may get again.
func (c *cluster) apply(n *node, upto uint64) error {
	for n.applied < upto {
		index := n.applied + 1
		if err := n.s.Append(upToIndex(behindIndex(c.log, index-1), index)); err != nil {
			return err
		}
		n.applied = index
		n.s.Applied(index)
	}
	return nil
}

func (c *cluster) pick(t *rapid.T) *node { return c.nodes[rapid.IntRange(0, 1).Draw(t, "node")] }

func (c *cluster) Append(t *rapid.T) {
	c.grow(t)
	n := c.pick(t)
	c.must(t, c.apply(n, rapid.Uint64Range(n.applied, max(n.applied, c.end)).Draw(t, "upto")))
}

// Snapshot has a node take one, which is when its history must be durable.
func (c *cluster) Snapshot(t *rapid.T) {
	n := c.pick(t)
	c.must(t, n.s.Sync())
	n.snapshot = n.applied
}

// Install gives a node the snapshot of the other one. As a rule it is ahead; of two nodes at least one has everything.
func (c *cluster) Install(t *rapid.T) { c.must(t, c.install(c.pair(t))) }

func (c *cluster) pair(t *rapid.T) (n, peer *node) {
	i := rapid.IntRange(0, 1).Draw(t, "node")
	return c.nodes[i], c.nodes[1-i]
}

func (c *cluster) install(n, peer *node) error {
	if _, _, _, open := peer.s.Missing(); open || peer.snapshot < n.applied {
		return nil
	}
	n.snapshot, n.applied = peer.snapshot, peer.snapshot
	return n.s.Skip(n.snapshot, c.mark(n.snapshot))
}

func (c *cluster) Fill(t *rapid.T) { n, peer := c.pair(t); c.must(t, c.fill(t, n, peer)) }

// fill moves a chunk from the peer, which now and then is one with a record that was forged.
func (c *cluster) fill(t *rapid.T, n, peer *node) error {
	after, pos, upto, open := n.s.Missing()
	if !open {
		return nil
	}
	b, _, err := peer.s.Export(after, pos, upto, rapid.IntRange(0, 600).Draw(t, "bytes"))
	if errors.Is(err, ErrIncomplete) { // the power cut took what it had not synced; it comes back
		return nil
	}
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	forged := false
	if x, err := decodeChunk(b); err != nil {
		t.Fatalf("%v", err)
	} else if len(x.recs) > 0 && rapid.IntRange(0, 4).Draw(t, "forged") == 0 {
		forged = true
		x.recs[len(x.recs)-1].Kind ^= 1
		head := slices.Clone(b[:chunkHead])
		for i := range x.recs {
			head = appendRecord(head, 0, int64(len(head)), &x.recs[i])
		}
		b = head
	}
	done, err := n.s.Fill(b)
	if done && forged {
		t.Fatalf("a forged record was accepted")
	}
	if errors.Is(err, ErrMismatch) {
		return nil
	}
	return err
}

func (c *cluster) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func (c *cluster) Restart(t *rapid.T) {
	n := c.pick(t)
	c.must(t, n.s.Close())
	c.start(t, n)
}

// Empty takes away a node's directory. It joins again and gets the other one's snapshot.
func (c *cluster) Empty(t *rapid.T) {
	n, peer := c.pair(t)
	if _, _, _, open := peer.s.Missing(); open {
		return
	}
	n.fs = simdisk.New(1)
	n.applied, n.snapshot = 0, 0
	c.start(t, n)
	c.must(t, c.install(n, peer))
}

// PowerCut lets the power of one node go after a few more operations, in whichever call that is, and again while it is opened.
func (c *cluster) PowerCut(t *rapid.T) {
	n, peer := c.pair(t)
	n.fs.CutAfter(rapid.IntRange(0, 40).Draw(t, "fuse"))
	actions := map[string]func() error{
		"append":  func() error { c.grow(t); return c.apply(n, c.end) },
		"install": func() error { return c.install(n, peer) },
		"fill":    func() error { return c.fill(t, n, peer) },
		"sync":    n.s.Sync,
	}
	for range rapid.IntRange(1, 12).Draw(t, "actions") {
		if err := actions[rapid.SampledFrom([]string{"append", "fill", "fill", "install", "sync"}).Draw(t, "action")](); err != nil {
			if !errors.Is(err, ErrFailed) || !errors.Is(err, simdisk.ErrPowerCut) {
				t.Fatalf("got %v, want ErrFailed for a power cut", err)
			}
			break
		}
	}
	for {
		if rapid.IntRange(0, 4).Draw(t, "kill") == 0 {
			n.fs = n.fs.Kill()
		} else {
			n.fs = n.fs.Crash(c.rand)
		}
		n.fs.CutAfter(rapid.IntRange(0, 80).Draw(t, "next fuse"))
		n.opts.FS = n.fs
		s, err := Open("dir", n.opts)
		n.fs.CutAfter(-1)
		if err == nil {
			n.s = s
			break
		}
		if !errors.Is(err, simdisk.ErrPowerCut) {
			t.Fatalf("open after a power cut: %v", err)
		}
	}
	c.restore(t, n)
}

func (c *cluster) start(t *rapid.T, n *node) {
	n.opts.FS = n.fs
	s, err := Open("dir", n.opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	n.s = s
	c.restore(t, n)
}

// restore does what consensus does at the start: the node's snapshot is restored, and the log behind it is applied again.
func (c *cluster) restore(t *rapid.T, n *node) {
	n.applied = n.snapshot
	c.must(t, n.s.Skip(n.snapshot, c.mark(n.snapshot)))
}

// Check is run after each action: a node either tells nothing, or a beginning of the log that reaches as far as it should.
func (c *cluster) Check(t *rapid.T) {
	for _, n := range c.nodes {
		index, pos, upto, open := n.s.Missing()
		if open {
			wantIncomplete(t, n.s, Cursor{index, pos}, upto)
			continue
		}
		got, err := scanAll(n.s, 0)
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		if least := len(upToIndex(c.log, n.applied)); len(got) < least || len(got) > len(c.log) {
			t.Fatalf("%d records, of %d up to what was applied", len(got), least)
		}
		wantStored(t, n.s, c.log[:len(got)])
	}
}

// settle ends as a cluster without faults does: every node has applied the whole log and lacks nothing.
func (c *cluster) settle(t *rapid.T) {
	for range 2 { // of the two, the one without a gap is there first
		for i, n := range c.nodes {
			c.must(t, c.apply(n, c.end))
			peer := c.nodes[1-i]
			if _, _, _, open := n.s.Missing(); !open {
				continue
			}
			if _, _, _, open := peer.s.Missing(); open {
				t.Fatalf("both have a gap")
			}
			c.must(t, c.apply(peer, c.end))
			if err := catchUp(t, n.s, peer.s, 500); errors.Is(err, ErrMismatch) { // what was forged is found out now
				err = catchUp(t, n.s, peer.s, 500)
				c.must(t, err)
			} else {
				c.must(t, err)
			}
		}
	}
}

// Whatever happens to two nodes, in the end they read alike, have equal marks, and even the same bytes in the same files.
func TestClusterAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		c := &cluster{rand: newRand(seed)}
		size := rapid.SampledFrom([]int64{1, smallSegment, 1 << 20}).Draw(t, "segment size")
		for i := range c.nodes {
			c.nodes[i] = &node{fs: simdisk.New(1), opts: Options{SegmentBytes: size}}
			c.start(t, c.nodes[i])
		}
		t.Repeat(map[string]func(*rapid.T){
			"append":    c.Append,
			"snapshot":  c.Snapshot,
			"install":   c.Install,
			"fill":      c.Fill,
			"restart":   c.Restart,
			"empty":     c.Empty,
			"power cut": c.PowerCut,
			"":          c.Check,
		})
		c.settle(t)
		var marks [2]Mark
		for i, n := range c.nodes {
			wantComplete(t, n.s, c.log)
			var err error
			if marks[i], err = n.s.MarkAt(context.Background(), math.MaxUint64); err != nil {
				t.Fatalf("mark: %v", err)
			}
		}
		if marks[0] != marks[1] || marks[0] != markOf(c.log) {
			t.Fatalf("the marks are %v and %v, want %v", marks[0], marks[1], markOf(c.log))
		}
	})
}
