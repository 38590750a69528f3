// Package sitegw assembles a gateway: the agents' listener, the roster of who is present, the uplink to the core, the mirror of
// what the core said about the site, the content that its devices run, the witness of its audit trail, and what operators watch the gateway by. docs/gateway-files.md describes its data directory.
package sitegw

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/internal/ops"
	"github.com/holdfast-edge/holdfast/internal/pace"
	"github.com/holdfast-edge/holdfast/sitegw/agentlink"
	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/sitegw/content"
	"github.com/holdfast-edge/holdfast/sitegw/corelink"
	"github.com/holdfast-edge/holdfast/sitegw/cores"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/mesh"
	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/relay"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/sitegw/sibling"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/sitegw/witness"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// ErrConfig is the sentinel of a configuration that cannot be used.
var ErrConfig = errors.New("bad configuration")

// Settings are what a gateway keeps in gateway.yaml in its data directory. Enroll writes them; an operator may change the
// addresses.
type Settings struct {
	Name   string `yaml:"name"`
	Listen string `yaml:"listen"` // host:port (UDP and TCP) at which agents reach this gateway
	// Cores are addresses (host:port, UDP and TCP) of core nodes, at most wire.MaxCores. They are tried beside those that the core told.
	Cores []string `yaml:"cores"`
	// Ops is the host:port (TCP) that answers /metrics, /healthz and /readyz to anybody; "": none. It belongs on a loopback
	// address or on a management network.
	Ops string `yaml:"ops,omitempty"`
	// TargetBeats is how many heartbeats a second this gateway wants at the most; 0: DefaultTargetBeats. Beyond it devices are told
	// longer intervals.
	TargetBeats uint32 `yaml:"target_beats,omitempty"`
	// SpoolQuota is how many bytes of the disk the statements may take that the core does not have yet, at least MinSpoolQuota;
	// 0: spool.DefaultQuota. Beyond it devices are told to hold what they state.
	SpoolQuota config.Bytes `yaml:"spool_quota,omitempty"`
	// CacheQuota is how many bytes of the disk content may take, at least MinCacheQuota; 0: cache.DefaultQuota. Beyond it what was not
	// used for the longest makes room.
	CacheQuota config.Bytes `yaml:"cache_quota,omitempty"`
}

// MinSpoolQuota is the least that a spool works in: segments of a few dozen statements.
const MinSpoolQuota config.Bytes = 1 << 20

// MinCacheQuota is the least that a cache works in: what is fetched ahead must not make room for what comes next.
const MinCacheQuota config.Bytes = 64 << 20

// Check holds the settings against their rules. The error is ErrConfig and names the key.
func (s *Settings) Check() error {
	if err := ident.CheckName("gateway", s.Name); err != nil {
		return fmt.Errorf("name: %w: %w", ErrConfig, err)
	}
	if err := config.CheckAddr(s.Listen); err != nil {
		return fmt.Errorf("listen: %w: %w", ErrConfig, err)
	}
	if err := cores.Check(s.Cores); err != nil {
		return fmt.Errorf("cores: %w: %w", ErrConfig, err)
	}
	if s.Ops != "" {
		if err := config.CheckAddr(s.Ops); err != nil {
			return fmt.Errorf("ops: %w: %w", ErrConfig, err)
		}
	}
	if s.TargetBeats > pace.MaxTarget {
		return fmt.Errorf("target_beats: %w: %d is not within 1 and %d", ErrConfig, s.TargetBeats, pace.MaxTarget)
	}
	if s.SpoolQuota != 0 && s.SpoolQuota < MinSpoolQuota {
		return fmt.Errorf("spool_quota: %w: %v is less than %v", ErrConfig, s.SpoolQuota, MinSpoolQuota)
	}
	if s.CacheQuota != 0 && s.CacheQuota < MinCacheQuota {
		return fmt.Errorf("cache_quota: %w: %v is less than %v", ErrConfig, s.CacheQuota, MinCacheQuota)
	}
	return nil
}

