package procs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// TestDamagedNode damages the files of a follower in every way that a bad disk or a wrong command can, while the core is
// written to. The node notices, ends and says what to do; the others go on; after what it says the node is whole again.
func TestDamagedNode(t *testing.T) {
	t.Parallel()
	r := newCores(t)
	r.interval(time.Second)
	r.addGateway()
	ids, _ := r.addAgents(1)
	victim := r.cores[2]
	r.follows(victim)
	r.sealSegment(ids[0])
	l := r.load()
	rejoin := []string{"emove", "from the cluster", "join it again"} // what the messages have in common
	for _, c := range []struct {
		name   string
		damage func()
		says   []string // nil: the node falls back on what it has
	}{
		{"a bit in the log", func() { r.damageLog(victim, l) }, append(rejoin, "log entry")},
		{"a bit in the newest snapshot", func() { r.damageSnapshot(victim, true) }, nil},
		{"a bit in every snapshot", func() { r.damageSnapshot(victim, false) }, append(rejoin, "no snapshot is sound")},
		{"a bit in a sealed segment", func() { r.damageHistory(victim, true) }, append(rejoin, "join it again with an empty data directory")},
		{"a bit in the newest segment", func() { r.damageHistory(victim, false) }, append(rejoin, "join it again with an empty data directory")},
		{"the log and the snapshots are gone", func() { r.must(os.RemoveAll(r.Path(victim.Name, "raft"))) }, append(rejoin, "holds no node's state")},
	} {
		r.follows(victim)
		r.caughtUp(victim)
		stop := victim.Proc.Stop
		if c.name == "a bit in the newest snapshot" {
			r.twoSnapshots(victim, l)
		}
		r.must(stop())
		c.damage()
		began := time.Now()
		r.launch(victim)
		if c.says == nil {
			r.caughtUp(victim)
			if out := victim.Proc.Output(); !strings.Contains(out, "snapshot is damaged, trying the one before") {
				t.Errorf("%s: the node does not say that it fell back: %s", c.name, victim.Proc.Tail())
			}
		} else {
			r.ends(victim, 30*time.Second, c.says...)
		}
		t.Logf("%s: noticed after %.2f s", c.name, time.Since(began).Seconds())
		_, err := l.next(r, time.Now(), victim.Name, 10*time.Second)
		r.must(err)
		if c.says != nil {
			r.replace(victim)
		}
		r.whole(l.acknowledged(), victim)
	}
	r.emptied(victim)
	l.end()
	r.whole(l.acknowledged(), r.cores...)
	r.sameHistory(ids[0], 1)
	for _, c := range r.cores {
		r.verifies(c)
	}
	r.sameSegments()
}

// emptied brings a node back under its name although nobody removed the one of that name: it must not get in, because the
// cluster would count the votes of both as one node's.
func (r *rig) emptied(c *CoreNode) {
	r.t.Helper()
	r.must(c.Proc.Stop())
	r.must(os.RemoveAll(r.Path(c.Name)))
	err := r.JoinCore(r.ctx, r.number(c))
	if err == nil || !strings.Contains(err.Error(), c.Name+" is a member already: remove it first") {
		r.t.Errorf("a join under the name of a member: %v", err)
	}
	r.replace(c)
}

// replace does what the messages say: remove the node, empty its directory, join again.
func (r *rig) replace(c *CoreNode) {
	r.t.Helper()
	_, err := r.CLI(r.ctx, "cluster", "remove", c.Name)
	r.must(err)
	if _, err := c.Proc.Exit(30 * time.Second); err != nil { // where it runs, it notices
		r.t.Fatalf("%v: %s", err, c.Proc.Tail())
	}
	r.must(os.RemoveAll(r.Path(c.Name)))
	r.must(r.JoinCore(r.ctx, r.number(c)))
	began := time.Now()
	r.restart(c)
	r.t.Logf("%s is whole again %.1f s after its first start", c.Name, time.Since(began).Seconds())
	r.verifies(c)
}

// verifies checks the audit trail as one node shows it.
func (r *rig) verifies(c *CoreNode) {
	r.t.Helper()
	out, err := r.CLI(r.ctx, "audit", "verify", "--url", "https://"+c.API, "--ca-file", r.Path(caFile), "--token-file", r.Path(adminFile))
	if err != nil {
		r.t.Fatalf("%v: %s", err, c.Proc.Tail())
	}
	if !strings.Contains(string(out), "records verified") {
		r.t.Errorf("audit verify at %s: %s", c.Name, out)
	}
}

// flip turns one bit in the middle of every copy of needle that a file holds.
func (r *rig) flip(path string, needle []byte) {
	r.t.Helper()
	b, err := os.ReadFile(path)
	r.must(err)
	n := 0
	for at := 0; ; n++ {
		i := bytes.Index(b[at:], needle)
		if i < 0 {
			break
		}
		b[at+i+len(needle)/2] ^= 0x10
		at += i + 1
	}
	if n == 0 {
		r.t.Fatalf("%s does not hold %q: nothing was damaged", path, needle)
	}
	r.must(os.WriteFile(path, b, 0o600))
}

