package agent_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A plant is one device with its real agent, and two gateways and a core, whose part the test plays.
type plant struct {
	t      *testing.T
	net    *linktest.Net
	fleet  *identtest.Fleet
	device ident.ID
	key    ident.KeyID
	dir    string
	addrs  []string

	publisher, root ed25519.PrivateKey

	mu       sync.Mutex
	orders   uint64 // number of the newest
	order    []byte // what gateways bring whenever a device has another number; nil: nothing
	sets     map[uint64][]byte
	content  map[wire.Digest][]byte
	releases map[wire.Digest][]byte
	corrupt  int // gateway whose content has a flipped bit; -1: none
	offline  bool
	bytes    map[wire.Digest]int // how often a chunk was brought
	told     []string            // statuses, alarms and doubts, as they came
	seen     uint64              // highest seq taken
	beat     wire.Heartbeat      // the newest
	installs []seal.Installed    // of the newest registration
}

// inPlant runs f in virtual time with a device that is enrolled.
func inPlant(t *testing.T, f func(t *testing.T, p *plant)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &plant{
			t: t, net: linktest.New(t), fleet: identtest.New(t, "acme", time.Now()), device: ident.Device("acme", ident.NewDeviceID()), dir: t.TempDir(), corrupt: -1,
			sets: make(map[uint64][]byte), content: make(map[wire.Digest][]byte), releases: make(map[wire.Digest][]byte), bytes: make(map[wire.Digest]int),
		}
		p.publisher, p.root = p.newKey(), p.newKey()
		p.sets[1] = p.set(1, p.fleet.Authority, p.publisher)
		for i, name := range []string{"gw-a", "gw-b"} {
			p.gateway(i, name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := agent.Enroll(ctx, p.config(), seal.NewToken(p.fleet.Pin()))
		p.ok(err)
		f(t, p)
	})
}

func (p *plant) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) newKey() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(nil)
	p.ok(err)
	return k
}

// set is a set of publishers with one root key and publishers, signed by a key.
func (p *plant) set(number uint64, signer ed25519.PrivateKey, publishers ...ed25519.PrivateKey) []byte {
	s := &seal.PublisherSet{Format: seal.PublisherSetFormat, Fleet: "acme", Number: number, Roots: [][]byte{p.root[32:]}, Threshold: 1}
	for i, k := range publishers {
		s.Publishers = append(s.Publishers, seal.Publisher{Name: fmt.Sprint("p", i), Key: k[32:]})
	}
	b, err := seal.SignPublisherSet(s, signer)
	p.ok(err)
	b, err = seal.JoinPublisherSet(b)
	p.ok(err)
	return b
}

func (p *plant) config() agent.Config {
	return agent.Config{
		Settings: agent.Settings{Gateways: p.addrs}, StateDir: p.dir, Version: "test", Log: slog.New(slog.DiscardHandler), Wall: time.Now, Facts: time.Minute,
		Uptime: func() time.Duration { return time.Hour }, BootID: [16]byte{1}, Clock: func() seal.ClockQuality { return seal.ClockSynced },
		Profile: func() wire.Profile { return wire.Profile{Arch: wire.Known("arm64")} },
		Packet:  func() (net.PacketConn, error) { return p.net.Socket(9), nil }, Stream: p.net.Dial,
	}
}

// run has the agent run while f, which may sleep, does something.
func (p *plant) run(f func()) {
	p.t.Helper()
	a, err := agent.New(p.config())
	p.ok(err)
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	f()
	cancel()
	p.ok(<-done)
}

