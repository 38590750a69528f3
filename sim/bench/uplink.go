package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/load"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// commandDial makes an uplink driver leave the node that it is with, if any, for the one whose uplink is the argument.
const commandDial = "dial"

// lanes is how many messages of an uplink driver are under way at a time, as many as a gateway has.
const lanes = 4

// uplinkConfig is a driver that speaks to the core as a gateway does. The devices behind it are played in the same process,
// without sessions: each of its messages brings one statement of each of Batch devices.
type uplinkConfig struct {
	Gateway  gatewayConfig // whose identity it has; nothing listens there
	Register string        // path of the register
	From, N  int           // which devices
	Batch    int           // statements in a message, at most wire.MaxBatch
}

// uplinkDriver is such a driver. Its methods are called one at a time.
type uplinkDriver struct {
	cfg     uplinkConfig
	tr      *link.Transport
	cred    *credential.Credential
	players []*player
	lanes   []*lane
	states  *load.Load
	loader
	session *link.Session // nil: not with any node
	ended   chan struct{} // closed when the session's reader has ended
}

// lane is one message after the other. It is used by the one goroutine that drives it.
type lane struct {
	players []*player // of this lane alone
	next    int       // whose turn it is
	id      uint64    // of the newest message; id % lanes is the lane's place
	answer  chan answered
}

// answered is what the core said to a message.
type answered struct {
	*wire.Submitted
	id  uint64
	err error
}

// openUplink enrolls the gateway whose identity the driver has.
func openUplink(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[uplinkConfig](config)
	if err != nil {
		return nil, err
	}
	if cfg.Batch < 1 || cfg.Batch > wire.MaxBatch || cfg.N < cfg.Batch*lanes {
		return nil, fmt.Errorf("%d lanes of %d of %d devices: %w", lanes, cfg.Batch, cfg.N, errUsage)
	}
	if err := cfg.Gateway.enroll(ctx, cfg.Gateway.config()); err != nil {
		return nil, err
	}
	d := &uplinkDriver{cfg: cfg}
	if d.cred, err = credential.Load(cfg.Gateway.Dir); err != nil {
		return nil, err
	}
	devices, _, err := readRegister(cfg.Register, cfg.From, cfg.N)
	if err != nil {
		return nil, err
	}
	for range lanes {
		d.lanes = append(d.lanes, &lane{})
	}
	for i, device := range devices {
		p := newPlayer(device, nil)
		d.players = append(d.players, p)
		d.lanes[i%lanes].players = append(d.lanes[i%lanes].players, p)
	}
	exchanges := make([]load.Device, lanes)
	for i, l := range d.lanes {
		exchanges[i] = func(uint32) error { return d.submit(i, l) }
	}
	d.states = load.New(exchanges)
	d.tr, _, err = dialler(ctx, cfg.Gateway.Cores[0])
	return d, err
}

// Do implements floor.Service.
func (d *uplinkDriver) Do(ctx context.Context, command string) (any, error) {
	name, arg, _ := strings.Cut(command, " ")
	switch name {
	case commandDial:
		return nil, d.dial(ctx, arg)
	case commandStart:
		if d.session == nil {
			return nil, errNoSession
		}
		return nil, d.start(ctx, d.states)
	case commandStop:
		return nil, d.stop()
	case commandCount:
		c := d.count()
		c.Completed *= uint64(d.cfg.Batch) //nolint:gosec // G115: at most wire.MaxBatch
		return c, nil
	case commandPrepare:
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if d.cancel != nil {
			return nil, errRunning
		}
		return prepare(d.players, n)
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, name)
}

var errNoSession = errors.New("dial a core node first")

