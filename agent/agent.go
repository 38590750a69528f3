// Package agent assembles the agent of one device. It has no package-level state: thousands live in one process.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/agent/hardware"
	"github.com/holdfast-edge/holdfast/agent/install"
	"github.com/holdfast-edge/holdfast/agent/link"
	"github.com/holdfast-edge/holdfast/agent/reconcile"
	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// ErrConfig is the sentinel of a configuration that cannot be used.
var ErrConfig = errors.New("bad configuration")

// Settings are what an agent keeps in agent.yaml in its state directory. Enroll writes them; whoever owns the device may
// change them.
type Settings struct {
	Gateways []string          `yaml:"gateways"`       // host:port (UDP, and TCP where that does not get through)
	Tags     map[string]string `yaml:"tags,omitempty"` // the device's own
	// Units are the systemd services that what is installed may have restarted, such as app.service.
	Units []string `yaml:"units,omitempty"`
}

// Check holds the settings against their rules. The error is ErrConfig and names the key.
func (s *Settings) Check() error {
	if len(s.Gateways) == 0 {
		return fmt.Errorf("gateways: %w: name at least one gateway", ErrConfig)
	}
	for i, g := range s.Gateways {
		if err := config.CheckAddr(g); err != nil {
			return fmt.Errorf("gateways[%d]: %w: %w", i, ErrConfig, err)
		}
	}
	if err := wire.CheckTags(s.Tags); err != nil {
		return fmt.Errorf("tags: %w: %w", ErrConfig, err)
	}
	return checkUnits(s.Units)
}

// Config is what an agent is made from.
type Config struct {
	Settings
	StateDir  string
	Version   string
	BuildTime time.Time // no time before it is believed; zero: no floor
	Log       *slog.Logger
	Wall      func() time.Time               // nil: time.Now
	Uptime    func() time.Duration           // nil: the machine's
	BootID    [16]byte                       // zero: the machine's
	Clock     func() seal.ClockQuality       // nil: the kernel's word
	Profile   func() wire.Profile            // nil: detection on this machine
	Packet    func() (net.PacketConn, error) // nil: the machine's UDP
	Stream    wirelink.StreamDial            // nil: the machine's TCP
	Facts     time.Duration                  // how often to look whether a fact of the registration changed; 0: factsEvery
	Install   install.Options                // but for the units, which the settings name, and the log
}

func (c Config) withDefaults() Config {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Uptime == nil {
		c.Uptime = uptime
	}
	if c.BootID == ([16]byte{}) {
		c.BootID = bootID()
	}
	if c.Clock == nil {
		c.Clock = clockQuality
	}
	if c.Profile == nil {
		c.Profile = func() wire.Profile { return hardware.Detect(hardware.Host()) }
	}
	if c.Packet == nil {
		c.Packet = func() (net.PacketConn, error) { return net.ListenPacket("udp", "") }
	}
	if c.Stream == nil {
		c.Stream = wirelink.DialTCP
	}
	if c.Facts == 0 {
		c.Facts = factsEvery
	}
	return c
}

const settingsFile = "agent.yaml"

// LoadSettings reads agent.yaml of a state directory. The error names the file, and the key where there is one.
func LoadSettings(dir string) (Settings, error) {
	path := filepath.Join(dir, settingsFile)
	b, err := durable.ReadFile(path, 64<<10)
	if errors.Is(err, os.ErrNotExist) {
		return Settings{}, fmt.Errorf("%s: %w: not there: run holdfast-agent enroll first", path, ErrConfig)
	}
	if err != nil {
		return Settings{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var s Settings
	if err := config.DecodeYAML(b, &s); err != nil {
		return Settings{}, fmt.Errorf("%s: %w: %w", path, ErrConfig, err)
	}
	if err := s.Check(); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Enroll gets this device its identity through one of the gateways. The settings are written first, so that a device with an
// identity always has them.
func Enroll(ctx context.Context, c Config, token *seal.Token) (ident.ID, error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return ident.ID{}, err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return ident.ID{}, fmt.Errorf("state directory: %w", err)
	}
	lock, err := durable.LockDir(c.StateDir)
	if err != nil {
		return ident.ID{}, err
	}
	defer lock.Close() //nolint:errcheck // the process ends soon, and with it the lock
	if err := c.save(c.StateDir); err != nil {
		return ident.ID{}, err
	}
	pc, err := c.Packet()
	if err != nil {
		return ident.ID{}, err
	}
	tr := wirelink.NewTransport(pc, nil)
	defer tr.Close() //nolint:errcheck // what was to be sent is sent
	cred, out, err := credential.EnrollAny(ctx, wirelink.NewDialer(tr, c.Stream), c.Gateways, credential.Enrollment{
		Dir: c.StateDir, Token: token, Kind: seal.KindDevice, Server: ident.RoleGateway, Wall: floored(c.Wall, c.BuildTime), Log: c.Log,
	})
	if err != nil {
		return ident.ID{}, err
	}
	return cred.ID, c.enrolled(cred, out)
}

// enrolled keeps what came with the identity; out is nil when the device had it already.
func (c *Config) enrolled(cred *credential.Credential, out *wire.Enrolled) error {
	if out == nil {
		return nil
	}
	st, err := devstate.Open(c.StateDir, signer(cred))
	if err != nil {
		return err
	}
	if err := st.Told(time.Duration(out.IntervalMS)*time.Millisecond, 0); err != nil {
		return err
	}
	if err := st.Belongs(out.Site); err != nil {
		return err
	}
	if err := st.RaiseFloor(cred.Certificate().Leaf.NotBefore); err != nil {
		return err
	}
	if len(out.List) > 0 {
		if err := c.learn(cred, st, out.List); err != nil {
			return err
		}
	}
	s := c.Settings
	for _, g := range out.Gateways {
		if config.CheckAddr(g) == nil && !slices.Contains(s.Gateways, g) {
			s.Gateways = append(s.Gateways, g)
		}
	}
	return s.save(c.StateDir)
}

// learn keeps the list of gateways that came with the identity.
func (c *Config) learn(cred *credential.Credential, st *devstate.State, sealed []byte) error {
	lists, err := devstate.OpenLists(c.StateDir, cred.ID.Fleet, cred.Authority, c.Log)
	if err != nil {
		return err
	}
	list, err := lists.Learn(sealed)
	switch {
	case errors.Is(err, seal.ErrSignature), errors.Is(err, wire.ErrMalformed):
		c.Log.Error("the list of gateways that came with the identity is not believed", "err", err)
		return nil
	case err != nil || list == nil:
		return err
	}
	return st.RaiseFloor(list.LogTime())
}

func (s *Settings) save(dir string) error {
	b, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, settingsFile), b, 0o600)
}

