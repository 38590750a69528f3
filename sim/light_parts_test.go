package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A lightGateway is custody over a spool on a simulated disk, and a replay to the core.
type lightGateway struct {
	w      *light
	name   string // site/name
	run    uint64 // of its process
	disk   *simdisk.Disk
	keeper *custody.Keeper
	stop   func()          // ends the spool's writer
	replay *custody.Replay // nil: there is no uplink
	sent   []*custody.Batch
	told   map[ident.DeviceID]registry.Covered // by receipts, since it was started
}

type lightDevice struct {
	w       *light
	signer  devstate.Signer
	dir     string
	state   *devstate.State
	journal [][]byte
	start   uint64
	session uint64
	at      *lightSession // nil: there is none
	last    *lightGateway
	heard   []byte // the newest receipt
	gone    bool
}

// A lightSession does what sessions of agent and gateway do about statements: what follows on one that was refused is not taken.
type lightSession struct {
	gw         *lightGateway
	mu         sync.Mutex
	epoch, seq uint64 // sent up to here
	kept       [2]uint64
	first      bool
	round      int
}

// open starts a gateway on what its disk has.
func (g *lightGateway) open() error {
	s, err := spool.Open(spool.Config{Dir: "spool", FS: g.disk, Segment: 2000, Quota: 1 << 20, Reserve: 1000, Wall: time.Now})
	if err != nil {
		return err
	}
	if g.keeper, err = custody.Open(custody.Config{Spool: s, Wall: time.Now, Log: slog.New(slog.DiscardHandler)}); err != nil {
		return errors.Join(err, s.Close())
	}
	g.told = make(map[ident.DeviceID]registry.Covered)
	g.run++
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx) // a power cut fails it
	}()
	g.stop = func() { cancel(); <-ended }
	return nil
}

// powerCut takes what the disk may lose, and boots the gateway.
func (g *lightGateway) powerCut() error {
	g.disk.SetHook(nil)
	g.disk.CutAfter(0)
	g.stop()
	for _, d := range g.w.devices {
		if d.at != nil && d.at.gw == g {
			d.at = nil
		}
	}
	g.replay, g.sent = nil, nil
	g.disk = g.disk.Crash(g.w.r)
	return g.open()
}

// uplink opens a session with the core, to which the gateway shows its spool. It is never taken for a copy, whatever its disk went through.
func (g *lightGateway) uplink() error {
	rec, _ := g.w.core.View().Gateway(g.name)
	c := &command.Uplinked{Gateway: g.name, Key: rec.Keys[0].ID, Run: g.run, Spool: g.keeper.SpoolEnds()}
	if _, settled := rec.Fork(c.Run, &c.Spool, 0, nil); !settled {
		var err error
		c.Asked = rec.Spool.Upto.Seq
		if c.Proof, err = g.keeper.SpoolPoint(c.Asked); err != nil {
			return g.failed(err)
		}
		g.w.fired[lightProved] = true
	}
	if _, err := g.w.apply(c); err != nil {
		return fmt.Errorf("gateway %s: %w", g.name, err)
	}
	g.replay, g.sent = g.keeper.Replay(), nil
	return nil
}

// attach opens a session.
func (d *lightDevice) attach(g *lightGateway) error {
	if d.last != nil && d.last != g {
		d.w.fired[lightFailover] = true
	}
	d.session++
	a := d.state.Attach()
	d.last, d.at = g, &lightSession{gw: g, first: true}
	oldest := custody.Position{Epoch: a.Epoch, Seq: a.Lowest}
	if a.OldestEpoch != 0 {
		oldest = custody.Position{Epoch: a.OldestEpoch, Seq: a.OldestSeq}
	}
	g.keeper.Delivered(d.signer.Device, oldest)
	if k := g.keeper.Kept(d.signer.Device); d.state.Holds(k.Epoch, k.Seq, k.Chain[:]) {
		d.at.epoch, d.at.seq, d.at.kept = k.Epoch, k.Seq, [2]uint64{k.Epoch, k.Seq}
	}
	if g.replay == nil {
		return nil
	}
	_, err := d.w.apply(&command.Presence{Gateway: g.name, Items: []command.PresenceItem{{
		Device: d.signer.Device, Online: true, AtMS: time.Now().UnixMilli(), LastMS: time.Now().UnixMilli(), Attach: &command.Attach{
			Start: d.start, Run: d.start, Session: d.session, Epoch: a.Epoch, Lowest: a.Lowest, Highest: a.Highest, Chain: a.Chain,
			OldestEpoch: a.OldestEpoch, OldestSeq: a.OldestSeq,
		},
	}}})
	return err
}

// say states something.
func (d *lightDevice) say() error {
	body, err := wire.Marshal(seal.Register{AgentVersion: fmt.Sprintf("v%d", len(d.journal))})
	if err != nil {
		return err
	}
	s, err := d.state.State(seal.Statement{Type: seal.StatementRegister, TimeMS: time.Now().UnixMilli() + d.w.r.Int64N(1e6), Body: body})
	if err == nil {
		d.journal = append(d.journal, s.Sealed)
	}
	return err
}

