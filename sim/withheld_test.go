package sim

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A hoarder is a gateway that gives custody of everything and keeps nothing, and says that it has an uplink.
type hoarder struct {
	p       *plant
	tr      *link.Transport
	ln      *link.Listener
	receipt func(st *seal.SealedStatement) []byte // what it brings for a statement that it took; nil: nothing

	mu     sync.Mutex
	taken  int
	attach []byte               // the newest
	alter  func(wire.Type, any) // changes what it says to a device; nil: nothing
	// content answers whoever asks for content; nil: nobody does.
	content func(*wire.Fetch) *wire.Blob
	wg      sync.WaitGroup
}

// newHoarder puts one in the place of the plant's gateway, which has been stopped.
func newHoarder(p *plant, receipt func(*seal.SealedStatement) []byte) *hoarder {
	p.t.Helper()
	cred, err := credential.Load(p.gw.Dir())
	p.must(err)
	pc, err := p.Net.ListenPacket(p.gw.Addr)
	p.must(err)
	tr := link.NewTransport(pc, nil)
	ln, err := tr.Listen(cred.Endpoint(time.Now).Server(ident.Protocol{ALPN: wire.ALPNAgent, Roles: []ident.Role{ident.RoleDevice}}), link.Options{})
	p.must(err)
	h := &hoarder{p: p, tr: tr, ln: ln, receipt: receipt}
	h.wg.Go(h.accept)
	return h
}

// close ends it.
func (h *hoarder) close() {
	if err := errors.Join(h.ln.Close(), h.tr.Close()); err != nil {
		h.p.t.Error(err)
	}
	h.wg.Wait()
}

func (h *hoarder) accept() {
	for {
		pending, err := h.ln.Accept(h.p.ctx)
		if err != nil {
			return
		}
		h.wg.Go(func() {
			if s, err := pending.Session(h.p.ctx, time.Second); err == nil {
				defer s.Close()
				h.serve(s)
			}
		})
	}
}

// serve answers one agent until it leaves.
func (h *hoarder) serve(s *link.Session) {
	var receipt []byte
	for {
		typ, body, err := s.Recv()
		if err != nil {
			return
		}
		switch typ {
		case wire.TypeAttach:
			peer, ok := s.Peer(time.Now())
			var m wire.Attach
			if !ok || wire.Unmarshal(body, &m) != nil {
				return
			}
			h.mu.Lock()
			h.attach = m.Sealed
			h.mu.Unlock()
			err = h.say(s, wire.TypeWelcome, &wire.Welcome{
				Capability: wire.Capability, Identity: peer.ID.String(), IntervalMS: 2000, Site: "plant-7", TimeMS: time.Now().UnixMilli(),
				PeriodMS: wire.Millis(h.p.ReportPeriod),
			})
		case wire.TypeStatement:
			var m wire.Statement
			if err = wire.Unmarshal(body, &m); err != nil {
				return
			}
			var st *seal.SealedStatement
			if st, err = seal.ParseStatement(m.Sealed); err != nil {
				return
			}
			h.mu.Lock()
			h.taken++
			h.mu.Unlock()
			if h.receipt != nil {
				receipt = h.receipt(st)
			}
			err = h.say(s, wire.TypeCustody, &wire.Custody{Epoch: st.Epoch, Seq: st.Seq})
		case wire.TypeHeartbeat:
			var b wire.Heartbeat
			if err = wire.Unmarshal(body, &b); err != nil {
				return
			}
			err = h.say(s, wire.TypeHeartbeatAck, &wire.HeartbeatAck{Number: b.Number, Receipt: receipt, Uplink: true})
		case wire.TypeFetch:
			var f wire.Fetch
			if err = wire.Unmarshal(body, &f); err != nil {
				return
			}
			h.mu.Lock()
			content := h.content
			h.mu.Unlock()
			if content == nil {
				return
			}
			err = s.Send(wire.TypeBlob, content(&f))
		}
		if err != nil {
			return
		}
	}
}

// say sends a device something.
func (h *hoarder) say(s *link.Session, t wire.Type, m any) error {
	h.mu.Lock()
	if h.alter != nil {
		h.alter(t, m)
	}
	h.mu.Unlock()
	return s.Send(t, m)
}

