package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/sim/procs"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// setting is what a world consists of.
type setting struct {
	nodes   int // of the core
	filled  int // devices that the registry has from the beginning, and that nobody plays
	passed  int // with filled: entries that push those of the devices out of what the log keeps in memory
	devices int // that are enrolled through the gateway and can be played; 0: there is no gateway
}

// world is one fleet of real processes on loopback: core nodes, a gateway, and the processes that play devices. Its methods
// are for one goroutine.
type world struct {
	setting
	dir     string // everything lies in it
	cores   []*coreNode
	gateway *floor.Child  // nil: none
	listen  string        // the gateway's
	ops     string        // where the gateway is watched
	base    held          // a gateway before any device was enrolled
	fill    filled        // of a registry that has devices from the beginning
	starts  uint64        // of device processes; see device.attach
	settle  time.Duration // after a gateway's start
	api     *http.Client
	bearer  string
}

// openWorld starts core nodes and, where devices are to be played, a gateway, and enrolls the devices. The caller must call
// close.
func openWorld(ctx context.Context, want setting, settle time.Duration) (_ *world, err error) {
	w := &world{setting: want, settle: settle}
	if w.dir, err = os.MkdirTemp("", "holdfast-bench-"); err != nil {
		return nil, fmt.Errorf("directory of the run: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open world: %w", err), w.close())
		}
	}()
	for _, a := range []*string{&w.listen, &w.ops} {
		if *a, err = procs.FreeAddr(); err != nil {
			return nil, err
		}
	}
	if err := w.startCores(ctx); err != nil {
		return nil, err
	}
	if want.devices == 0 {
		return w, nil
	}
	if err := w.startGateway(ctx, proc.AnyCPU); err != nil { // it enrolls
		return nil, err
	}
	if err := w.restartGateway(ctx, proc.AnyCPU); err != nil { // as it will be from now on
		return nil, err
	}
	if w.base, err = holdings(ctx, w.gateway); err != nil {
		return nil, err
	}
	return w, w.enroll(ctx, want.devices)
}

// startGateway runs the gateway on the given core. The first time it enrolls.
func (w *world) startGateway(ctx context.Context, cpu int) error {
	return w.runGateway(ctx, cpu, false)
}

func (w *world) runGateway(ctx context.Context, cpu int, count bool) (err error) {
	cfg := gatewayConfig{Count: count, Dir: filepath.Join(w.dir, "gateway"), Name: gatewayName, Listen: w.listen, Ops: w.ops, Cores: w.uplinks()}
	if _, err := os.Stat(cfg.Dir); errors.Is(err, os.ErrNotExist) {
		t, err := w.token(ctx, seal.KindGateway, 1)
		if err != nil {
			return err
		}
		cfg.Token = t.Reveal()
	}
	gw, err := floor.StartChild(ctx, floor.ChildConfig{Role: roleGateway, CPU: cpu, Config: cfg})
	if err != nil {
		return err
	}
	w.gateway = gw
	return nil
}

// restartGateway gives the next measurement a gateway without a past.
func (w *world) restartGateway(ctx context.Context, cpu int) error {
	if err := w.stopGateway(); err != nil {
		return err
	}
	if err := w.startGateway(ctx, cpu); err != nil {
		return err
	}
	return rest(ctx, w.settle)
}

// restartCounting is the same with a gateway that counts what goes through its sockets.
func (w *world) restartCounting(ctx context.Context) error {
	if err := w.stopGateway(); err != nil {
		return err
	}
	if err := w.runGateway(ctx, proc.AnyCPU, true); err != nil {
		return err
	}
	return rest(ctx, w.settle)
}

func (w *world) stopGateway() error {
	old := w.gateway
	w.gateway = nil
	return old.Close()
}

// enroll gets n devices an identity, through the gateway.
func (w *world) enroll(ctx context.Context, n int) error {
	t, err := w.token(ctx, seal.KindDevice, n+1) // one for the agent
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.tokenFile(), []byte(t.Reveal()), 0o600); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	r, err := enrollAll(ctx, w.listen, t, n)
	if err != nil {
		return err
	}
	return r.write(w.register())
}

func (w *world) register() string  { return filepath.Join(w.dir, "devices.json") }
func (w *world) tokenFile() string { return filepath.Join(w.dir, "device.token") }

// startDevices plays n of the enrolled devices, from the given one on, in a process of its own.
func (w *world) startDevices(ctx context.Context, role string, cpu, from, n int) (*floor.Child, error) {
	w.starts++
	return floor.StartChild(ctx, floor.ChildConfig{Role: role, CPU: cpu, Config: fleetConfig{
		Register: w.register(), Gateway: w.listen, From: from, N: n, Start: w.starts,
	}})
}

// token makes an enrollment token.
func (w *world) token(ctx context.Context, kind seal.Kind, uses int) (*seal.Token, error) {
	var t v1.NewToken
	in := map[string]any{"kind": kind, "uses": uses}
	if kind != seal.KindCore {
		in["site"] = siteName
	}
	if err := w.call(ctx, &t, http.MethodPost, "/v1/tokens", in); err != nil {
		return nil, err
	}
	return seal.ParseToken(t.Token)
}

// index is how far the log has come.
func (w *world) index(ctx context.Context) (uint64, error) {
	c, err := w.cluster(ctx)
	return c.Index, err
}

// call asks the first core node's API as the administrator. in may be nil.
func (w *world) call(ctx context.Context, out any, method, path string, in any) error {
	return w.ask(ctx, out, w.cores[0], w.bearer, request{method, path, in})
}

// close ends all processes and removes everything.
func (w *world) close() error {
	var errs []error
	if w.gateway != nil {
		errs = append(errs, w.gateway.Close())
	}
	for _, c := range w.cores {
		if c.child != nil {
			errs = append(errs, c.child.Close())
		}
	}
	if w.api != nil {
		w.api.CloseIdleConnections()
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
