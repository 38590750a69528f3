package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/load"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Commands of a fleet. start and prepare take an argument behind a space.
const (
	commandStart    = "start"    // begin a load: loadBeats or loadStatements
	commandStop     = "stop"     // end it
	commandCount    = "count"    // answers counts
	commandPrepare  = "prepare"  // sign statements until every device has so many ahead; answers prepared
	commandReceipts = "receipts" // open every device's newest receipt; answers how many cover all that was answered
)

// The loads.
const (
	loadBeats      = "beats"
	loadStatements = "statements"
)

var (
	errUsage   = errors.New("bad configuration")
	errRunning = errors.New("a load is running")
	errStuck   = errors.New("exchanges are still unanswered")
)

// stopGrace is how long exchanges under way may take when a load ends.
const stopGrace = 8 * time.Second

// fleetConfig says which devices to play.
type fleetConfig struct {
	Register string // path of the register
	Gateway  string // host:port
	From, N  int    // which devices
	Start    uint64 // see device.attach
}

// counts is what a fleet has done since it began; the percentiles are since the last count.
type counts struct {
	Completed, Failed uint64
	P50, P99          time.Duration
	FirstFailure      string // for people
}

// prepared is what was signed.
type prepared struct {
	Signed int
	Bytes  int // mean size of a sealed statement
}

// fleet plays attached devices. Its methods are called one at a time.
type fleet struct {
	tr        *link.Transport
	players   []*player
	authority ed25519.PublicKey
	beats     *load.Load
	states    *load.Load

	last    *load.Load // the newest load, to be counted
	before  load.Totals
	cancel  context.CancelFunc // nil while no load runs
	stopped chan struct{}      // closed when the load that cancel ends has ended
}

// openFleet attaches all devices and lets each beat once.
func openFleet(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[fleetConfig](config)
	if err != nil {
		return nil, err
	}
	devices, authority, err := readRegister(cfg.Register, cfg.From, cfg.N)
	if err != nil {
		return nil, err
	}
	tr, to, err := dialler(ctx, cfg.Gateway)
	if err != nil {
		return nil, err
	}
	f := &fleet{tr: tr, players: make([]*player, cfg.N), authority: authority}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(dialsAtOnce)
	for i, d := range devices {
		g.Go(func() error {
			return patiently(gctx, func() error {
				s, err := d.open(gctx, tr, to, cfg.Start)
				if err != nil {
					return err
				}
				f.players[i] = newPlayer(d, s)
				return f.players[i].beat(0) //nolint:contextcheck // a load.Device has no context; it watches its session's
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(fmt.Errorf("attach: %w", err), tr.Close())
	}
	f.beats, f.states = f.loadOf((*player).beat), f.loadOf((*player).state)
	f.last, f.before = f.beats, f.beats.Totals()
	return f, nil
}

func (f *fleet) loadOf(exchange func(*player, uint32) error) *load.Load {
	devices := make([]load.Device, len(f.players))
	for i, p := range f.players {
		devices[i] = func(seq uint32) error { return exchange(p, seq) }
	}
	return load.New(devices)
}

// Do implements floor.Service.
func (f *fleet) Do(ctx context.Context, command string) (any, error) {
	name, arg, _ := strings.Cut(command, " ")
	switch name {
	case commandStart:
		return nil, f.start(ctx, arg)
	case commandStop:
		return nil, f.stop()
	case commandCount:
		return f.count(), nil
	case commandPrepare:
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		return f.prepare(n)
	case commandReceipts:
		return f.receipts()
	case commandCollect:
		return collect(), nil
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, name)
}

func (f *fleet) start(ctx context.Context, what string) error {
	if f.cancel != nil {
		return errRunning
	}
	next := f.beats
	if what == loadStatements {
		next = f.states
	}
	f.last, f.before = next, next.Totals()
	ctx, f.cancel = context.WithCancel(ctx)
	stopped := make(chan struct{})
	f.stopped = stopped
	go func() {
		defer close(stopped)
		next.Run(ctx)
	}()
	return nil
}

// stop ends the load and waits for what is under way.
func (f *fleet) stop() error {
	if f.cancel == nil {
		return nil
	}
	f.cancel()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-f.stopped:
		f.cancel = nil
		return nil
	case <-grace.C:
		return errStuck
	}
}

func (f *fleet) count() counts {
	now := f.last.Totals()
	window := now.Since(f.before)
	f.before = now
	c := counts{Completed: now.Completed(), Failed: now.Failed, P50: window.Latency.Percentile(0.5), P99: window.Latency.Percentile(0.99)}
	if err := f.last.Err(); err != nil {
		c.FirstFailure = err.Error()
	}
	return c
}

// Close implements floor.Service.
func (f *fleet) Close() error {
	if f.cancel != nil {
		f.cancel()
	}
	for _, p := range f.players {
		p.session.Close() // a gateway that knows that they are gone need not say goodbye to each
	}
	err := f.tr.Close()
	if f.cancel != nil {
		<-f.stopped
	}
	return err
}