// TestHoardingGatewayIsLeftAndNamed lets a device meet a gateway that gives custody and forgets, one that also invents receipts, and
// one that shows an old and genuine receipt again and again. Nothing is lost, the device is elsewhere after three report periods, and the
// core says whom it doubts.
func TestHoardingGatewayIsLeftAndNamed(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"drops", "invents receipts", "repeats an old receipt"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			inPlant(t, 0, 2*time.Second, func(p *plant) {
				sibling, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
				p.must(err)
				run, err := sibling.Start(p.ctx)
				p.must(err)
				p.all = append(p.all, run)
				token, err := p.Token(p.ctx, "device", "plant-7", 1)
				p.must(err)
				a := p.NewAgent("victim", p.gw, sibling)
				p.must(a.Enroll(p.ctx, token))
				p.devices = append(p.devices, a)
				var kernel atomic.Int64
				a.Profile = func() wire.Profile {
					m := smallMachine()
					m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", kernel.Load()))
					return m
				}
				book := newLogbook(a.Dir())
				a.Log, a.Facts = slog.New(book), time.Second

				// What it could show again: the receipt for what the device stated while the gateway was honest.
				victim := p.startAgent(a)
				p.sleep(10 * time.Second)
				victim.Kill()
				p.gateway.Kill()
				old := p.receiptFor(book.all()[0])

				_, forger, err := ed25519.GenerateKey(nil)
				p.must(err)
				receipts := map[string]func(*seal.SealedStatement) []byte{
					"invents receipts": func(st *seal.SealedStatement) []byte {
						b, err := seal.SealReceipt(&seal.Receipt{Version: 1, Device: st.Device, ClusterEpoch: 1, Epoch: st.Epoch, Seq: st.Seq, Chain: st.Chain, LogTimeMS: time.Now().UnixMilli()}, forger)
						if err != nil {
							t.Error(err)
						}
						return b
					},
					"repeats an old receipt": func(*seal.SealedStatement) []byte { return old },
				}
				h := newHoarder(p, receipts[how])
				defer h.close()
				p.startAgent(a)
				for range 20 {
					kernel.Add(1)
					p.sleep(time.Second)
				}
				if h.mu.Lock(); h.taken < 15 {
					t.Errorf("the gateway took %d statements: the device is not there", h.taken)
				}
				h.mu.Unlock()
				if got := len(p.history(0)); got != 1 {
					t.Errorf("the core has %d statements although the gateway passes none on", got)
				}
				p.sleep(3*p.ReportPeriod - 20*time.Second + 15*time.Second) // and what it takes to go elsewhere
				if d := p.want(0, "online", ""); d.Gateway != "plant-7/gw-b" {
					t.Errorf("the device is still at %s", d.Gateway)
				}
				if said := p.events("gateway.doubted"); !strings.Contains(said, "plant-7/gw-a") || strings.Contains(said, `"gateway":"plant-7/gw-b"`) {
					t.Errorf("doubted: %q, want gw-a", said)
				}
				v, _ := p.Core(1).View()
				d, _ := v.Device(deviceID(t, a))
				p.coreOff()
				if err := book.compare(t, p.Core(1), a, d.Sequence()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// receiptFor has the core say, to the plant's gateway that has been stopped, how far it has the device that made a statement.
func (p *plant) receiptFor(sealed []byte) []byte {
	p.t.Helper()
	tr := p.transport(p.gw.Addr.Addr())
	defer tr.Close()
	r := newRogue(p, tr)
	defer r.up.Close()
	p.must(r.up.Send(wire.TypeSubmit, wire.Submit{ID: 1, TimeMS: time.Now().UnixMilli(), Statements: [][]byte{sealed}, AfterMS: []int64{0}}))
	for {
		typ, body, err := r.up.RecvWithin(2 * p.ReportPeriod)
		p.must(err)
		if typ == wire.TypeReceipts {
			var m wire.Receipts
			p.must(wire.Unmarshal(body, &m))
			return m.Items[0].Receipt
		}
	}
}

// events are what the core tells of one kind, as text.
func (p *plant) events(kind string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Second)
	defer cancel()
	r, err := newRequest(ctx, http.MethodGet, "/v1/events?after=0", nil)
	p.must(err)
	rec, err := p.Core(1).Do(r)
	p.must(err)
	var out []string
	for line := range strings.Lines(rec.Body.String()) {
		if strings.Contains(line, kind) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