// send brings up to n statements to the gateway.
func (d *lightDevice) send(n int) {
	s := d.at
	if s == nil {
		return
	}
	for range n {
		s.mu.Lock()
		st, round, first := d.state.After(s.epoch, s.seq), s.round, s.first
		if st != nil {
			s.epoch, s.seq, s.first = st.Epoch, st.Seq, false
		}
		s.mu.Unlock()
		if st == nil {
			return
		}
		given := func(refused *wire.Error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case round != s.round:
			case refused == nil:
				s.kept = [2]uint64{st.Epoch, st.Seq}
			default:
				s.round++
				s.epoch, s.seq = s.kept[0], s.kept[1]
			}
		}
		if d.w.misdeed == earlyCustody {
			given(nil)
			given = func(*wire.Error) {}
		}
		s.gw.keeper.Keep(st, first, given)
	}
}

// inCustody tells whether the gateway has said that it keeps all that the device holds.
func (d *lightDevice) inCustody() bool {
	if d.at == nil || len(d.journal) == 0 {
		return false
	}
	d.at.mu.Lock()
	defer d.at.mu.Unlock()
	return d.state.After(d.at.kept[0], d.at.kept[1]) == nil
}

// hear brings the device its receipt from the gateway.
func (d *lightDevice) hear() error {
	if d.at == nil {
		return nil
	}
	b := d.at.gw.keeper.Receipt(d.signer.Device)
	if b == nil || bytes.Equal(b, d.heard) {
		return nil
	}
	d.heard = b
	r, err := seal.OpenReceipt(b, d.w.fleet.authority.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return d.state.Receipted(r)
}

func (d *lightDevice) restart() (err error) {
	d.at = nil
	if d.state, err = devstate.Open(d.dir, d.signer); err == nil {
		d.start, err = d.state.Started()
	}
	return err
}

// submit sends the next batch, if there is one.
func (g *lightGateway) submit() error {
	if g.replay == nil {
		return nil
	}
	b, _, err := g.replay.Next(time.Now())
	if err != nil || b == nil {
		return g.failed(err)
	}
	g.sent = append(g.sent, b)
	if g.w.misdeed == trimsUnanswered {
		return g.failed(g.keeper.Spool.Trim(g.keeper.Spool.Last().Seq))
	}
	return nil
}

// failed ends the uplink's session when the gateway's disk fails it.
func (g *lightGateway) failed(err error) error {
	if err != nil {
		g.replay, g.sent = nil, nil
	}
	return nil
}

// answer lets the oldest batch under way come to something.
func (g *lightGateway) answer(fate float64) error {
	if len(g.sent) == 0 {
		return nil
	}
	b := g.sent[0]
	g.sent = g.sent[1:]
	switch {
	case fate < 0.1:
		g.w.fired[lightLostBatch] = true
		g.replay, g.sent = nil, nil
		return nil
	case fate < 0.2:
		g.w.fired[lightPutOff] = true
		_, err := g.replay.Answered(b, nil, wire.Refuse(wire.CodeUnavailable, "no quorum"), time.Now())
		return g.failed(err)
	}
	var c command.Statements
	for i, sealed := range b.Submit(1).Statements {
		st, err := seal.ParseStatement(sealed)
		if err != nil {
			return fmt.Errorf("statement %d of a batch: %w", i, err)
		}
		c.Items = append(c.Items, command.Statement{Sealed: sealed, Gateway: g.name, GatewayMS: time.Now().UnixMilli(), Device: st.Device})
	}
	if upto := b.Submit(1).Upto; upto != nil {
		c.Mark = &command.Mark{Gateway: g.name, Run: g.run, Incarnation: g.keeper.Spool.Incarnation(), Upto: *upto}
	}
	res, err := g.w.apply(&c)
	if err != nil {
		return err
	}
	var out []wire.SubmitResult
	for _, x := range res.([]registry.StatementResult) {
		r := wire.SubmitResult{}
		if x.Refuse != nil {
			if !x.Refuse.Code.Temporary() {
				return fmt.Errorf("the core refuses for good: %w", x.Refuse)
			}
			r.Code = x.Refuse.Code
		}
		out = append(out, r)
	}
	if fate < 0.3 {
		g.w.fired[lightLostAnswer] = true
		g.replay, g.sent = nil, nil
		return nil
	}
	_, err = g.replay.Answered(b, out, nil, time.Now())
	return g.failed(err)
}

// receipts brings the gateway the devices' receipts.
func (g *lightGateway) receipts() error {
	if g.replay == nil {
		return nil
	}
	v := g.w.core.View()
	for _, d := range g.w.devices {
		rec, _ := v.Device(d.signer.Device)
		c, ok := rec.Covered()
		if !ok || c == g.told[d.signer.Device] {
			continue
		}
		g.told[d.signer.Device] = c
		b, err := seal.SealReceipt(&seal.Receipt{
			Version: seal.ReceiptVersion, Device: d.signer.Device, ClusterEpoch: 1, Epoch: c.Epoch, Seq: c.Seq, Chain: c.Chain, LogTimeMS: v.Time().UnixMilli(),
		}, g.w.fleet.authority)
		if err != nil {
			return err
		}
		g.keeper.Receipted(d.signer.Device, b, g.w.fleet.authority.Public().(ed25519.PublicKey))
	}
	return nil
}
