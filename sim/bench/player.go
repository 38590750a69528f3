package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A gateway ends sessions that send more than 50 messages a second. Two thousand saturate it at a fraction of that; a few
// would run into the limit.
const (
	pacePerSecond = 40
	paceBurst     = 100
)

// errUnsigned says that a device has stated everything that was signed for it: prepare more.
var errUnsigned = errors.New("no statement is signed ahead")

// player is one attached device under load. It is used by one goroutine at a time.
type player struct {
	*device
	session *link.Session
	pace    *rate.Limiter
	run     uint64
	number  uint64 // heartbeats sent
	boot    seal.RandomID

	epoch   seal.RandomID
	seq     uint64     // statements signed
	chain   seal.Chain // after the newest signed one
	ready   [][]byte   // signed and not yet stated
	stated  uint64     // in the gateway's custody
	receipt []byte     // the newest
}

func newPlayer(d *device, s *link.Session) *player {
	p := &player{device: d, session: s, pace: rate.NewLimiter(pacePerSecond, paceBurst), run: rand.Uint64()} //nolint:gosec // an id, no secret
	for i := range p.epoch {
		p.epoch[i], p.boot[i] = byte(rand.Uint32()), byte(rand.Uint32()) //nolint:gosec // ids, no secrets
	}
	return p
}

// digest stands for the digest of what runs: eight bytes, as in the floor's heartbeat.
var digest = []byte("\x01\x02\x03\x04\x05\x06\x07\x08")

// beat sends a heartbeat and waits for its answer.
func (p *player) beat(uint32) error {
	if err := p.pace.Wait(p.session.Context()); err != nil {
		return fmt.Errorf("pace: %w", err)
	}
	p.number++
	err := p.session.Send(wire.TypeHeartbeat, wire.Heartbeat{
		Run: p.run, Number: p.number, Answered: p.number - 1, UptimeMS: 86400000 + p.number, IntervalMS: intervalMS,
		Running: digest,
	})
	if err != nil {
		return err
	}
	for {
		t, body, err := p.session.Recv()
		if err != nil {
			return err
		}
		a, err := read[wire.HeartbeatAck](t, body, wire.TypeHeartbeatAck)
		if err != nil {
			return err
		}
		if a.Number == p.number {
			return nil
		}
	}
}

// state sends the next statement and waits until it is in custody. One that is not taken now is sent again in the next exchange.
func (p *player) state(uint32) error {
	if len(p.ready) == 0 {
		return errUnsigned
	}
	if err := p.pace.Wait(p.session.Context()); err != nil {
		return fmt.Errorf("pace: %w", err)
	}
	if err := p.session.Send(wire.TypeStatement, wire.Statement{Sealed: p.ready[0]}); err != nil {
		return err
	}
	for {
		kept, err := p.hear()
		if err != nil {
			return err
		}
		if kept > p.stated {
			p.ready = p.ready[1:]
			p.stated++
			return nil
		}
	}
}

// hear takes one message: custody, of which it returns the seq, or a receipt.
func (p *player) hear() (kept uint64, err error) {
	t, body, err := p.session.Recv()
	if err != nil {
		return 0, err
	}
	if t == wire.TypeCustody {
		c, err := read[wire.Custody](t, body, t)
		if err != nil {
			return 0, err
		}
		return c.Seq, nil
	}
	a, err := read[wire.HeartbeatAck](t, body, wire.TypeHeartbeatAck)
	if err == nil && len(a.Receipt) > 0 {
		p.receipt = a.Receipt
	}
	return 0, err
}

// await hears until a receipt covers everything that was stated.
func (p *player) await(authority ed25519.PublicKey) error {
	for !p.covered(authority) {
		if _, err := p.hear(); err != nil {
			return fmt.Errorf("%v: wait for the receipt of %d statements: %w", p.id, p.stated, err)
		}
	}
	return nil
}

// covered tells whether the newest receipt covers exactly what was stated.
func (p *player) covered(authority ed25519.PublicKey) bool {
	r, err := seal.OpenReceipt(p.receipt, authority)
	return err == nil && r.Device == p.id.Device && r.Seq == p.stated
}

// profile is a typical one.
func profile() wire.Profile {
	return wire.Profile{
		Model: wire.Known("NVIDIA Jetson Xavier NX Developer Kit"), SoC: wire.Known("nvidia-jetson-xavier-nx"), Arch: wire.Known("arm64"),
		RAMBytes: wire.Known(uint64(8 << 30)), CPUCores: wire.Known(uint32(6)), Accelerators: wire.Known([]string{"nvidia-gpu"}),
		OS: wire.Known("Ubuntu 22.04.5 LTS"), Kernel: wire.Known("5.15.148-tegra"),
		Hints: wire.Hints{Serial: "1421221048321", MachineID: "8a9b6fd7c1f04d0e9f0a3f64be8d1c55", MACs: []string{"48:b0:2d:3a:11:07", "48:b0:2d:3a:11:08"}},
	}
}

// sign makes the device's next registration. Each states another agent version than the one before: a device registers
// anew because a fact changed.
func (p *player) sign(profile *wire.Profile) error {
	body, err := wire.Marshal(seal.Register{
		Profile: *profile, AgentVersion: fmt.Sprintf("1.%d.0", p.seq+1), Tags: map[string]string{"line": "3"},
	})
	if err != nil {
		return err
	}
	s, err := seal.SealStatement(&seal.Statement{
		Version: seal.StatementVersion, Type: seal.StatementRegister, Device: p.id.Device, Epoch: 1, EpochID: p.epoch, Seq: p.seq + 1,
		Prev: p.chain, TimeMS: time.Now().UnixMilli(), UptimeMS: 86400000, BootID: p.boot, Clock: seal.ClockSynced, Body: body,
	}, p.keyID, p.key)
	if err != nil {
		return err
	}
	p.seq, p.chain = p.seq+1, s.Chain
	p.ready = append(p.ready, s.Sealed)
	return nil
}

// rest waits for d, or less if ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