// dial opens a session with a core node and says hello, as a gateway's link does.
func (d *uplinkDriver) dial(ctx context.Context, addr string) (err error) {
	if d.cancel != nil {
		return errRunning
	}
	d.leave()
	to, err := link.Resolve(ctx, addr)
	if err != nil {
		return err
	}
	tc := d.cred.Endpoint(time.Now).Client(wire.ALPNUplink, ident.RoleCore, nil)
	s, err := d.tr.Dial(ctx, to, tc, link.Options{Limits: link.UplinkLimits})
	if err != nil {
		return err
	}
	hello := wire.UplinkHello{Capability: wire.Capability, Version: "bench", Listen: d.cfg.Gateway.Listen, Run: rand.Uint64()} //nolint:gosec // an id, no secret
	err = s.Send(wire.TypeUplinkHello, hello)
	if err == nil {
		_, err = expect[wire.UplinkWelcome](s, wire.TypeUplinkWelcome)
	}
	if err != nil {
		s.Close()
		return err
	}
	d.session, d.ended = s, make(chan struct{})
	for _, l := range d.lanes {
		l.answer = make(chan answered, 1)
	}
	go d.read(s, d.ended)
	return nil
}

// leave ends the session, if there is one, and waits for its reader.
func (d *uplinkDriver) leave() {
	if d.session != nil {
		d.session.Close()
		<-d.ended
		d.session = nil
	}
}

// read hands the core's answers to the lanes until the session ends; then it tells them. What the core says of the site is
// not for the driver.
func (d *uplinkDriver) read(s *link.Session, ended chan<- struct{}) {
	defer close(ended)
	for {
		t, body, err := s.Recv()
		a := answered{err: err}
		switch {
		case err != nil:
			for _, l := range d.lanes {
				select {
				case l.answer <- a:
				default: // it has an answer that it has not looked at yet
				}
			}
			return
		case t == wire.TypeSubmitted:
			if a.Submitted, a.err = read[wire.Submitted](t, body, t); a.err == nil {
				a.id = a.ID
			}
		case t == wire.TypeError:
			e := new(wire.Error)
			if a.err = wire.Unmarshal(body, e); a.err == nil {
				a.id, a.err = e.ID, e
			}
		default:
			continue
		}
		select {
		case d.lanes[a.id%lanes].answer <- a:
		case <-s.Context().Done():
		}
	}
}

// submit sends one statement of each of the lane's next devices and waits until they are committed.
func (d *uplinkDriver) submit(place int, l *lane) error {
	batch := make([]*player, d.cfg.Batch)
	l.id += lanes
	m := wire.Submit{ID: l.id + uint64(place), TimeMS: time.Now().UnixMilli(), Statements: make([][]byte, d.cfg.Batch), AfterMS: make([]int64, d.cfg.Batch)} //nolint:gosec // G115: a place
	for i := range batch {
		batch[i] = l.players[(l.next+i)%len(l.players)]
		if len(batch[i].ready) == 0 {
			return errUnsigned
		}
		m.Statements[i] = batch[i].ready[0]
	}
	if err := d.session.Send(wire.TypeSubmit, m); err != nil {
		return err
	}
	a := <-l.answer
	if a.err != nil {
		return a.err
	}
	if a.id != m.ID || len(a.Results) != len(batch) {
		return fmt.Errorf("answer %d with %d results to message %d with %d statements: %w", a.id, len(a.Results), m.ID, len(batch), wire.ErrMalformed)
	}
	for i, p := range batch {
		r := &a.Results[i]
		if r.Code != wire.CodeNone {
			return &wire.Error{Code: r.Code, Detail: r.Detail}
		}
		p.ready = p.ready[1:]
		p.stated++
	}
	l.next = (l.next + len(batch)) % len(l.players)
	return nil
}

// Close implements floor.Service.
func (d *uplinkDriver) Close() error {
	err := d.abandon(func() error {
		if d.session != nil {
			d.session.Close()
		}
		return nil
	})
	d.leave()
	return errors.Join(err, d.tr.Close())
}

// startUplink runs a driver that plays n of the enrolled devices, from the given one on.
func (w *world) startUplink(ctx context.Context, t string, from, n, batch int) (*floor.Child, error) {
	return floor.StartChild(ctx, floor.ChildConfig{Role: roleUplink, CPU: proc.AnyCPU, Config: uplinkConfig{
		Gateway:  gatewayConfig{Dir: filepath.Join(w.dir, driverName), Name: driverName, Listen: w.listen, Token: t, Cores: w.uplinks()},
		Register: w.register(), From: from, N: n, Batch: batch,
	}})
}