// release builds an artifact of one file with a content, and has the core know it. change may break a rule before it is signed.
func (p *plant) release(number uint64, content string, change func(*artifact.Manifest), signer ed25519.PrivateKey) wire.Digest {
	p.t.Helper()
	e := artifact.Entry{Path: "app", Type: artifact.TypeFile, Mode: 0o755, Size: uint64(len(content)), Digest: wire.DigestOf([]byte(content))}
	p.mu.Lock()
	defer p.mu.Unlock()
	for b := range slices.Chunk([]byte(content), 4096) {
		e.Chunks.Add(artifact.Chunk{Digest: wire.DigestOf(b), Size: uint32(len(b))})
		p.content[wire.DigestOf(b)] = b
	}
	m := &artifact.Manifest{
		Format: artifact.Format, Name: "app", Version: fmt.Sprint("1.", number), Number: number, Kind: artifact.KindTree, Entries: []artifact.Entry{e}, StartMS: 30_000, SoakMS: 10_000,
		Health: []artifact.Check{{Kind: artifact.CheckFile, Path: "app"}},
	}
	if change != nil {
		change(m)
	}
	b, d, err := m.Encode()
	p.ok(err)
	p.content[d] = b
	p.releases[d], err = seal.SealRelease(&seal.Release{Format: seal.ReleaseFormat, Name: "app", Version: m.Version, Number: number, Manifest: d, Size: uint64(len(b))}, signer)
	p.ok(err)
	return d
}

// assign has the core order an artifact into the slot app.
func (p *plant) assign(d wire.Digest, attempt uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders++
	p.order = p.seal(p.orders, p.device.Device, d, attempt)
}

func (p *plant) seal(number uint64, device ident.DeviceID, d wire.Digest, attempt uint32) []byte {
	body, err := wire.Marshal(seal.Desired{Assignments: []seal.Assignment{{Slot: "app", Artifact: d, Attempt: attempt}}})
	p.ok(err)
	b, err := seal.SealOrder(&seal.Order{
		Version: seal.OrderVersion, Fleet: "acme", Device: device, Keys: []ident.KeyID{p.key}, ClusterEpoch: 1, Number: number, Kind: seal.OrderDesired, Body: body,
		LogTimeMS: time.Now().UnixMilli(),
	}, p.fleet.Authority)
	p.ok(err)
	return b
}

// current is the content of the file that runs; "": there is none.
func (p *plant) current() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "slots", "app", "current", "app"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	return string(b)
}

// addr is where a gateway is.
func (p *plant) addr(i int) net.Addr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(p.addrs[i]))
}

// newest is the newest heartbeat.
func (p *plant) newest() wire.Heartbeat {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beat
}

// registered is what the newest registration says of slots.
func (p *plant) registered() []seal.Installed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.installs
}

// heard fails the test unless just this was told since the last time.
func (p *plant) heard(want ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.told, want) {
		p.t.Errorf("told %q, want %q", p.told, want)
	}
	p.told = nil
}

func (p *plant) gateway(i int, name string) {
	tr := link.NewTransport(p.net.Socket(byte(i+1)), nil)
	ep := p.fleet.Endpoint(p.fleet.Certificate(ident.Gateway("acme", "plant-7", name), time.Now()))
	ln, err := tr.Listen(ep.Server(ident.Protocol{ALPN: wire.ALPNAgent, Roles: []ident.Role{ident.RoleDevice}}, ident.Protocol{ALPN: wire.ALPNEnroll}), link.Options{})
	p.ok(err)
	p.addrs = append(p.addrs, tr.Addr().String())
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			pending, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				if s, err := pending.Session(ctx, time.Minute); err == nil {
					p.session(i, s)
				}
			})
		}
	})
	p.t.Cleanup(func() { cancel(); p.ok(ln.Close()); wg.Wait(); p.ok(tr.Close()) })
}

// session answers one session.
func (p *plant) session(i int, s *link.Session) {
	defer s.Close()
	for {
		t, body, err := s.Recv()
		if err != nil {
			return
		}
		// Nothing is sent under the lock: in a bubble, time stands still for who waits for it.
		p.mu.Lock()
		out := p.answer(i, t, body)
		p.mu.Unlock()
		for _, m := range out {
			if s.Send(m.t, m.body) != nil {
				return
			}
		}
		if t == wire.TypeEnroll {
			s.Finish(time.Second)
			return
		}
	}
}

// A message is one to send.
type message struct {
	t    wire.Type
	body any
}

