package sim

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// grow makes the plant's core one of n nodes.
func (p *plant) grow(n int) {
	p.t.Helper()
	for i := 2; i <= n; i++ {
		c := p.Core(i)
		p.must(c.Join(p.ctx, p.Core(1)))
		p.all = append(p.all, c.Start(p.ctx))
		p.must(c.Serving(p.ctx))
	}
	p.settled(n)
}

// settled waits until n nodes vote and one leads, and returns the one.
func (p *plant) settled(n int) *CoreNode {
	p.t.Helper()
	var st v1.Cluster
	for range 120 {
		p.sleep(500 * time.Millisecond)
		if err := p.Call(p.ctx, &st, http.MethodGet, "/v1/cluster", nil); err != nil {
			continue
		}
		votes := 0
		for _, x := range st.Nodes {
			if x.Voter && x.Member {
				votes++
			}
		}
		if votes == n && len(st.Nodes) == n && st.Leader != "" {
			return p.Core(int(st.Leader[len(st.Leader)-1] - '0'))
		}
	}
	p.t.Fatalf("the core does not settle with %d voters: %+v", n, st)
	return nil
}

// restart runs a node that was stopped or killed.
func (p *plant) restart(c *CoreNode) {
	p.t.Helper()
	p.all = append(p.all, c.Start(p.ctx))
	p.must(c.Serving(p.ctx))
}

// gone takes a process that has ended out of what is stopped at the end.
func (p *plant) gone(x *Process) {
	p.all = slices.DeleteFunc(p.all, func(y *Process) bool { return x == y })
}

// whoever asks any node gets the same answer about the devices, with their exact heartbeats, whichever node the gateway is at.
func TestEveryNodeKnowsWhoIsPresent(t *testing.T) {
	t.Parallel()
	inPlant(t, 3, 5*time.Second, func(p *plant) {
		p.grow(3)
		for range 60 {
			p.sleep(2 * time.Second)
			for n := 1; n <= 3; n++ {
				var l v1.List[v1.Device]
				p.must(p.Core(n).Call(p.ctx, &l, http.MethodGet, "/v1/devices", nil))
				if len(l.Items) != 3 {
					t.Fatalf("core-%d lists %d devices", n, len(l.Items))
				}
				for _, d := range l.Items {
					if d.Presence != "online" || d.LastHeartbeatAt == nil || time.Since(*d.LastHeartbeatAt) > 5*time.Second+2*core.DefaultReportPeriod {
						t.Fatalf("core-%d says %s is %s %s, last heartbeat %v", n, d.ID, d.Presence, d.PresenceReason, d.LastHeartbeatAt)
					}
				}
			}
		}
		for n := 1; n <= 3; n++ {
			var d v1.Device
			p.must(p.Core(n).Call(p.ctx, &d, http.MethodGet, "/v1/devices/"+p.devices[0].ID, nil))
			if d.PresenceReason != "" {
				t.Errorf("core-%d is not sure of a device that beats: %s", n, d.PresenceReason)
			}
		}
		p.agents[0].Kill()
		p.gone(p.agents[0])
		p.sleep(25 * time.Second)
		for n := 1; n <= 3; n++ {
			var d v1.Device
			p.must(p.Core(n).Call(p.ctx, &d, http.MethodGet, "/v1/devices/"+p.devices[0].ID, nil))
			if d.Presence != "offline" || d.PresenceReason != "heartbeat_missed" {
				t.Errorf("core-%d says of the killed device: %s %s", n, d.Presence, d.PresenceReason)
			}
		}
	})
}

// Each node in turn is killed, leader or not, with the gateway at it or not, and comes back: no device that lives is shown
// offline by any node, and what devices state arrives once.
func TestNodesDieInTurn(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 5*time.Second, func(p *plant) {
		p.grow(3)
		p.sleep(40 * time.Second)
		for round := range 6 {
			victim := p.Core(round%3 + 1)
			x := victim.Process()
			x.Kill()
			p.gone(x)
			for range 90 {
				p.sleep(time.Second)
				for n := 1; n <= 3; n++ {
					var l v1.List[v1.Device]
					if !p.Core(n).Running() || p.Core(n).Call(p.ctx, &l, http.MethodGet, "/v1/devices", nil) != nil {
						continue
					}
					for _, d := range l.Items {
						if d.Presence != "online" {
							t.Fatalf("round %d: core-%d says %s is %s %s", round, n, d.ID, d.Presence, d.PresenceReason)
						}
					}
				}
			}
			p.restart(victim)
			p.settled(3)
			p.agents[0].Kill() // its next start registers
			p.gone(p.agents[0])
			p.agents[0] = p.startAgent(p.devices[0])
			p.sleep(10 * time.Second)
		}
		if h := p.history(0); len(h) != 7 {
			t.Errorf("%d registrations, want 7", len(h))
		}
	})
}