func signer(c *credential.Credential) devstate.Signer {
	return devstate.Signer{Device: c.ID.Device, KeyID: c.KeyID, Key: c.Key}
}

// floored is a wall clock that never shows a time before floor.
func floored(wall func() time.Time, floor time.Time) func() time.Time {
	return func() time.Time {
		if now := wall(); now.After(floor) {
			return now
		}
		return floor
	}
}

// Agent is the agent of one device, ready to run.
type Agent struct {
	Config
	lock  *durable.Lock
	cred  *credential.Credential
	state *devstate.State
	link  *link.Link
	slots *reconcile.Reconciler
	tr    *wirelink.Transport
	start uint64
	told  *seal.Register // the newest registration made by this run
}

// New opens an enrolled device's state directory and counts a start.
func New(c Config) (_ *Agent, err error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	a := &Agent{Config: c}
	if a.lock, err = durable.LockDir(c.StateDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.cred, err = credential.Load(c.StateDir); err != nil {
		return nil, err
	}
	if a.state, err = devstate.Open(c.StateDir, signer(a.cred)); err != nil {
		return nil, err
	}
	lists, err := devstate.OpenLists(c.StateDir, a.cred.ID.Fleet, a.cred.Authority, c.Log)
	if err != nil {
		return nil, err
	}
	if a.start, err = a.state.Started(); err != nil {
		return nil, err
	}
	pc, err := c.Packet()
	if err != nil {
		return nil, err
	}
	a.tr = wirelink.NewTransport(pc, nil)
	if a.slots, err = a.reconciler(); err != nil {
		return nil, err
	}
	a.link = link.New(link.Config{
		Transport: a.tr, Streams: c.Stream, Credential: a.cred, State: a.state, Lists: lists, Gateways: c.Gateways, Start: a.start, Wall: a.wall, Uptime: c.Uptime, Log: c.Log,
		Desired: a.slots,
	})
	return a, nil
}

// ID is the device's identity.
func (a *Agent) ID() ident.ID { return a.cred.ID }

// wall is the wall clock, never before the time floor.
func (a *Agent) wall() time.Time {
	now := a.Wall()
	for _, floor := range []time.Time{a.BuildTime, a.state.Floor()} {
		if now.Before(floor) {
			now = floor
		}
	}
	return now
}

// Answered counts the heartbeats of this run that a gateway answered.
func (a *Agent) Answered() uint64 { return a.link.Answered() }

// Run works until ctx ends. It returns an error only for what another try would not heal.
func (a *Agent) Run(ctx context.Context) error {
	a.Log.Info("agent runs", "identity", a.cred.ID.String(), "start", a.start, "version", a.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.register(ctx) })
	g.Go(func() error { return a.link.Run(ctx) })
	g.Go(func() error { return a.slots.Run(ctx) })
	return errors.Join(g.Wait(), a.close())
}

func (a *Agent) close() error {
	var errs []error
	if a.slots != nil {
		errs = append(errs, a.slots.Close())
	}
	if a.tr != nil {
		errs = append(errs, a.tr.Close())
	}
	return errors.Join(append(errs, a.lock.Close())...)
}

// factsEvery is how often an agent looks whether a fact of its registration changed.
const factsEvery = 10 * time.Minute

// register states what the device is: once at each start, and again whenever a fact has changed.
func (a *Agent) register(ctx context.Context) error {
	for {
		if err := a.registerOnce(); err != nil {
			a.Log.Error("registration not stated, trying again later", "err", err)
		}
		if !backoff.Sleep(ctx, a.Facts) {
			return nil
		}
	}
}

func (a *Agent) registerOnce() error {
	r := &seal.Register{Profile: a.Profile(), AgentVersion: a.Version, Tags: a.Tags, Slots: a.slots.Installed()}
	if a.told != nil && reflect.DeepEqual(r, a.told) {
		return nil
	}
	body, err := wire.Marshal(r)
	if err != nil {
		return err
	}
	s, err := a.say(seal.StatementRegister, body)
	if err != nil {
		return err
	}
	a.Log.Info("registration stated", "epoch", s.Epoch, "seq", s.Seq)
	a.told = r
	return nil
}

// say makes a statement with a body, and has it sent.
func (a *Agent) say(t seal.StatementType, body []byte) (*seal.SealedStatement, error) {
	q := a.Clock()
	if a.wall().After(a.Wall()) {
		q = seal.ClockFloored
	}
	s, err := a.state.State(seal.Statement{
		Type: t, TimeMS: a.wall().UnixMilli(), UptimeMS: uint64(a.Uptime().Milliseconds()), BootID: a.BootID, Clock: q, Body: body, //nolint:gosec // G115: time since boot is positive
	})
	if err == nil {
		a.link.Wake()
	}
	return s, err
}
