package core

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/core/api"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/leader"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/core/sitelink"
	"github.com/holdfast-edge/holdfast/core/tally"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Tuning is passed on to raftstore.
type Tuning = raftstore.Tuning

// alpnCluster is what core nodes speak among themselves.
const alpnCluster = "holdfast-cluster/1"

// drainTime bounds an orderly stop.
const drainTime = 8 * time.Second

// A node is an open data directory: the replicated registry runs, nobody is served yet.
type node struct {
	Config
	lock    *durable.Lock
	own     *nodeCert
	trust   *ident.Trust
	hub     *events.Hub
	tracker *liveness.Tracker
	peers   *peers
	store   *store
	content *content.Keeper
}

// open takes the data directory and starts the replicated registry. before runs once the store's configuration is complete,
// with a state machine that is not used for anything else.
func open(c Config, before func(raftstore.Config, raftstore.StateMachine) error) (_ *node, err error) {
	n := &node{Config: c, own: &nodeCert{dir: c.DataDir, name: "node"}, hub: new(events.Hub), tracker: liveness.New(c.ReportPeriod)}
	if n.lock, err = durable.LockDir(c.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.lock.Close())
		}
	}()
	if err := n.own.load(); err != nil {
		return nil, err
	}
	if n.trust, err = loadTrust(c.DataDir, c.Fleet); err != nil {
		return nil, err
	}
	h, err := history.Open(filepath.Join(c.DataDir, historyDir), history.Options{Logger: c.Log})
	if err != nil {
		return nil, err
	}
	n.peers = &peers{name: c.Name, history: h, tracker: n.tracker, wall: c.Wall, log: c.Log}
	if err := n.openContent(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	rc, err := n.raftConfig()
	if err == nil && before != nil {
		if err = before(rc, newReplica(h, new(events.Hub))); err != nil {
			err = errors.Join(err, rc.Listener.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.content.Close(), h.Close())
	}
	rep := newReplica(h, n.hub)
	rs, err := raftstore.Open(rc, rep)
	if err != nil {
		return nil, errors.Join(err, n.content.Close(), h.Close())
	}
	n.store = &store{replica: rep, raft: rs}
	n.peers.raft.Store(rs)
	return n, nil
}

func loadTrust(dir, fleet string) (*ident.Trust, error) {
	b, err := durable.ReadFile(filepath.Join(dir, caFile), maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the fleet's root: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate in it", filepath.Join(dir, caFile))
	}
	return ident.NewTrust(fleet, block.Bytes)
}

// endpoint is this node's side of the fleet's links.
func (n *node) endpoint() ident.Endpoint {
	return ident.Endpoint{Trust: func() *ident.Trust { return n.trust }, Certificate: n.own.get, Wall: n.Wall}
}

// joining tells whether this node waits for the cluster to take it in for the first time.
func (n *node) joining() bool {
	_, err := os.Stat(filepath.Join(n.DataDir, joiningFile))
	return err == nil
}

// joined notes that the cluster has taken this node in.
func (n *node) joined() error {
	if !n.joining() {
		return nil
	}
	if err := os.Remove(filepath.Join(n.DataDir, joiningFile)); err != nil {
		return fmt.Errorf("note that the node has joined: %w", err)
	}
	return nil
}

// peerID is the node that a verified certificate of the cluster port is for.
func (n *node) peerID(cs tls.ConnectionState) (string, error) {
	p, err := n.trust.Verify(cs.PeerCertificates, n.Wall(), ident.RoleCore)
	if err != nil {
		return "", err
	}
	return p.ID.Name, nil
}

func (n *node) raftConfig() (raftstore.Config, error) {
	ln, err := n.Net.Listen(n.Cluster)
	if err != nil {
		return raftstore.Config{}, fmt.Errorf("cluster address: %w", err)
	}
	ep := n.endpoint()
	return raftstore.Config{
		Dir: filepath.Join(n.DataDir, raftDir), NodeID: n.Name, Listener: ln, Advertise: n.Cluster, Dial: n.Net.Dial,
		ServerTLS: ep.Server(ident.Protocol{ALPN: alpnCluster, Roles: []ident.Role{ident.RoleCore}}),
		ClientTLS: func(serverID string) *tls.Config {
			return ep.Client(alpnCluster, ident.RoleCore, func(p ident.Peer) error {
				if p.ID.Name != serverID {
					return fmt.Errorf("dialled core node %s, reached %v: %w", serverID, p.ID, ident.ErrUntrusted)
				}
				return nil
			})
		},
		PeerID: n.peerID, Handler: n.peers.handle, Join: n.joining(), Wall: n.Wall, Logger: n.Log, Tuning: n.Tuning,
	}, nil
}

func (n *node) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return errors.Join(n.store.raft.Shutdown(ctx), n.content.Close(), n.store.history.Close(), n.lock.Close())
}

