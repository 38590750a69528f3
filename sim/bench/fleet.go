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

// fleet plays attached devices. Its methods are called one at a time.
type fleet struct {
	tr        *link.Transport
	players   []*player
	authority ed25519.PublicKey
	beats     *load.Load
	states    *load.Load
	loader
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
	f.watch(f.beats)
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
		next := f.beats
		if arg == loadStatements {
			next = f.states
		}
		return nil, f.start(ctx, next)
	case commandStop:
		return nil, f.stop()
	case commandCount:
		return f.count(), nil
	case commandPrepare:
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if f.cancel != nil {
			return nil, errRunning
		}
		return prepare(f.players, n)
	case commandReceipts:
		return receipts(f.players, f.authority)
	case commandCollect:
		return collect(), nil
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, name)
}

// Close implements floor.Service.
func (f *fleet) Close() error {
	return f.abandon(func() error {
		for _, p := range f.players {
			p.session.Close() // a gateway that knows that they are gone need not say goodbye to each
		}
		return f.tr.Close()
	})
}
