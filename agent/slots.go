package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/agent/fetch"
	"github.com/holdfast-edge/holdfast/agent/install"
	"github.com/holdfast-edge/holdfast/agent/reconcile"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// slotsDir is where slots lie in the state directory.
const slotsDir = "slots"

// reconciler joins what keeps the slots at what is ordered.
func (a *Agent) reconciler() (*reconcile.Reconciler, error) {
	trusted, err := devstate.OpenPublishers(a.StateDir, a.cred.ID.Fleet, a.cred.Authority, a.Log)
	if err != nil {
		return nil, err
	}
	client := fetch.New(gateways{a}, a.wall, a.Log)
	o := a.Install
	o.Units, o.Log = a.Units, a.Log
	return reconcile.New(reconcile.Config{
		Dir: filepath.Join(a.StateDir, slotsDir), Orders: devstate.OpenOrders(a.state, a.cred.ID.Fleet, a.cred.Authority, a.Log), Trusted: trusted,
		Content: client, Sets: client, Outbox: outbox{a}, Log: a.Log,
		Open: func(dir string) (reconcile.Slot, error) {
			s, err := install.Open(dir, o)
			if err != nil {
				return nil, err
			}
			return slot{s, client}, nil
		},
		Preflight: func(m *artifact.Manifest) error { return reasoned(install.Preflight(m, a.Profile(), o)) },
	})
}

// gateways are those that the agent's link knows.
type gateways struct{ a *Agent }

func (g gateways) Sources() []string                         { return g.a.link.Sources() }
func (g gateways) Doubt(gateway ident.ID, reason seal.Doubt) { g.a.link.Doubt(gateway, reason) }
func (g gateways) Content(ctx context.Context, addr string) (*wirelink.Session, error) {
	return g.a.link.Content(ctx, addr)
}

// outbox is where the agent's statements go.
type outbox struct{ a *Agent }

func (o outbox) State(t seal.StatementType, body []byte) error {
	_, err := o.a.say(t, body)
	return err
}
func (o outbox) Said(slot string) (epoch, seq uint64) { return o.a.state.Said(slot) }
func (o outbox) Room() bool                           { return o.a.state.Room() }

// A slot is an installation whose errors say their reasons in the words of package reconcile.
type slot struct {
	*install.Slot
	from install.Fetcher
}

func (s slot) Current() (wire.Digest, error) {
	d, err := s.Slot.Current()
	return d, reasoned(err)
}

func (s slot) Manifest(d wire.Digest) (*artifact.Manifest, error) {
	m, err := s.Slot.Manifest(d)
	return m, reasoned(err)
}

func (s slot) Stage(ctx context.Context, d wire.Digest, m *artifact.Manifest, manifest []byte, progress func(reconcile.Progress)) error {
	return reasoned(s.Slot.Stage(ctx, d, m, manifest, s.from, func(p install.Progress) {
		progress(reconcile.Progress{Total: p.Total, Fetched: p.Fetched, Saved: p.Saved})
	}))
}

func (s slot) Switch(d wire.Digest) error { return reasoned(s.Slot.Switch(d)) }

func (s slot) Activate(ctx context.Context, m *artifact.Manifest) error {
	return reasoned(s.Slot.Activate(ctx, m))
}

func (s slot) Check(ctx context.Context, m *artifact.Manifest) error {
	return reasoned(s.Slot.Check(ctx, m))
}

func (s slot) Verify(ctx context.Context, d wire.Digest) error {
	return reasoned(s.Slot.Verify(ctx, d))
}

// reasoned hands on an error of an installation with its reason.
func reasoned(err error) error {
	e, ok := errors.AsType[*install.Error](err)
	if !ok {
		return err
	}
	return &reconcile.Error{Reason: e.Reason, Err: err}
}

// Bounds of the settings.
const (
	maxUnits = 64
	maxUnit  = 128 // bytes
)

// checkUnits holds the units that may be restarted against their rules.
func checkUnits(units []string) error {
	if len(units) > maxUnits {
		return fmt.Errorf("units: %w: %d, at most %d", ErrConfig, len(units), maxUnits)
	}
	for i, u := range units {
		name, ok := strings.CutSuffix(u, ".service")
		bad := strings.IndexFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(`:_.\@-`, r)
		}) >= 0
		if !ok || name == "" || bad || len(u) > maxUnit {
			return fmt.Errorf("units[%d]: %w: %.80q is no name of a systemd service, such as app.service", i, ErrConfig, u)
		}
	}
	return nil
}
