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
	commandSum      = "sum"      // answers counts without percentiles, and does not begin new ones
	commandPrepare  = "prepare"  // sign statements until every device has so many ahead; answers prepared
	commandReceipts = "receipts" // open every device's newest receipt; answers how many cover all that was answered
)

// The loads. loadCalm takes the interval behind a space.
const (
	loadBeats      = "beats"      // heartbeats, one after the other
	loadCalm       = "calm"       // heartbeats as real devices send them
	loadStatements = "statements" // what is signed, one after the other, until everything is in custody
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
	f.beats = beats(f.players)
	f.watch(f.beats)
	return f, nil
}

func beats(players []*player) *load.Load {
	devices := make([]load.Device, len(players))
	for i, p := range players {
		devices[i] = p.beat
	}
	return load.New(devices)
}

// drive is a load by name.
func (f *fleet) drive(name string) (drive, error) {
	name, arg, _ := strings.Cut(name, " ")
	switch name {
	case loadBeats:
		return f.beats, nil
	case loadStatements:
		return &stating{players: f.players}, nil
	case loadCalm:
		every, err := time.ParseDuration(arg)
		if err == nil && every > 0 {
			return &calm{players: f.players, every: every}, nil
		}
	}
	return nil, fmt.Errorf("load %q %q: %w", name, arg, errUsage)
}

// Do implements floor.Service.
func (f *fleet) Do(ctx context.Context, command string) (any, error) {
	name, arg, _ := strings.Cut(command, " ")
	switch name {
	case commandStart:
		next, err := f.drive(arg)
		if err != nil {
			return nil, err
		}
		return nil, f.start(ctx, next)
	case commandStop:
		return nil, f.stop()
	case commandCount:
		return f.count(), nil
	case commandSum:
		return f.sum(), nil
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
