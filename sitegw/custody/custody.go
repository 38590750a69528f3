// Package custody is what a gateway took from devices and owes the core: statements, and the spans of presence that it counted, lie in
// the spool until the core says that they are committed, and receipts that come back wait for their devices.
//
// A statement is in custody once the spool has it on disk; from then on the device does not send it again on that session. It
// leaves the spool when the core has answered for it, never before. A statement that the core will never take (its signature
// does not verify there, or it contradicts what is committed) leaves too, with an alarm: its device still holds it.
//
// The parts: Keeper is told by sessions what came and by the uplink what came back; a Replay, one for each session of the
// uplink, says what to send next.
package custody

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The kinds of the spool's records. They are append-only.
const (
	KindStatement spool.Kind = 1 // a sealed statement
	KindSpan      spool.Kind = 2 // CBOR of a wire.Span
)

// Config of a Keeper. All fields are required.
type Config struct {
	Spool *spool.Spool
	Wall  func() time.Time
	Log   *slog.Logger
}

// Keeper may be used from any goroutine.
type Keeper struct {
	Config
	refused atomic.Uint64 // statements that the core will never take
	lost    atomic.Uint64 // records that the disk lost
	doubted atomic.Uint64 // spans that the core did not take

	mu      sync.Mutex
	devices map[ident.DeviceID]*device
}

// A device is how far its statements are in custody, and its newest receipt.
type device struct {
	kept    Position // without a break, as far as this gateway saw
	receipt []byte   // nil: none came
	covers  Position // of receipt
}

// A Position is a place in a device's statements.
type Position struct {
	Epoch uint64
	Seq   uint64
	Chain seal.Chain // after it
}

// Before tells whether p comes before o.
func (p *Position) Before(o *Position) bool {
	return p.Epoch < o.Epoch || p.Epoch == o.Epoch && p.Seq < o.Seq
}

// maxDevices bounds the devices that are remembered. What is forgotten costs no more than that its device sends again what
// lies in the spool already, which the core notices.
const maxDevices = 1 << 17

// Open makes a keeper of what the spool holds.
func Open(c Config) (*Keeper, error) {
	k := &Keeper{Config: c, devices: make(map[ident.DeviceID]*device)}
	for after := c.Spool.Trimmed().Seq; ; {
		page, err := c.Spool.Read(after, scanRecords, scanBytes)
		if err != nil {
			return nil, fmt.Errorf("statements in the spool: %w", err)
		}
		if len(page.Records) == 0 && page.Lost.Empty() {
			return k, nil
		}
		after = page.After()
		for i := range page.Records {
			if page.Records[i].Kind != KindStatement {
				continue
			}
			if st, err := seal.ParseStatement(page.Records[i].Data); err == nil {
				k.keep(st, false)
			}
		}
	}
}

// Wake receives a value when there is something new to send.
func (k *Keeper) Wake() <-chan struct{} { return k.Spool.Wake() }

// Refused counts the statements that the core will never take.
func (k *Keeper) Refused() uint64 { return k.refused.Load() }

// Doubted counts the spans that the core did not take.
func (k *Keeper) Doubted() uint64 { return k.doubted.Load() }

// Lost counts the records that the gateway's disk lost after they were in custody.
func (k *Keeper) Lost() uint64 { return k.lost.Load() }

// Backlog is what the core is told of what waits here.
func (k *Keeper) Backlog() *wire.Backlog {
	s := k.Spool.Status()
	return &wire.Backlog{
		Statements: s.Records, Bytes: uint64(max(s.Bytes, 0)), OldestMS: s.OldestMS, Holding: s.Holding, Failing: s.Failed != nil,
		Refused: k.Refused(), Lost: k.Lost(),
	}
}

// How much of the spool is looked at at once.
const (
	scanRecords = 1024
	scanBytes   = 1 << 20
)

// Keep takes a verified statement into custody. first says that it does not follow another one on its session: what comes
// before it needs no custody here. done is called once, from any goroutine, and must not block: with nil when the statement is
// on disk, or with the reason why it is not kept.
func (k *Keeper) Keep(st *seal.SealedStatement, first bool, done func(*wire.Error)) {
	k.Spool.Append(KindStatement, k.Wall().UnixMilli(), st.Sealed, func(_ uint64, err error) {
		if err != nil {
			done(k.refusal(err))
			return
		}
		k.keep(st, first)
		done(nil)
	})
}

// KeepSpan takes a span of presence into custody. done is called once, from any goroutine, and must not block: with nil when the span
// is on disk.
func (k *Keeper) KeepSpan(s *wire.Span, done func(error)) {
	b, err := wire.Marshal(s)
	if err != nil {
		done(fmt.Errorf("span of %v: %w", s.Device, err))
		return
	}
	k.Spool.Append(KindSpan, k.Wall().UnixMilli(), b, func(_ uint64, err error) { done(err) })
}

// Kept is up to where a device's statements are in custody; the zero Position: nothing is.
func (k *Keeper) Kept(id ident.DeviceID) Position {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.devices[id]; d != nil {
		return d.kept
	}
	return Position{}
}

// Times told with refusals.
const (
	holdFor = 30 * time.Second
	busyFor = 2 * time.Second
)

// refusal is what a device is told when the spool does not take its statement.
func (k *Keeper) refusal(err error) *wire.Error {
	switch {
	case errors.Is(err, spool.ErrHold):
		return wire.Refuse(wire.CodeHold, "the gateway has no room left").After(holdFor)
	case errors.Is(err, spool.ErrBusy):
		return wire.Refuse(wire.CodeBusy, "too much waits for the gateway's disk").After(busyFor)
	}
	k.Log.Error("a statement could not be kept", "err", err)
	return wire.Refuse(wire.CodeUnavailable, "the gateway cannot keep it").After(busyFor)
}

// keep notes that a statement is on disk.
func (k *Keeper) keep(st *seal.SealedStatement, first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.device(st.Device)
	if d == nil {
		return
	}
	p := Position{st.Epoch, st.Seq, st.Chain}
	same := p.Epoch == d.kept.Epoch && p.Seq == d.kept.Seq
	switch {
	case same && p.Chain != d.kept.Chain: // the device's state was set back: what was kept is of another past
		d.kept = p
	case first && d.kept.Before(&p), p.Epoch == d.kept.Epoch && p.Seq == d.kept.Seq+1 && st.Prev == d.kept.Chain:
		d.kept = p
	case p.Epoch > d.kept.Epoch && p.Seq == 1:
		d.kept = p
	}
}

// device finds or makes a device's entry; nil: there are too many. The caller holds mu.
func (k *Keeper) device(id ident.DeviceID) *device {
	d, ok := k.devices[id]
	if !ok && len(k.devices) < maxDevices {
		d = new(device)
		k.devices[id] = d
	}
	return d
}
