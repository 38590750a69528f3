// Package core assembles one node of the core: the replicated registry, the gateways' listener, the operators' API and the
// duties of the leader.
package core

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/internal/pace"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// ErrConfig is the sentinel of a configuration that cannot be used.
var ErrConfig = errors.New("bad configuration")

// Settings are what a node keeps in core.yaml in its data directory. Init writes them; an operator may change the addresses.
type Settings struct {
	Fleet        string        `yaml:"fleet"`
	Name         string        `yaml:"name"`
	API          string        `yaml:"api"`               // host:port of the operators' HTTPS
	APISAN       []string      `yaml:"api_san,omitempty"` // further names and addresses in its certificate
	Uplink       string        `yaml:"uplink"`            // host:port (UDP, and TCP where that does not get through) for gateways
	Cluster      string        `yaml:"cluster"`           // host:port (TCP) for the other core nodes
	ReportPeriod time.Duration `yaml:"report_period,omitempty"`
	// TargetBeats is how many heartbeats a second of the whole fleet are wanted at the most; 0: DefaultTargetBeats. Beyond it devices
	// are told longer intervals. It should be the same on all nodes.
	TargetBeats uint32 `yaml:"target_beats,omitempty"`
	// ContentQuota is what the content of artifacts may take on this node's disk, in bytes; 0: content.DefaultQuota. It should be the
	// same on all nodes.
	ContentQuota config.Bytes `yaml:"content_quota,omitempty"`
}

// minContentQuota has room for an artifact of some size.
const minContentQuota = 64 << 20

// DefaultTargetBeats is a hundred and fifty thousand devices at the usual 30 s: a core node takes a heartbeat out of a gateway's
// digest in well under a microsecond, so this is one for the memory that the digests pass through.
const DefaultTargetBeats = 5000

// DefaultReportPeriod is how often a gateway reports its devices' heartbeats.
const DefaultReportPeriod = 10 * time.Second

// Check holds the settings against their rules. The error is ErrConfig and names the key.
func (s *Settings) Check() error {
	if err := ident.CheckFleet(s.Fleet); err != nil {
		return fmt.Errorf("fleet: %w: %w", ErrConfig, err)
	}
	if err := ident.CheckName("core node", s.Name); err != nil {
		return fmt.Errorf("name: %w: %w", ErrConfig, err)
	}
	for _, a := range []struct{ key, addr string }{{"api", s.API}, {"uplink", s.Uplink}, {"cluster", s.Cluster}} {
		if err := config.CheckAddr(a.addr); err != nil {
			return fmt.Errorf("%s: %w: %w", a.key, ErrConfig, err)
		}
	}
	if s.ReportPeriod != 0 && (s.ReportPeriod < time.Second || s.ReportPeriod > 10*time.Minute) {
		return fmt.Errorf("report_period: %w: %v is not within 1s and 10m", ErrConfig, s.ReportPeriod)
	}
	if s.TargetBeats > pace.MaxTarget {
		return fmt.Errorf("target_beats: %w: %d is not within 1 and %d", ErrConfig, s.TargetBeats, pace.MaxTarget)
	}
	if s.ContentQuota != 0 && s.ContentQuota < minContentQuota {
		return fmt.Errorf("content_quota: %w: %v is under %v", ErrConfig, s.ContentQuota, config.Bytes(minContentQuota))
	}
	return nil
}

// Override puts what flags and environment said, as far as they said anything, over the settings of the file. Fleet and name
// were settled when the node was made and are left alone.
func (s *Settings) Override(by Settings) {
	s.API = cmp.Or(by.API, s.API)
	s.Uplink = cmp.Or(by.Uplink, s.Uplink)
	s.Cluster = cmp.Or(by.Cluster, s.Cluster)
	s.ReportPeriod = cmp.Or(by.ReportPeriod, s.ReportPeriod)
	s.TargetBeats = cmp.Or(by.TargetBeats, s.TargetBeats)
	s.ContentQuota = cmp.Or(by.ContentQuota, s.ContentQuota)
	if len(by.APISAN) > 0 {
		s.APISAN = by.APISAN
	}
}

// Config is what a node is made from.
type Config struct {
	Settings
	DataDir string
	Version string
	Log     *slog.Logger
	Wall    func() time.Time // nil: time.Now
	Net     Network          // zero: the machine's
	Tuning  Tuning           // zero: defaults
}

// Network is how a node reaches others. Fields left nil use the machine's own network.
type Network struct {
	ListenPacket func(addr string) (net.PacketConn, error)
	Listen       func(addr string) (net.Listener, error)
	Dial         dialFunc
}

func (c Config) withDefaults() Config {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ReportPeriod == 0 {
		c.ReportPeriod = DefaultReportPeriod
	}
	c.Net = c.Net.withDefaults()
	return c
}

// Names of the files in a data directory.
const (
	settingsFile = "core.yaml"
	holderFile   = "holder.key"
	caFile       = "ca.pem"
	adminFile    = "admin.token"
	recoveryFile = "recovery.key"
	uplinkFile   = "uplink.keys"
	raftDir      = "raft"
	historyDir   = "history"
	contentDir   = "content"
	joiningFile  = "joining" // the cluster has not taken this node in yet
	enrollDir    = "enroll"  // of a join that is under way
)

// LoadSettings reads core.yaml of a data directory. The error names the file, and the key where there is one.
func LoadSettings(dir string) (Settings, error) {
	path := filepath.Join(dir, settingsFile)
	b, err := durable.ReadFile(path, 64<<10)
	if errors.Is(err, os.ErrNotExist) {
		return Settings{}, fmt.Errorf("%s: %w: not there: run holdfast-core init first (an interrupted init: empty the directory and run it again)", path, ErrConfig)
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

func saveSettings(dir string, s Settings) error {
	b, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, settingsFile), b, 0o600)
}