// Config is what a gateway is made from.
type Config struct {
	Settings
	DataDir string
	Version string
	Log     *slog.Logger
	Wall    func() time.Time                            // nil: time.Now
	Packet  func(listen string) (net.PacketConn, error) // nil: the machine's UDP; listen is "" for the socket that only dials
	// Busy tells the share of its processors, 0 to 1, that the process was busy since it was asked last; 0: not known. It is asked
	// once a second. nil: measured, a minute at a time.
	Busy func() float64
	// StreamListen and StreamDial are for those who do not get through by UDP. nil: the machine's TCP.
	StreamListen func(listen string) (net.Listener, error)
	StreamDial   link.StreamDial
}

func (c Config) withDefaults() Config {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Packet == nil {
		c.Packet = func(listen string) (net.PacketConn, error) { return net.ListenPacket("udp", listen) }
	}
	if c.Busy == nil {
		c.Busy = newBusyMeter().busy
	}
	if c.StreamListen == nil {
		c.StreamListen = func(listen string) (net.Listener, error) { return net.Listen("tcp", listen) }
	}
	if c.StreamDial == nil {
		c.StreamDial = link.DialTCP
	}
	return c
}

const (
	settingsFile  = "gateway.yaml"
	transportFile = "agents.keys"
	coresFile     = "cores"
	spoolDir      = "spool"
	mirrorFile    = "mirror"
	presenceFile  = "presence"
	siteKeyFile   = "sitekey"
	contentDir    = "content"
)