// Core is one node of the core, ready to run.
type Core struct {
	*node
	keys    *enroll.Keyring
	apiCert *nodeCert
	tally   *tally.Book
	enroll  *enroll.Service
	sites   *sitelink.Server
	api     http.Handler
	uplink  *link.Transport
	lns     []*link.Listener // of the uplink: QUIC, TCP
	apiLn   net.Listener
}

// New opens a node's data directory and its ports. The registry is caught up with what the node has when New returns.
func New(ctx context.Context, c Config) (_ *Core, err error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	n, err := open(c, nil) //nolint:contextcheck // opening the history is not given up half way
	if err != nil {
		return nil, err
	}
	core := &Core{node: n, apiCert: &nodeCert{dir: c.DataDir, name: "api"}, tally: tally.New(c.Wall, c.Log)}
	defer func() { //nolint:contextcheck // the context may have ended; closing has its own bound
		if err != nil {
			err = errors.Join(err, core.closePorts(), n.close())
		}
	}()
	if err := core.openKeys(ctx); err != nil {
		return nil, err
	}
	core.enroll = enroll.NewService(n.store, core.keys, c.Wall, c.Log)
	core.enroll.Note = core.tally.Note
	core.sites = sitelink.New(sitelink.Config{
		Registry: n.store, Enroll: core.enroll, Authority: core.keys.Authority(), Tracker: core.tracker, Events: n.hub, Content: n.content, Wall: c.Wall, Log: c.Log,
		SiteKey: core.keys.SiteKey, TargetBeats: cmp.Or(c.TargetBeats, DefaultTargetBeats),
	})
	core.api = api.New(api.Config{
		Registry: n.store, History: n.store.history, Tracker: core.tracker, Events: n.hub, Node: c.Name, Pin: n.trust.Pin(), Cluster: cluster{core}, Content: n.content,
		Tally: core.tally, Derive: core.keys.Derive, Metrics: []prometheus.Collector{metrics{core}},
		Authority:      core.keys.AuthorityCert(),
		Sign:           func(h *seal.AuditHead) ([]byte, error) { return seal.SealAuditHead(h, core.keys.Authority()) },
		SignPublishers: core.keys.SealPublishers,
		Ready:          core.ready, Version: c.Version, Wall: c.Wall, Log: c.Log,
	})
	return core, core.openPorts()
}

// waitingNote is how often a node says what it waits for at its start.
const waitingNote = 10 * time.Second

// fleetKnown waits until the registry has this node's fleet: until the log is applied so far, which takes a majority of the
// core, or until the core has taken this node in.
//
// A node that replays the log passes states of long ago. One in which another node had its name, and a wrap of its own, is not
// meant: the wrap must be for this node's key.
func (c *Core) fleetKnown(ctx context.Context, holder *enroll.HolderKey) error {
	t := time.NewTicker(waitingNote)
	defer t.Stop()
	looked := time.NewTicker(50 * time.Millisecond)
	defer looked.Stop()
	for {
		if f := c.store.View().Fleet(); f != nil {
			if w, ok := f.Wrap(c.Name); ok && bytes.Equal(w.Public, holder.Public()) {
				return c.joined()
			}
		} else if l, _ := c.store.raft.Leadership(); l.Leader && c.store.View().Fleet() == nil {
			return fmt.Errorf("%s: the registry is empty: the init of this directory did not end: empty it and run holdfast-core init again", c.DataDir)
		}
		select {
		case <-looked.C:
		case <-t.C:
			c.Log.Warn("waiting for the other core nodes", "node", c.Name, "cluster", c.Cluster, "joining", c.joining())
		case <-c.store.raft.Done():
			return c.store.raft.Err()
		case <-ctx.Done():
			return fmt.Errorf("wait for the registry: %w", ctx.Err())
		}
	}
}

// openKeys opens the fleet's keys with this node's own, and renews this node's certificates if due.
func (c *Core) openKeys(ctx context.Context) error {
	b, err := durable.ReadFile(filepath.Join(c.DataDir, holderFile), maxKeyFile)
	if err != nil {
		return fmt.Errorf("read the node's own key: %w", err)
	}
	holder, err := enroll.ParseHolderKey(string(b))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(c.DataDir, holderFile), err)
	}
	if err := c.fleetKnown(ctx, holder); err != nil {
		return err
	}
	if c.keys, err = enroll.OpenKeyring(c.store.View().Fleet(), c.Name, holder); err != nil {
		return err
	}
	return c.renewOwn()
}

// renewOwn replaces this node's certificates when they are due. Any node can: it holds the issuing keys.
func (c *Core) renewOwn() error {
	now := c.Wall()
	if c.own.due(now, nil, nil) {
		if err := c.own.issue(c.keys, ident.Leaf{ID: ident.Core(c.Fleet, c.Name), Now: now}); err != nil {
			return err
		}
	}
	dns, ips := apiNames(c.Settings)
	if c.apiCert.load() == nil && !c.apiCert.due(now, dns, ips) {
		return nil
	}
	return c.apiCert.issue(c.keys, ident.Leaf{ID: ident.API(c.Fleet, c.Name), Now: now, DNS: dns, IPs: ips})
}

