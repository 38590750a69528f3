package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/sim/procs"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// world is one fleet of real processes on loopback: a core node, a gateway, and the processes that play devices. Its methods
// are for one goroutine.
type world struct {
	dir     string // everything lies in it
	core    *floor.Child
	gateway *floor.Child
	listen  string        // the gateway's
	uplink  string        // the core's
	base    held          // a gateway before any device was enrolled
	starts  uint64        // of device processes; see device.attach
	settle  time.Duration // after a gateway's start
	api     *http.Client
	apiURL  string
	bearer  string
}

// openWorld starts a core and a gateway and enrolls as many devices as are needed. The caller must call close.
func openWorld(ctx context.Context, s *size) (_ *world, err error) {
	w := &world{settle: s.uplink}
	if w.dir, err = os.MkdirTemp("", "holdfast-bench-"); err != nil {
		return nil, fmt.Errorf("directory of the run: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open world: %w", err), w.close())
		}
	}()
	if err := w.startCore(ctx); err != nil {
		return nil, err
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
	return w, w.enroll(ctx, s.devices+s.hostiles)
}

func (w *world) startCore(ctx context.Context) error {
	cfg := coreConfig{Dir: filepath.Join(w.dir, "core")}
	for _, a := range []*string{&cfg.API, &cfg.Uplink, &cfg.Cluster, &w.listen} {
		var err error
		if *a, err = procs.FreeAddr(); err != nil {
			return err
		}
	}
	var err error
	if w.core, err = floor.StartChild(ctx, floor.ChildConfig{Role: roleCore, CPU: proc.AnyCPU, Config: cfg}); err != nil {
		return err
	}
	w.uplink, w.apiURL = cfg.Uplink, "https://"+cfg.API
	bearer, err := os.ReadFile(filepath.Join(cfg.Dir, "admin.token"))
	if err != nil {
		return fmt.Errorf("operator's token: %w", err)
	}
	root, err := os.ReadFile(filepath.Join(cfg.Dir, "ca.pem"))
	if err != nil {
		return fmt.Errorf("fleet's root: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	w.bearer = strings.TrimSpace(string(bearer))
	w.api = &http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}},
	}
	return nil
}

// startGateway runs the gateway on the given core. The first time it enrolls.
func (w *world) startGateway(ctx context.Context, cpu int) (err error) {
	cfg := gatewayConfig{Dir: filepath.Join(w.dir, "gateway"), Listen: w.listen, Core: w.uplink}
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
	old := w.gateway
	w.gateway = nil
	if err := old.Close(); err != nil {
		return err
	}
	if err := w.startGateway(ctx, cpu); err != nil {
		return err
	}
	return rest(ctx, w.settle)
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
	in := map[string]any{"kind": kind, "site": siteName, "uses": uses}
	if err := w.call(ctx, &t, http.MethodPost, "/v1/tokens", in); err != nil {
		return nil, err
	}
	return seal.ParseToken(t.Token)
}

// index is how far the log has come.
func (w *world) index(ctx context.Context) (uint64, error) {
	var c v1.Cluster
	err := w.call(ctx, &c, http.MethodGet, "/v1/cluster", nil)
	return c.Index, err
}

// errAPI is an answer of the API that is no success.
var errAPI = errors.New("the API refused")

// maxAnswer bounds an answer of the API, in bytes.
const maxAnswer = 1 << 20

// call asks the core's API. in may be nil.
func (w *world) call(ctx context.Context, out any, method, path string, in any) (err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.apiURL+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+w.bearer)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := w.api.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %w: %d %s", method, path, errAPI, res.StatusCode, b)
	}
	return json.Unmarshal(b, out)
}

// close ends all processes and removes everything.
func (w *world) close() error {
	var errs []error
	for _, c := range []*floor.Child{w.gateway, w.core} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if w.api != nil {
		w.api.CloseIdleConnections()
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
