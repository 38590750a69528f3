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
)

func roles() []floor.Role {
	return []floor.Role{
		{Name: roleCore, Open: openCore},
		{Name: roleGateway, Open: openGateway},
		{Name: roleFleet, Open: openFleet},
		{Name: roleHostile, Open: openHostile},
	}
}

// The one fleet of a run.
const (
	fleetName = "bench"
	siteName  = "plant-1"
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

// coreConfig is a core node of one.
type coreConfig struct {
	Dir                  string
	API, Uplink, Cluster string // host:port
}

// openCore makes the fleet and runs its core.
func openCore(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[coreConfig](config)
	if err != nil {
		return nil, err
	}
	c := core.Config{
		Settings: core.Settings{Fleet: fleetName, Name: "core-1", API: cfg.API, Uplink: cfg.Uplink, Cluster: cfg.Cluster},
		DataDir:  cfg.Dir, Version: "bench", Log: logger(),
	}
	if err := core.Init(ctx, c); err != nil {
		return nil, err
	}
	node, err := core.New(ctx, c)
	if err != nil {
		return nil, err
	}
	return host(ctx, node.Run), nil
}

// gatewayConfig is a gateway. Token is used when its directory has no identity yet.
type gatewayConfig struct {
	Dir, Listen, Core, Token string
}

// openGateway runs a gateway, enrolled first if it has to be.
func openGateway(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[gatewayConfig](config)
	if err != nil {
		return nil, err
	}
	c := sitegw.Config{
		Settings: sitegw.Settings{Name: "gw-a", Listen: cfg.Listen, Cores: []string{cfg.Core}},
		DataDir:  cfg.Dir, Version: "bench", Log: logger(),
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "key.pem")); errors.Is(err, os.ErrNotExist) {
		token, err := seal.ParseToken(cfg.Token)
		if err != nil {
			return nil, err
		}
		if _, err := sitegw.Enroll(ctx, c, token); err != nil {
			return nil, err
		}
	}
	gw, err := sitegw.New(c)
	if err != nil {
		return nil, err
	}
	return host(ctx, gw.Run), nil
}
