package mesh

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
)

// Times of the mesh. They are those for a local network, at half the pace: a gateway at rest sends a packet a second, and one that
// died is noticed within 15 s.
const (
	probeEvery   = 2 * time.Second
	probeTime    = time.Second
	gossipEvery  = 200 * time.Millisecond // what is new; nothing, mostly
	syncEvery    = 30 * time.Second       // a whole exchange of states, with one member
	streamTime   = 10 * time.Second
	forgetAfter  = 30 * time.Second // a member that died
	lookEvery    = 2 * time.Second  // at what is to be said of this gateway, and at who came and went
	speakEvery   = 5 * time.Second  // at most, about anything but the uplink
	joinEvery    = 10 * time.Second
	joinAtOnce   = 3
	leaveTime    = 2 * time.Second
	minProtocol  = 1
	ourProtocol  = memberlist.ProtocolVersion2Compatible
	ourDelegate  = 1
	maxMisses    = 4 // of probes, before a member is thought to be dead, in probeEvery
	indirectAsks = 3
)

// A round is the mesh under one site key. With another key a new one begins, that knows nothing of what was said in the one before:
// whoever was shut out meanwhile is not quoted any more.
type round struct {
	mesh      *Mesh
	transport *transport
	members   members
	list      *memberlist.Memberlist

	said    []byte    // of this gateway, encoded; owned by watch
	saidAt  time.Time // likewise
	uplink  Uplink    // likewise
	present map[string]bool

	mu   sync.Mutex
	meta []byte // what NodeMeta answers
}

// take runs a round under a key until that changes, there are no siblings, or ctx ends.
func (m *Mesh) take(ctx context.Context, key *wire.SiteKey, changed <-chan struct{}) error {
	label := m.Self.Fleet + "/" + m.Self.Site
	sieve, err := newSieve(label, key.Key)
	if err != nil {
		return err
	}
	r := &round{mesh: m, present: make(map[string]bool)}
	r.members.of = make(map[string]wire.GossipMeta)
	r.transport = newTransport(&transport{
		self: m.Self.Name, dialer: m.Dial, listed: m.isListed, sieve: sieve, refuse: m.sieved, dropped: &m.counts.dropped,
	})
	r.compose()
	if r.list, err = memberlist.Create(r.config(label, key.Key)); err != nil {
		r.transport.Shutdown() //nolint:errcheck // it has no error
		return err
	}
	m.setRound(r)
	working, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.join(working) })
	wg.Go(func() { m.ask(working) })
	r.watch(ctx, changed)
	cancel()
	if ctx.Err() != nil {
		if err := r.list.Leave(leaveTime); err != nil {
			m.Log.Info("the siblings were not told that this gateway leaves", "err", err)
		}
	}
	m.setRound(nil)
	if err := r.list.Shutdown(); err != nil {
		m.Log.Warn("mesh", "err", err)
	}
	wg.Wait()
	return nil
}

func (r *round) config(label string, key []byte) *memberlist.Config {
	return &memberlist.Config{
		Name: r.mesh.Self.Name, Label: label, Transport: r.transport, RequireNodeNames: true, ProtocolVersion: ourProtocol,
		DelegateProtocolMin: ourDelegate, DelegateProtocolMax: ourDelegate, DelegateProtocolVersion: ourDelegate,
		SecretKey: key, GossipVerifyIncoming: true, GossipVerifyOutgoing: true,
		TCPTimeout: streamTime, IndirectChecks: indirectAsks, RetransmitMult: 6, SuspicionMult: maxMisses, SuspicionMaxTimeoutMult: 3,
		PushPullInterval: syncEvery, ProbeInterval: probeEvery, ProbeTimeout: probeTime, AwarenessMaxMultiplier: 2,
		GossipInterval: gossipEvery, GossipNodes: 4, GossipToTheDeadTime: forgetAfter, QueueCheckInterval: time.Minute,
		HandoffQueueDepth: 256, UDPBufferSize: 1400,
		Delegate: r, Events: &r.members, Alive: r, LogOutput: newLog(r.mesh.Log, r.mesh.noise),
	}
}

// watch says what is new of this gateway, and logs who comes and goes, until the key changes, there are no siblings, or ctx ends.
func (r *round) watch(ctx context.Context, changed <-chan struct{}) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if r.compose() {
				r.list.UpdateNode(time.Nanosecond) //nolint:errcheck // it is queued; nobody waits for it
			}
			r.note()
		case <-r.mesh.news:
			if r.mesh.alone() {
				return
			}
		case <-changed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// compose makes what this gateway says of itself, and tells whether that is news.
func (r *round) compose() bool {
	m := wire.GossipMeta{Capability: wire.Capability}
	up := r.mesh.Uplink()
	m.Uplink = up == Direct
	r.mesh.Load().say(&m)
	newest := r.mesh.Mirror.Newest()
	m.MirrorEpoch, m.Mirror = newest.ClusterEpoch, newest.Number
	_, list := r.mesh.Mirror.List()
	m.ListEpoch, m.List = list.ClusterEpoch, list.Number
	b, err := wire.Marshal(m)
	if err != nil {
		r.mesh.Log.Error("what this gateway says of itself does not encode", "err", err)
		return false
	}
	now := time.Now()
	if string(b) == string(r.said) || up == r.uplink && !r.saidAt.IsZero() && now.Sub(r.saidAt) < speakEvery {
		return false
	}
	r.said, r.saidAt, r.uplink = b, now, up
	r.mu.Lock()
	r.meta = b
	r.mu.Unlock()
	return true
}

// note logs which siblings came and which are gone.
func (r *round) note() {
	now := make(map[string]bool)
	for _, s := range r.mesh.siblings() {
		if s.Alive {
			now[s.Name] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(now)) {
		if !r.present[n] && r.mesh.noise.Allow() {
			r.mesh.Log.Info("sibling is there", "gateway", n, "uplink", r.members.uplink(n))
		}
	}
	for _, n := range slices.Sorted(maps.Keys(r.present)) {
		if !now[n] && r.mesh.noise.Allow() {
			r.mesh.Log.Info("sibling is gone", "gateway", n)
		}
	}
	r.present = now
}

// join keeps connections with all siblings, and looks for those that are no members: at the start, after they were away, and when a
// network that was split is whole again.
func (r *round) join(ctx context.Context) {
	for wait := time.Duration(0); backoff.Sleep(ctx, wait); wait = backoff.Jitter(joinEvery, 0.5) {
		for n := range *r.mesh.listed.Load() {
			r.transport.greet(n) //nolint:contextcheck // its connection is of the round
		}
		absent := r.absent()
		rand.Shuffle(len(absent), func(i, j int) { absent[i], absent[j] = absent[j], absent[i] }) //nolint:gosec // spreading load needs no secrecy
		for _, n := range absent[:min(len(absent), joinAtOnce)] {
			if ctx.Err() != nil {
				return
			}
			r.list.Join([]string{n + "/" + nodeAddr(n).String()}) //nolint:errcheck // the library logs it, and it is tried again
		}
	}
}

func (r *round) absent() (out []string) {
	for n := range *r.mesh.listed.Load() {
		if _, ok := r.members.get(n); !ok {
			out = append(out, n)
		}
	}
	return out
}
