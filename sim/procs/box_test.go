package procs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// boxPatience is how long a box waits for any one message.
const boxPatience = 20 * time.Second

// A box is a device whose every word the test holds. It throws away each statement as soon as a gateway has taken custody of
// it, as a device that dies then: what such a gateway loses is lost for good. What is not in custody it states again. It talks over
// TCP, where a peer that dies shows at once. It is used by one goroutine at a time.
type box struct {
	id, name  string
	gateway   string // host:port
	cred      *credential.Credential
	sessions  uint64
	epoch     seal.RandomID
	tags      map[string]string // in every statement
	signed    uint64
	pending   []*seal.SealedStatement // signed and not in custody
	chain     seal.Chain              // after the newest signed one
	kept      uint64                  // up to here a gateway took custody
	deaf      atomic.Bool             // custody is no longer heard
	receipted uint64
}

// newBox enrolls a device at a running gateway.
func (r *rig) newBox(name, gateway string) *box {
	r.t.Helper()
	token, err := r.Token(r.ctx, name, "device", site, 1)
	r.must(err)
	b := &box{name: name, gateway: gateway, epoch: seal.RandomID{1}}
	b.id, err = r.EnrollAgent(r.ctx, name, gateway, token)
	r.must(err)
	b.cred, err = credential.Load(r.Path(name))
	r.must(err)
	return b
}

// uplinked waits until a gateway has its uplink: without it nobody enrolls there.
func (r *rig) uplinked(p *Proc) {
	r.t.Helper()
	r.must(r.linked(p))
}

func (r *rig) linked(p *Proc) error {
	return r.Eventually(r.ctx, 15*time.Second, func() error {
		if !strings.Contains(p.Output(), `"msg":"uplink open"`) {
			return fmt.Errorf("%s has no uplink", p.Name)
		}
		return nil
	})
}

// open opens a session with the box's gateway, which may still be about to come up. It tries until ctx ends.
func (b *box) open(ctx context.Context) (*link.Session, error) {
	for {
		s, err := b.attach(ctx)
		if err == nil {
			return s, nil
		}
		if !backoff.Sleep(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("%s at %s: %w: %w", b.name, b.gateway, context.Cause(ctx), err)
		}
	}
}