func (p *plant) answer(i int, t wire.Type, body []byte) []message {
	switch t {
	case wire.TypeEnroll:
		return p.enroll(body)
	case wire.TypeAttach:
		var m wire.Attach
		p.ok(wire.Unmarshal(body, &m))
		a, err := seal.ParseAttach(m.Sealed)
		p.ok(err)
		if a.Doubts != "" {
			p.told = append(p.told, fmt.Sprintf("%s: %s", a.Doubts[strings.LastIndex(a.Doubts, "/")+1:], a.DoubtFor))
		}
		return []message{{wire.TypeWelcome, wire.Welcome{Capability: 1, Identity: p.device.String(), IntervalMS: 1000, KeepAliveMS: 5000}}}
	case wire.TypeHeartbeat:
		p.beat = wire.Heartbeat{}
		p.ok(wire.Unmarshal(body, &p.beat))
		ack := wire.HeartbeatAck{Number: p.beat.Number, Publishers: uint64(len(p.sets))}
		if p.beat.Desired != p.orders {
			ack.Order = p.order
		}
		return []message{{wire.TypeHeartbeatAck, ack}}
	case wire.TypeStatement:
		return p.statement(body)
	case wire.TypeFetch:
		var f wire.Fetch
		p.ok(wire.Unmarshal(body, &f))
		return []message{{wire.TypeBlob, p.blob(i, f)}}
	}
	return []message{{wire.TypeError, wire.Refuse(wire.CodeUnsupported, "")}}
}

func (p *plant) enroll(body []byte) []message {
	var e wire.Enroll
	p.ok(wire.Unmarshal(body, &e))
	csr, err := ident.ParseCSR(e.CSR)
	p.ok(err)
	chain := p.fleet.Chain(p.device, csr.Key, time.Now())
	p.key = ident.KeyIDOf(identtest.Parse(p.t, chain...)[0])
	out := wire.Enrolled{Identity: p.device.String(), Chain: chain, Root: p.fleet.Root.Cert.Raw, Authority: p.fleet.AuthCert}
	return []message{{wire.TypeEnrolled, out}}
}

// statement takes a statement in the core's place and receipts it.
func (p *plant) statement(body []byte) []message {
	var m wire.Statement
	p.ok(wire.Unmarshal(body, &m))
	st, err := seal.ParseStatement(m.Sealed)
	p.ok(err)
	if st.Seq > p.seen {
		p.seen = st.Seq
		switch st.Type {
		case seal.StatementRegister:
			r, err := st.Register()
			p.ok(err)
			p.installs = r.Slots
		case seal.StatementStatus:
			b, err := st.Status()
			p.ok(err)
			p.told = append(p.told, strings.TrimSpace(b.State.String()+" "+b.Reason))
		case seal.StatementAlarm:
			b, err := st.Alarm()
			p.ok(err)
			p.told = append(p.told, "alarm "+b.Reason)
		}
	}
	receipt, err := seal.SealReceipt(&seal.Receipt{
		Version: 1, Device: st.Device, ClusterEpoch: 1, Epoch: st.Epoch, Seq: st.Seq, Chain: st.Chain, LogTimeMS: time.Now().UnixMilli(),
	}, p.fleet.Authority)
	p.ok(err)
	return []message{{wire.TypeCustody, wire.Custody{Epoch: st.Epoch, Seq: st.Seq}}, {wire.TypeHeartbeatAck, wire.HeartbeatAck{Receipt: receipt}}}
}

// blob is what a gateway has.
func (p *plant) blob(gateway int, f wire.Fetch) wire.Blob {
	if p.offline {
		return wire.Blob{Code: wire.CodeUnavailable, Detail: "no uplink", RetryAfterMS: 1000}
	}
	var b []byte
	switch f.Kind {
	case wire.ContentChunk:
		p.bytes[f.Digest]++
		b = p.content[f.Digest]
	case wire.ContentManifest:
		b = p.content[f.Digest]
	case wire.ContentRelease:
		b = p.releases[f.Digest]
	case wire.ContentPublishers:
		b = p.sets[f.Number]
	}
	if b == nil {
		return wire.Blob{Code: wire.CodeNoContent}
	}
	if gateway == p.corrupt {
		b = slices.Clone(b)
		b[len(b)-1] ^= 1
	}
	return wire.Blob{Data: b, Total: uint64(len(b))}
}