func (c *Core) openPorts() error {
	keys, err := link.LoadKeys(filepath.Join(c.DataDir, uplinkFile))
	if err != nil {
		return err
	}
	pc, err := c.Net.ListenPacket(c.Uplink)
	if err != nil {
		return fmt.Errorf("uplink address: %w", err)
	}
	c.uplink = link.NewTransport(pc, keys)
	tc, o := c.endpoint().Server(sitelink.Protocols()...), link.Options{Limits: link.UplinkLimits}
	ln, err := c.uplink.Listen(tc, o)
	if err != nil {
		return err
	}
	c.lns = append(c.lns, ln)
	if c.Uplink == c.API || c.Uplink == c.Cluster { // which was possible while the uplink was UDP alone
		c.Log.Warn("gateways reach this node over QUIC alone: another listener has the TCP port of its uplink", "uplink", c.Uplink)
	} else {
		streams, err := c.Net.Listen(c.Uplink)
		if err != nil {
			return fmt.Errorf("uplink address: %w", err)
		}
		c.lns = append(c.lns, link.ListenConns(streams, tc, o))
	}
	if c.apiLn, err = c.Net.Listen(c.API); err != nil {
		return fmt.Errorf("API address: %w", err)
	}
	return nil
}

func (c *Core) closePorts() error {
	var errs []error
	for _, ln := range c.lns {
		errs = append(errs, ln.Close())
	}
	if c.uplink != nil {
		errs = append(errs, c.uplink.Close())
	}
	if c.apiLn != nil {
		if err := c.apiLn.Close(); !errors.Is(err, net.ErrClosed) { // the HTTP server closes it too
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Handler is the operators' API, for callers that bring their own listener.
func (c *Core) Handler() http.Handler { return c.api }

// View is the registry as this node knows it, without asking the majority.
func (c *Core) View() registry.View { return c.store.View() }

// Pool is a certificate pool with the fleet's root, with which clients verify the API.
func (c *Core) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.trust.Root)
	return p
}

// Run serves gateways and operators until ctx ends or the node cannot go on; then it drains and closes everything.
func (c *Core) Run(ctx context.Context) error {
	c.Log.Info("core node runs", "fleet", c.Fleet, "node", c.Name, "api", c.API, "uplink", c.Uplink, "cluster", c.Cluster)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.sites.Serve(gctx, c.lns...) })
	g.Go(func() error { return c.serveAPI(gctx) })
	g.Go(func() error {
		return leader.Run(gctx, leader.Config{Lead: c.store.raft.Leadership, Registry: c.store, Tracker: c.tracker, Log: c.Log})
	})
	g.Go(func() error { return c.renewLoop(gctx) })
	g.Go(func() error { return c.follow(gctx) })
	g.Go(func() error { return c.announce(gctx) })
	g.Go(func() error { return c.peers.share(gctx) })
	g.Go(func() error { return c.peers.catchUp(gctx) })
	g.Go(func() error { return c.content.Run(gctx) })
	g.Go(func() error { c.tally.Run(gctx, c.store.Propose, c.Name); return nil })
	g.Go(func() error {
		select {
		case <-c.store.raft.Done():
			return c.store.raft.Err()
		case <-gctx.Done():
			return nil
		}
	})
	err := g.Wait()
	return errors.Join(err, c.closePorts(), c.close()) //nolint:contextcheck // the context may have ended; closing has its own bound
}

// renewEvery is how often a node looks whether its certificates are due.
const renewEvery = time.Hour

func (c *Core) renewLoop(ctx context.Context) error {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := c.renewOwn(); err != nil {
				c.Log.Error("renewal of the node's certificates failed, trying again in an hour", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Core) serveAPI(ctx context.Context) error {
	srv := &http.Server{
		Handler: c.api, TLSConfig: ident.APIServer(c.apiCert.get), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog:    slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // what clients do wrong before they are clients
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			srv.Close() //nolint:errcheck // the listener is closed already
		}
	})
	defer stop()
	err := srv.ServeTLS(c.apiLn, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

// Alive tells whether the node does its work: its store goes on, and the API's port answers. It is what the service manager
// watches. A node without a majority is alive: it waits for the others.
func (c *Core) Alive(ctx context.Context) error {
	if err := c.store.raft.Err(); err != nil {
		return err
	}
	conn, err := c.Net.Dial(ctx, c.apiLn.Addr().String())
	if err != nil {
		return fmt.Errorf("the API's port: %w", err)
	}
	return conn.Close()
}

var errNotReady = errors.New("no leader is known")

// ready tells whether this node can serve: it has a fleet and knows a leader.
func (c *Core) ready() error {
	if err := c.store.raft.Err(); err != nil {
		return err
	}
	if c.store.raft.Status().LeaderID == "" {
		return errNotReady
	}
	return nil
}