// attach dials once and waits for the welcome.
func (b *box) attach(ctx context.Context) (_ *link.Session, err error) {
	conn, err := link.DialTCP(ctx, b.gateway)
	if err != nil {
		return nil, err
	}
	end := b.cred.Endpoint(time.Now)
	s, err := link.DialConn(ctx, conn, end.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	peer, ok := s.Peer(time.Now())
	if !ok {
		return nil, ident.ErrUntrusted
	}
	b.sessions++
	sealed, err := seal.SealAttach(&seal.Attach{
		Version: seal.AttachVersion, Device: b.cred.ID.Device, Gateway: peer.ID.String(), Start: b.sessions, Run: b.sessions, Session: 1,
		Epoch: 1, Lowest: b.receipted + 1, Highest: b.signed, Chain: b.chain, IntervalMS: 30_000, TimeMS: time.Now().UnixMilli(),
	}, b.cred.KeyID, b.cred.Key)
	if err != nil {
		return nil, err
	}
	if err := s.Send(wire.TypeAttach, wire.Attach{Capability: wire.Capability, Sealed: sealed}); err != nil {
		return nil, err
	}
	t, body, err := s.RecvWithin(boxPatience)
	if err != nil {
		return nil, err
	}
	var w wire.Welcome
	if t != wire.TypeWelcome {
		return nil, fmt.Errorf("got %v instead of a welcome", t)
	}
	if err := wire.Unmarshal(body, &w); err != nil {
		return nil, err
	}
	if k := w.Kept; k != nil && k.Epoch == 1 { // custody of what it took before it could say so
		i := slices.IndexFunc(b.pending, func(st *seal.SealedStatement) bool { return st.Seq == k.Seq && slices.Equal(st.Chain[:], k.Chain) })
		b.custody(b.kept + uint64(i+1))
	}
	return s, nil
}

// custody throws away what a gateway has taken.
func (b *box) custody(seq uint64) {
	if seq > b.kept {
		b.pending = slices.Delete(b.pending, 0, int(seq-b.kept))
		b.kept = seq
	}
}

// sign makes the next statement: a registration whose agent has another version than the one before.
func (b *box) sign() error {
	body, err := wire.Marshal(seal.Register{
		Profile: wire.Profile{Arch: wire.Known("arm64"), Kernel: wire.Known("6.12.0")}, AgentVersion: fmt.Sprintf("1.%d.0", b.signed+1), Tags: b.tags,
	})
	if err != nil {
		return err
	}
	st, err := seal.SealStatement(&seal.Statement{
		Version: seal.StatementVersion, Type: seal.StatementRegister, Device: b.cred.ID.Device, Epoch: 1, EpochID: b.epoch, Seq: b.signed + 1,
		Prev: b.chain, TimeMS: time.Now().UnixMilli(), BootID: seal.RandomID{2}, Clock: seal.ClockSynced, Body: body,
	}, b.cred.KeyID, b.cred.Key)
	if err != nil {
		return err
	}
	b.signed, b.chain, b.pending = b.signed+1, st.Chain, append(b.pending, st)
	return nil
}

// state states until n more are in custody, as many at once as an agent may. A refusal is a *wire.Error.
func (b *box) state(s *link.Session, n uint64) error {
	goal := b.kept + n
	for sent := b.kept; b.kept < goal; {
		for ; sent < min(goal, b.kept+wire.MaxUnkept); sent++ {
			if sent == b.signed {
				if err := b.sign(); err != nil {
					return err
				}
			}
			if err := s.Send(wire.TypeStatement, wire.Statement{Sealed: b.pending[sent-b.kept].Sealed}); err != nil {
				return err
			}
		}
		if err := b.hear(s); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a receipt covers everything that is in custody.
func (b *box) settle(s *link.Session) error {
	for b.receipted < b.kept {
		if err := b.hear(s); err != nil {
			return fmt.Errorf("%s: no receipt for statements %d to %d that were in custody: %w", b.name, b.receipted+1, b.kept, err)
		}
	}
	return nil
}

// hear takes one message.
func (b *box) hear(s *link.Session) error {
	t, body, err := s.RecvWithin(boxPatience)
	if err != nil {
		return err
	}
	switch t {
	case wire.TypeCustody:
		var c wire.Custody
		if err := wire.Unmarshal(body, &c); err != nil {
			return err
		}
		if c.Epoch != 1 || c.Seq > b.signed {
			return fmt.Errorf("%s: custody of a statement %d/%d that was never made", b.name, c.Epoch, c.Seq)
		}
		if !b.deaf.Load() {
			b.custody(c.Seq)
		}
	case wire.TypeHeartbeatAck:
		var a wire.HeartbeatAck
		if err := wire.Unmarshal(body, &a); err != nil || len(a.Receipt) == 0 {
			return err
		}
		rc, err := seal.OpenReceipt(a.Receipt, b.cred.Authority)
		if err != nil || rc.Device != b.cred.ID.Device {
			return errors.Join(fmt.Errorf("%s: a receipt for %v", b.name, rc), err)
		}
		b.receipted = max(b.receipted, rc.Seq)
	case wire.TypeError:
		e := new(wire.Error)
		return errors.Join(wire.Unmarshal(body, e), e)
	}
	return nil
}

// conserved says what is wrong with the core's history of a box: everything that was in custody is in it once, and nothing that
// was not stated.
func (r *rig) conserved(b *box) error {
	items, err := all[v1.HistoryItem](r.ctx, r.api, r.cores[0], "/v1/devices/"+url.PathEscape(b.id)+"/history")
	if err != nil {
		return err
	}
	times := make(map[uint64]int)
	for i := range items {
		times[items[i].Seq]++
		if items[i].Epoch != 1 || items[i].Seq > b.signed {
			err = errors.Join(err, fmt.Errorf("%s never stated %d/%d", b.name, items[i].Epoch, items[i].Seq))
		}
	}
	for seq := uint64(1); seq <= b.signed; seq++ {
		if n := times[seq]; n > 1 || n == 0 && seq <= b.kept {
			err = errors.Join(err, fmt.Errorf("%s: statement %d is %d times in the history", b.name, seq, n))
		}
	}
	return err
}

// freeze stops the core's node in the middle of what it does, as a WAN stops that carries nothing any more; thaw ends that.
func (r *rig) freeze() { r.t.Helper(); r.must(syscall.Kill(r.core.Pid(), syscall.SIGSTOP)) }
func (r *rig) thaw()   { r.t.Helper(); r.must(syscall.Kill(r.core.Pid(), syscall.SIGCONT)) }