// A node that was away while the log was cut, or that is new, gets the registry by snapshot and the history from its peers, and
// answers for all of it.
func TestNodeCatchesUpWithHistory(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 30*time.Second, func(p *plant) {
		p.Tuning = raftstore.Tuning{TrailingLogs: 1, SnapshotThreshold: 8, SnapshotInterval: 5 * time.Second}
		p.grow(3)
		away := p.Core(3)
		x := away.Process()
		p.must(x.Stop())
		p.gone(x)
		// The first node was started before the tuning was set, and keeps its log.
		p.must(p.Core(1).Call(p.ctx, nil, http.MethodPost, "/v1/cluster/transfer-leadership", v1.TransferLeadership{To: "core-2"}))
		for range 30 {
			p.agents[0].Kill()
			p.gone(p.agents[0])
			p.agents[0] = p.startAgent(p.devices[0])
			p.sleep(5 * time.Second)
		}
		p.must(p.Core(2).Call(p.ctx, nil, http.MethodPost, "/v1/cluster/snapshot", nil))
		p.restart(away)
		fourth := p.Core(4)
		p.must(fourth.Join(p.ctx, p.Core(2)))
		p.restart(fourth)
		p.settled(4)
		p.sleep(10 * time.Second)
		want := p.history(0)
		if len(want) != 31 {
			t.Errorf("%d registrations, want 31", len(want))
		}
		var head v1.AuditHead
		p.must(p.Core(1).Call(p.ctx, &head, http.MethodGet, "/v1/audit/head", nil))
		for _, c := range []*CoreNode{away, fourth} {
			var l v1.List[v1.HistoryItem]
			p.must(c.Call(p.ctx, &l, http.MethodGet, "/v1/devices/"+p.devices[0].ID+"/history?limit=1000", nil))
			if len(l.Items) != len(want) {
				t.Errorf("%s has %d records of the device, want %d", c.Name, len(l.Items), len(want))
			}
			var trail v1.List[v1.AuditRecord]
			p.must(c.Call(p.ctx, &trail, http.MethodGet, "/v1/audit?limit=1000", nil))
			if n := len(trail.Items); uint64(n) != head.Seq || trail.Items[n-1].Hash != head.Hash {
				t.Errorf("%s has %d records of the audit trail, the head says %d", c.Name, n, head.Seq)
			}
		}
	})
}

// A node that is removed ends by itself and is refused afterwards; its name is free for a node with an empty directory.
func TestNodeIsRemoved(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 5*time.Second, func(p *plant) {
		p.grow(3)
		out := p.Core(2)
		x := out.Process()
		p.must(p.Core(1).Call(p.ctx, nil, http.MethodDelete, "/v1/cluster/nodes/core-2", nil))
		p.sleep(30 * time.Second)
		select {
		case <-x.Done():
		default:
			t.Fatal("the removed node goes on")
		}
		if !errors.Is(x.Err(), raftstore.ErrRemoved) {
			t.Errorf("the removed node ended with %v", x.Err())
		}
		p.gone(x)
		p.settled(2)
		again := out.Start(p.ctx)
		if err := out.Serving(p.ctx); !errors.Is(err, raftstore.ErrRemoved) {
			t.Errorf("started again it ends with %v", err)
		}
		<-again.Done()
		if err := out.Join(p.ctx, p.Core(1)); !errors.Is(err, core.ErrNotEmpty) {
			t.Errorf("joined over its old directory: %v", err)
		}
		p.must(os.RemoveAll(out.Dir()))
		p.must(out.Join(p.ctx, p.Core(1)))
		p.restart(out)
		p.settled(3)
		p.want(0, "online", "")
	})
}

