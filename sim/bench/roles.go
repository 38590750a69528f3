package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/sitegw"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The roles of this program's child processes.
const (
	roleCore    = "bench-core"
	roleGateway = "bench-gateway"
	roleFleet   = "bench-fleet"
	roleHostile = "bench-hostile"
	roleUplink  = "bench-uplink"
	roleFill    = "bench-fill"
	roleRaw     = "bench-raw"
)

func roles() []floor.Role {
	return []floor.Role{
		{Name: roleCore, Open: openCore},
		{Name: roleGateway, Open: openGateway},
		{Name: roleFleet, Open: openFleet},
		{Name: roleHostile, Open: openHostile},
		{Name: roleUplink, Open: openUplink},
		{Name: roleFill, Open: openFill},
		{Name: roleRaw, Open: openSender},
	}
}

// The one fleet of a run.
const (
	fleetName = "bench"
	siteName  = "plant-1"

	gatewayName = "gw-a"
	driverName  = "gw-b" // whose identity the driver has that speaks to the core directly
)

// logger keeps a child's warnings for the error that its parent may have to report.
func logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

func decode[C any](config json.RawMessage) (C, error) {
	var c C
	if err := json.Unmarshal(config, &c); err != nil {
		return c, fmt.Errorf("decode configuration: %w", err)
	}
	return c, nil
}

// coreConfig is a core node. Its directory is made when it has none: it founds the fleet, or joins it with Token.
type coreConfig struct {
	Name, Dir            string
	API, Uplink, Cluster string   // host:port
	Join                 []string // uplinks of nodes that run; none: it founds the fleet
	Token                string   // with Join
}

func (c *coreConfig) config() core.Config {
	return core.Config{
		Settings: core.Settings{Fleet: fleetName, Name: c.Name, API: c.API, Uplink: c.Uplink, Cluster: c.Cluster},
		DataDir:  c.Dir, Version: "bench", Log: logger(),
	}
}

// openCore runs a core node.
func openCore(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[coreConfig](config)
	if err != nil {
		return nil, err
	}
	c := cfg.config()
	if _, err := os.Stat(filepath.Join(cfg.Dir, "core.yaml")); errors.Is(err, os.ErrNotExist) {
		if err := cfg.make(ctx, c); err != nil {
			return nil, err
		}
	}
	node, err := core.New(ctx, c)
	if err != nil {
		return nil, err
	}
	return host(ctx, node.Run), nil
}

// make makes the node's directory.
func (c *coreConfig) make(ctx context.Context, config core.Config) error {
	if len(c.Join) == 0 {
		return core.Init(ctx, config)
	}
	token, err := seal.ParseToken(c.Token)
	if err != nil {
		return err
	}
	return core.Join(ctx, config, c.Join, token)
}

// gatewayConfig is a gateway. Token is used when its directory has no identity yet.
type gatewayConfig struct {
	Dir, Name, Listen, Ops, Token string
	Cores                         []string
	Count                         bool // what goes through its sockets
}

// enroll gets the gateway its identity, if it has none.
func (c *gatewayConfig) enroll(ctx context.Context, config sitegw.Config) error {
	if _, err := os.Stat(filepath.Join(c.Dir, "key.pem")); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	token, err := seal.ParseToken(c.Token)
	if err != nil {
		return err
	}
	_, err = sitegw.Enroll(ctx, config, token)
	return err
}

func (c *gatewayConfig) config() sitegw.Config {
	return sitegw.Config{
		Settings: sitegw.Settings{Name: c.Name, Listen: c.Listen, Ops: c.Ops, Cores: c.Cores, SpoolQuota: spoolQuota},
		DataDir:  c.Dir, Version: "bench", Log: logger(),
	}
}

// openGateway runs a gateway, enrolled first if it has to be.
func openGateway(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[gatewayConfig](config)
	if err != nil {
		return nil, err
	}
	c := cfg.config()
	if err := cfg.enroll(ctx, c); err != nil {
		return nil, err
	}
	m := new(meter)
	if cfg.Count {
		c.Packet = m.packet
	}
	gw, err := sitegw.New(c)
	if err != nil {
		return nil, err
	}
	h := host(ctx, gw.Run)
	h.traffic = m
	return h, nil
}