// LoadSettings reads gateway.yaml of a data directory. The error names the file, and the key where there is one.
func LoadSettings(dir string) (Settings, error) {
	path := filepath.Join(dir, settingsFile)
	b, err := durable.ReadFile(path, 64<<10)
	if errors.Is(err, os.ErrNotExist) {
		return Settings{}, fmt.Errorf("%s: %w: not there: run holdfast-gateway enroll first", path, ErrConfig)
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

// Enroll gets this gateway its identity from one of the core nodes. The settings are written first, so that a gateway with an
// identity always has them.
func Enroll(ctx context.Context, c Config, token *seal.Token) (id ident.ID, err error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return id, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return id, fmt.Errorf("data directory: %w", err)
	}
	lock, err := durable.LockDir(c.DataDir)
	if err != nil {
		return id, err
	}
	defer lock.Close() //nolint:errcheck // the process ends soon, and with it the lock
	b, err := yaml.Marshal(c.Settings)
	if err != nil {
		return id, fmt.Errorf("encode settings: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(c.DataDir, settingsFile), b, 0o600); err != nil {
		return id, err
	}
	pc, err := c.Packet("")
	if err != nil {
		return id, err
	}
	tr := link.NewTransport(pc, nil)
	defer tr.Close() //nolint:errcheck // what was to be sent is sent
	cred, out, err := credential.EnrollAny(ctx, link.NewDialer(tr, c.StreamDial), c.Cores, credential.Enrollment{
		Dir: c.DataDir, Token: token, Kind: seal.KindGateway, Server: ident.RoleCore, Name: c.Name, Listen: c.Listen, Wall: c.Wall, Log: c.Log,
	})
	if err != nil {
		return id, err
	}
	// A gateway that was enrolled before has its list, and no answer.
	if list := cores.Open(filepath.Join(c.DataDir, coresFile), c.Cores, c.Log); out != nil {
		told := out.Cores
		if len(told) == 0 {
			told = c.Cores
		}
		list.Told(told)
	}
	return cred.ID, nil
}

// Gateway is a gateway, ready to run.
type Gateway struct {
	Config
	lock    *durable.Lock
	cred    *credential.Credential
	roster  *roster.Roster
	spool   *spool.Spool
	custody *custody.Keeper
	pace    paceStore
	uplink  *corelink.Link
	agents  *agentlink.Server
	peers   *sibling.Peers
	relay   *relay.Server
	cache   *cache.Cache
	content *content.Site
	witness *witness.Witness
	mirror  *mirror.Mirror
	keys    *mesh.Keys
	mesh    *mesh.Mesh
	busy    *lastBusy
	up      *link.Transport
	down    *link.Transport
	lns     []*link.Listener // of the agents: QUIC, TCP
	ops     net.Listener     // nil: nobody watches
	listed  chan struct{}    // capacity 1: there is another list of the site's gateways
}

// New opens a gateway's data directory and its ports.
func New(c Config) (_ *Gateway, err error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	g := &Gateway{Config: c, roster: roster.New(c.Wall), listed: make(chan struct{}, 1)}
	if g.lock, err = durable.LockDir(c.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if g.cred, err = credential.Load(c.DataDir); err != nil {
		return nil, err
	}
	keys, err := link.LoadKeys(filepath.Join(c.DataDir, transportFile))
	if err != nil {
		return nil, err
	}
	if err := g.openPorts(keys); err != nil {
		return nil, err
	}
	if c.Ops != "" {
		if g.ops, err = net.Listen("tcp", c.Ops); err != nil {
			return nil, fmt.Errorf("ops address: %w", err)
		}
	}
	if g.spool, err = spool.Open(spool.Config{Dir: filepath.Join(c.DataDir, spoolDir), Quota: int64(c.SpoolQuota), Wall: c.Wall, Log: c.Log}); err != nil {
		return nil, err
	}
	if g.custody, err = custody.Open(custody.Config{Spool: g.spool, Wall: c.Wall, Log: c.Log}); err != nil {
		return nil, err
	}
	g.assemble()
	return g, nil
}

// openPorts opens the sockets of both links.
func (g *Gateway) openPorts(keys *link.Keys) error {
	up, err := g.Packet("")
	if err != nil {
		return err
	}
	g.up = link.NewTransport(up, nil)
	down, err := g.Packet(g.Listen)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	g.down = link.NewTransport(down, keys)
	tc := g.cred.Endpoint(g.Wall).Server(agentlink.Protocols()...)
	ln, err := g.down.Listen(tc, link.Options{})
	if err != nil {
		return err
	}
	g.lns = append(g.lns, ln)
	streams, err := g.StreamListen(g.Listen)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	g.lns = append(g.lns, link.ListenConns(streams, tc, link.Options{}))
	return nil
}

// assemble joins the parts. The uplink tells the sessions what changed, and the sessions ask the uplink.
func (g *Gateway) assemble() {
	g.mirror = mirror.Open(mirror.Config{
		Path: filepath.Join(g.DataDir, mirrorFile), Fleet: g.cred.ID.Fleet, Site: g.cred.ID.Site, Authority: g.cred.Authority, Log: g.Log,
	})
	g.pace = paceStore{durable.OpenSlots(filepath.Join(g.DataDir, paceFile)), g.Log}
	g.roster.Kept(filepath.Join(g.DataDir, presenceFile), g.Log)
	g.busy = &lastBusy{measure: g.Busy}
	g.roster.Paced(float64(g.targetBeats()), g.pace.load(), g.busy.ask)
	g.witness = witness.New(witness.Config{
		Dir: g.DataDir, Fleet: g.cred.ID.Fleet, Authority: g.cred.Authority, Wall: g.Wall, Log: g.Log,
	})
	g.keys = mesh.OpenKeys(filepath.Join(g.DataDir, siteKeyFile), g.Log)
	list := cores.Open(filepath.Join(g.DataDir, coresFile), g.Cores, g.Log)
	forks := forkStore{durable.OpenSlots(filepath.Join(g.DataDir, forkedFile)), g.Log}
	g.uplink = corelink.New(corelink.Config{
		Run: forks.load(), Forked: forks.refused,
		Siblings: g.relays, Relay: g.dialRelay,
		Cores: list, Witness: g.witness, Transport: g.up, Streams: g.StreamDial, Credential: g.cred, Roster: g.roster, Custody: g.custody, Mirror: g.mirror, Listen: g.Listen,
		Version: g.Version, Wall: g.Wall, Log: g.Log,
		Changed:  g.changed,
		Receipts: func(all []wire.DeviceReceipt) { g.agents.Receipts(all) },
		Refused:  func(all []custody.Refused) { g.agents.Refused(all) },
		SiteKey:  g.keys.Told,
	})
	g.peers = sibling.New(sibling.Config{
		Self: g.cred.ID, Endpoint: g.cred.Endpoint(g.Wall), Dialer: link.NewDialer(g.up, g.StreamDial), List: g.mirror.Gateways, Log: g.Log,
		Handlers: g.served(),
	})
	g.mesh = mesh.New(mesh.Config{
		Self: g.cred.ID, Keys: g.keys, Mirror: g.mirror, Names: g.peers.Names, Dial: g.dialSibling, Uplink: g.wayUp, Load: g.howBusy, Changed: g.changed, Log: g.Log,
	})
	g.relay = relay.New(relay.Config{Direct: g.uplink.Direct, Cores: list.All, Dial: g.StreamDial, Log: g.Log})
	g.cache = cache.Open(cache.Config{Dir: filepath.Join(g.DataDir, contentDir), Quota: int64(g.CacheQuota), Log: g.Log})
	g.content = content.New(content.Config{
		Self: g.cred.ID.Name, Fleet: g.cred.ID.Fleet, Authority: g.cred.Authority, Cache: g.cache, Told: g.mirror, Siblings: g.living,
		Uplink: func() bool { return g.wayUp() == mesh.Direct }, Dial: g.dialContent, Core: g.coreContent, Wall: g.Wall, Log: g.Log,
	})
	g.agents = agentlink.New(agentlink.Config{
		Siblings: g.peers, Content: downloads{g.content},
		Self: g.cred.ID, Authority: g.cred.Authority, Uplink: g.uplink, Custody: g.custody, Roster: g.roster, Mirror: g.mirror, Wall: g.Wall, Log: g.Log,
	})
}

// Content is how much content this run of the gateway had from where.
func (g *Gateway) Content() content.Status { return g.content.Status() }

// ID is the gateway's identity.
func (g *Gateway) ID() ident.ID { return g.cred.ID }

// Run serves agents until ctx ends, or until the gateway has ended by the authority's word, which is ErrRetired; then it says
// goodbye to them and closes everything.
func (g *Gateway) Run(ctx context.Context) error {
	g.Log.Info("gateway runs", "identity", g.cred.ID.String(), "listen", g.Listen)
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return g.spool.Run(ctx) })
	eg.Go(func() error { return g.agents.Serve(ctx, g.lns...) })
	eg.Go(func() error { return g.uplink.Run(ctx) })
	eg.Go(func() error { g.roster.Watch(ctx); return nil })
	eg.Go(func() error { g.roster.Keep(ctx, g.custody); return nil })
	eg.Go(func() error { g.keepPace(ctx, g.pace); return nil })
	eg.Go(func() error { g.witness.Run(ctx); return nil })
	eg.Go(func() error { g.mirror.Run(ctx); return nil })
	eg.Go(func() error { g.mesh.Run(ctx); return nil })
	eg.Go(func() error { g.content.Run(ctx); return nil })
	eg.Go(func() error { return g.watchList(ctx) })
	if g.ops != nil {
		eg.Go(func() error {
			if err := ops.Serve(ctx, g.ops, g.watched()); err != nil { // a plant does not stop because nobody can watch it
				g.Log.Error("the operations port no longer answers", "err", err)
			}
			return nil
		})
	}
	err := eg.Wait()
	g.roster.Checkpoint() // every heartbeat has been counted
	return errors.Join(err, g.close())
}

// Ready tells whether agents can come in: nil, or why not. A gateway without its uplink is ready, because the plant carries on.
func (g *Gateway) Ready(ctx context.Context) error { return g.agents.Ping(ctx) }

// Healthy tells whether the gateway works: its accept loop answers, and its state can be had. A lock that never comes free
// keeps it from returning, which a watchdog takes for what it is.
func (g *Gateway) Healthy(ctx context.Context) error {
	if err := g.agents.Ping(ctx); err != nil {
		return err
	}
	g.agents.Sessions()
	g.roster.Online()
	g.uplink.Status()
	g.mesh.Status()
	return ctx.Err()
}

func (g *Gateway) close() error {
	var errs []error
	if g.ops != nil {
		if err := g.ops.Close(); !errors.Is(err, net.ErrClosed) { // its server closes it
			errs = append(errs, err)
		}
	}
	for _, ln := range g.lns {
		errs = append(errs, ln.Close())
	}
	for _, t := range []*link.Transport{g.down, g.up} {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	if g.spool != nil {
		errs = append(errs, g.spool.Close()) // where it ran it has closed itself
	}
	return errors.Join(append(errs, g.lock.Close())...)
}