// A node whose raft state was emptied may have voted before, so it is refused until it was removed.
func TestEmptiedNodeIsRefused(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 5*time.Second, func(p *plant) {
		p.grow(3)
		c := p.Core(3)
		x := c.Process()
		p.must(x.Stop())
		p.gone(x)
		p.must(os.RemoveAll(filepath.Join(c.Dir(), "raft")))
		y := c.Start(p.ctx)
		if err := c.Serving(p.ctx); !errors.Is(err, raftstore.ErrEmpty) {
			t.Errorf("a node with an emptied raft directory: %v", err)
		}
		<-y.Done()
		p.must(os.RemoveAll(c.Dir()))
		if err := c.Join(p.ctx, p.Core(1)); err == nil || !strings.Contains(err.Error(), "is a member already") {
			t.Errorf("an emptied node joins under its old name: %v", err)
		}
		p.must(p.Core(1).Call(p.ctx, nil, http.MethodDelete, "/v1/cluster/nodes/core-3", nil))
		p.sleep(5 * time.Second)
		p.must(os.RemoveAll(c.Dir()))
		p.must(c.Join(p.ctx, p.Core(1)))
		p.restart(c)
		p.settled(3)
	})
}

// Two of three nodes are lost for good. With the directory of the third and the recovery key the fleet goes on: devices return
// by themselves, and new nodes join.
func TestFleetSurvivesTheLossOfItsMajority(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 5*time.Second, func(p *plant) {
		p.grow(3)
		p.sleep(40 * time.Second)
		last := p.Core(2)
		for n := 1; n <= 3; n++ {
			x := p.Core(n).Process()
			x.Kill()
			p.gone(x)
		}
		b, err := os.ReadFile(filepath.Join(p.Core(1).Dir(), "recovery.key"))
		p.must(err)
		for _, n := range []int{1, 3} {
			p.must(os.RemoveAll(p.Core(n).Dir()))
		}
		key, err := enroll.ParseHolderKey(string(b))
		p.must(err)
		wrong, err := enroll.NewHolderKey()
		p.must(err)
		p.Net.Plug(last.Host)
		var sockets []*netsim.PacketConn
		if _, err := core.Recover(p.ctx, last.config(&sockets), wrong); !errors.Is(err, enroll.ErrKey) {
			t.Errorf("recovered with a wrong key: %v", err)
		}
		lost, err := core.Recover(p.ctx, last.config(&sockets), key)
		p.must(err)
		if !slices.Equal(lost, []string{"core-1", "core-3"}) {
			t.Errorf("lost: %v", lost)
		}
		p.restart(last)
		p.sleep(time.Minute)
		for i := range p.devices {
			p.want(i, "online", "")
		}
		p.agents[0].Kill()
		p.gone(p.agents[0])
		p.agents[0] = p.startAgent(p.devices[0])
		p.sleep(20 * time.Second)
		if h := p.history(0); len(h) != 2 {
			t.Errorf("%d registrations, want 2", len(h))
		}
		for n := 4; n <= 5; n++ {
			p.must(p.Core(n).Join(p.ctx, last))
			p.restart(p.Core(n))
		}
		p.settled(3)
		var trail v1.List[v1.AuditRecord]
		p.must(p.Core(5).Call(p.ctx, &trail, http.MethodGet, "/v1/audit?limit=1000", nil))
		var actions []string
		for _, r := range trail.Items {
			actions = append(actions, fmt.Sprint(r.Seq, " ", r.Action))
		}
		if !slices.ContainsFunc(trail.Items, func(r v1.AuditRecord) bool { return r.Action == "core.recover" && r.Actor == "recovery" }) {
			t.Errorf("the recovery is not on the trail: %q", actions)
		}
	})
}

// Every byte of a segment counts: whichever is changed, the check of a stopped node's directory says so and names the place.
func TestVerifyFindsEveryFlip(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 30*time.Second, func(p *plant) {
		c := p.Core(1)
		x := c.Process()
		p.must(x.Stop())
		p.gone(x)
		good, err := core.Verify(p.ctx, c.Dir())
		p.must(err)
		if good.Records == 0 || good.Audit.Count < 5 {
			t.Fatalf("verified %+v", good)
		}
		segments, err := filepath.Glob(filepath.Join(c.Dir(), "history", "*.hist"))
		p.must(err)
		if len(segments) != 1 {
			t.Fatalf("segments %q", segments)
		}
		b, err := os.ReadFile(segments[0])
		p.must(err)
		for i := range b {
			b[i] ^= 1 << (i % 8)
			p.must(os.WriteFile(segments[0], b, 0o600))
			if _, err := core.Verify(p.ctx, c.Dir()); err == nil || !strings.Contains(err.Error(), filepath.Base(segments[0])) {
				t.Fatalf("byte %d of %d changed: %v", i, len(b), err)
			}
			b[i] ^= 1 << (i % 8)
		}
		p.must(os.WriteFile(segments[0], b, 0o600))
		p.restart(c)
	})
}
