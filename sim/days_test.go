package sim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A still is what presence is of in a gateway, without its links.
type still struct {
	roster *roster.Roster
	keeper *custody.Keeper
	stop   func() error // as kill -9 does, but for the spool, which has its own tests
}

func startStill(t *testing.T, dir string) *still {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Wall: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s := &still{roster: roster.New(time.Now)}
	if s.keeper, err = custody.Open(custody.Config{Spool: sp, Wall: time.Now, Log: log}); err != nil {
		t.Fatal(err)
	}
	s.roster.Kept(filepath.Join(dir, "presence"), log)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() { failed = sp.Run(ctx) })
	wg.Go(func() { s.roster.Watch(ctx) })
	wg.Go(func() { s.roster.Keep(ctx, s.keeper) })
	s.stop = func() error {
		cancel()
		wg.Wait()
		return failed
	}
	return s
}

// A ledger is a registry without Raft.
type ledger struct {
	t     *testing.T
	state *registry.State
	index uint64
}

func (l *ledger) apply(c command.Command) (any, []registry.Record) {
	l.t.Helper()
	b, err := command.Encode(c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.index++
	eff, err := l.state.Apply(l.index, time.Now(), [][]byte{b})
	if err == nil {
		if refused, ok := eff.Results[0].(error); ok {
			err = refused
		}
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return eff.Results[0], eff.Records
}

func newLedger(t *testing.T, devices []ident.DeviceID) *ledger {
	l := &ledger{t: t, state: registry.New()}
	ca := func(r ident.Role) command.WrappedCA {
		return command.WrappedCA{Role: r, Cert: []byte(r), Key: []byte(r)}
	}
	l.apply(&command.Init{
		Fleet: "sim", Root: ca("root"), CAs: []command.WrappedCA{ca(ident.RoleDevice)}, Authority: ca(ident.RoleAuthority),
		Operator: command.Operator{ID: "o1", Name: "admin", Role: "admin"}, Node: command.CoreNode{Name: "core-1"}, IntervalMS: 30_000,
	})
	l.apply(&command.CreateToken{
		By: command.Actor{Operator: "o1"}, ID: seal.TokenID{1}, Public: []byte{1}, Kind: seal.KindDevice, Site: "plant-7",
		TTLMS: time.Hour.Milliseconds(), Uses: uint32(len(devices)),
	})
	for _, d := range devices {
		l.apply(&command.Enroll{Token: seal.TokenID{1}, Kind: seal.KindDevice, Device: d, SPKI: d[:], Cert: d[:], NotAfter: time.Now().Add(time.Hour).UnixMilli()})
	}
	return l
}

// TestDaysWithoutTheCore has a plant without its WAN for days: heartbeats every 30 s, devices that are away for a while now and then,
// and a gateway that is killed twice. What the core has afterwards is what was answered. Links are left out, so that virtual time is
// quick, but every checkpoint is synced: HOLDFAST_DAYS=14 HOLDFAST_DEVICES=1000 takes longer than there is time for on every push.
func TestDaysWithoutTheCore(t *testing.T) {
	t.Parallel()
	const interval = 30 * time.Second
	set := func(name string, usual int) int {
		if v, ok := fromEnv(t, name); ok {
			return int(v)
		}
		return usual
	}
	n, days := set("HOLDFAST_DEVICES", 40), set("HOLDFAST_DAYS", 1)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(14, 14))
		devices := make([]ident.DeviceID, n)
		for i := range devices {
			devices[i] = ident.NewDeviceID()
		}
		l := newLedger(t, devices)
		entries := make([]*roster.Entry, n) // nil: away
		number, answered := make([]uint64, n), make([]uint64, n)
		back := make([]int, n) // the round in which a device that is away comes back
		attach := make([]byte, 300)
		s := startStill(t, dir)
		defer func() {
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		}()
		var most int64
		const steps = 10
		rounds := days * int(24*time.Hour/interval)
		for round := range rounds {
			for step := range steps {
				time.Sleep(interval / steps)
				for i := step; i < n; i += steps {
					if entries[i] != nil && rng.IntN(4000) == 0 {
						entries[i], back[i] = nil, round+5+rng.IntN(200)
					}
					if round < back[i] {
						continue
					}
					if entries[i] == nil {
						entries[i] = s.roster.Attached(devices[i], deaf{}, attach, interval, interval)
					}
					number[i]++
					s.roster.Beat(entries[i], &wire.Heartbeat{Run: 1, Number: number[i], IntervalMS: wire.Millis(interval)})
					answered[i]++
				}
			}
			if round%1000 == 0 {
				most = max(most, s.keeper.Spool.Status().Bytes)
			}
			if round == rounds/3 || round == rounds/2 {
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
				s = startStill(t, dir)
				clear(entries)
			}
		}
		time.Sleep(5 * interval)
		synctest.Wait()
		most = max(most, s.keeper.Spool.Status().Bytes)
		spans, counted := drain(t, s.keeper, l)
		var all, heard uint64
		for i, d := range devices {
			all += counted[d]
			heard += answered[i]
			if got := counted[d]; got > answered[i] || got+2 < answered[i] {
				t.Errorf("device %d: %d heartbeats in its spans, %d were answered, and its gateway was killed twice", i, got, answered[i])
			}
		}
		if most >= 64<<20 || s.roster.SpansLost() != 0 || s.keeper.Doubted() != 0 {
			t.Errorf("spool of %d bytes, %d spans lost, %d not taken", most, s.roster.SpansLost(), s.keeper.Doubted())
		}
		t.Logf("%d devices, %d days: %d heartbeats in %d spans, %d answered; at most %d bytes of spool", n, days, all, spans, heard, most)
	})
}

// drain replays what is in custody into the registry, and sums up what each device's history says.
func drain(t *testing.T, k *custody.Keeper, l *ledger) (spans int, counted map[ident.DeviceID]uint64) {
	t.Helper()
	type name struct {
		device ident.DeviceID
		from   int64
	}
	known := make(map[name]registry.Span)
	r := k.Replay()
	for {
		b, _, err := r.Next(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		m := b.Submit(1)
		c := &command.Spans{Gateway: "plant-7/gw-a"}
		for _, s := range m.Spans {
			c.Items = append(c.Items, command.Span{Device: s.Device, FromMS: s.FromMS, LastMS: s.LastMS, ToMS: s.ToMS, Beats: s.Beats, Missed: s.Missed})
		}
		_, records := l.apply(c)
		if len(records) != len(c.Items) {
			t.Fatalf("%d records of %d spans", len(records), len(c.Items))
		}
		for i, rec := range records {
			var s registry.Span
			if err := wire.Unmarshal(rec.Data, &s); err != nil {
				t.Fatal(err)
			}
			id := name{c.Items[i].Device, s.FromMS}
			if had, ok := known[id]; !ok || had.ToMS < s.ToMS {
				known[id] = s
			}
		}
		if _, err := r.Answered(b, make([]wire.SubmitResult, b.Len()), nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	counted = make(map[ident.DeviceID]uint64)
	for id, s := range known {
		counted[id.device] += s.Beats
	}
	if left := k.Spool.Status().Records; left != 0 {
		t.Errorf("%d records stay", left)
	}
	return len(known), counted
}

// A deaf session takes what it is told and does nothing.
type deaf struct{}

func (deaf) Tell(time.Duration)  {}
func (deaf) Receipt([]byte)      {}
func (deaf) Refused(*wire.Error) {}
func (deaf) Drop(*wire.Error)    {}