// flipAt turns one bit of a file.
func (r *rig) flipAt(path string, at int) {
	r.t.Helper()
	b, err := os.ReadFile(path)
	r.must(err)
	b[at] ^= 0x10
	r.must(os.WriteFile(path, b, 0o600))
}

// damageLog damages one entry. bbolt leaves old copies of a page in the file, which nobody reads: each of them is damaged
// too, so that the one that counts is.
func (r *rig) damageLog(c *CoreNode, l *load) {
	keys := l.acknowledged()
	r.flip(r.Path(c.Name, "raft", "raft.db"), []byte(keys[len(keys)/2]))
}

// twoSnapshots makes a node write two snapshots.
func (r *rig) twoSnapshots(c *CoreNode, l *load) {
	r.t.Helper()
	var last v1.Snapshot
	for range 2 {
		var s v1.Snapshot
		r.must(r.api.call(r.ctx, c, "POST /v1/cluster/snapshot", "", nil, &s))
		if s.Node != c.Name || s.Index <= last.Index {
			r.t.Fatalf("snapshot %+v of %s after %+v", s, c.Name, last)
		}
		last = s
		_, err := l.next(r, time.Now(), "", 10*time.Second)
		r.must(err)
		r.caughtUp(c)
	}
}

// damageSnapshot damages the newest snapshot of a node, or the one before.
func (r *rig) damageSnapshot(c *CoreNode, newest bool) {
	r.t.Helper()
	all, err := filepath.Glob(r.Path(c.Name, "raft", "snapshots", "*", "state.bin"))
	r.must(err)
	if len(all) != 2 {
		r.t.Fatalf("%d snapshots, want 2: %v", len(all), all)
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(stamp(a), stamp(b)) })
	path := all[0]
	if newest {
		path = all[1]
	}
	info, err := os.Stat(path)
	r.must(err)
	r.flipAt(path, int(info.Size()/2))
}

// stamp is the part of a snapshot's name that says when it was written: <term>-<index>-<ms>.
func stamp(state string) string {
	name := filepath.Base(filepath.Dir(state))
	return name[strings.LastIndexByte(name, '-')+1:]
}

// damageHistory damages the first segment of a node's history, which is sealed, or the newest.
func (r *rig) damageHistory(c *CoreNode, sealed bool) {
	r.t.Helper()
	all := r.segments(c)
	path := all[len(all)-1]
	if sealed {
		path = all[0]
	}
	info, err := os.Stat(path)
	r.must(err)
	r.flipAt(path, int(info.Size()/2))
}

// segments are the files of a node's history, in order.
func (r *rig) segments(c *CoreNode) []string {
	r.t.Helper()
	all, err := filepath.Glob(r.Path(c.Name, "history", "*.hist"))
	r.must(err)
	if len(all) < 2 {
		r.t.Fatalf("%s has the segments %v: none is sealed", c.Name, all)
	}
	slices.Sort(all)
	return all
}

// sameSegments holds the sealed segments of all nodes against each other, byte by byte.
func (r *rig) sameSegments() {
	r.t.Helper()
	first := r.segments(r.cores[0])
	for _, c := range r.cores[1:] {
		own := r.segments(c)
		if len(own) != len(first) {
			r.t.Errorf("%s has %d segments, %s has %d", c.Name, len(own), r.cores[0].Name, len(first))
			continue
		}
		for i := range first[:len(first)-1] {
			a, err := os.ReadFile(first[i])
			r.must(err)
			b, err := os.ReadFile(own[i])
			r.must(err)
			if filepath.Base(first[i]) != filepath.Base(own[i]) || !bytes.Equal(a, b) {
				r.t.Errorf("the sealed segment %s differs from %s", own[i], first[i])
			}
		}
	}
}

// sealSegment writes to the history until its first segment is sealed: with large tags, which the audit trail keeps.
func (r *rig) sealSegment(device string) {
	r.t.Helper()
	began := time.Now()
	tags := make(map[string]string)
	for i := range 60 {
		tags[fmt.Sprintf("t%d", i)] = strings.Repeat("x", 256)
	}
	var sent atomic.Int64
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			node := r.cores[i%len(r.cores)]
			for ctx.Err() == nil {
				all, err := filepath.Glob(r.Path(node.Name, "history", "*.hist"))
				if err == nil && len(all) > 1 {
					return
				}
				if err := r.api.call(ctx, node, "PATCH /v1/devices/"+device+"/tags", "", v1.SetTags{Set: tags}, nil); err == nil {
					sent.Add(1)
				}
			}
		})
	}
	wg.Wait()
	r.segments(r.cores[0])
	gone := make([]string, 0, len(tags))
	for k := range tags {
		gone = append(gone, k)
	}
	r.must(r.api.call(r.ctx, r.leader(), "PATCH /v1/devices/"+device+"/tags", "", v1.SetTags{Remove: gone}, nil))
	r.t.Logf("the first segment of the history was sealed after %d changes, %.1f s", sent.Load(), time.Since(began).Seconds())
}
