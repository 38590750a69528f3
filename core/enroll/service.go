package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/facts"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/throttle"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Registry is what the service needs of the replicated state.
type Registry interface {
	View() registry.View
	Propose(ctx context.Context, c command.Command) (any, error)
	// Barrier waits until View shows everything that was committed before the call.
	Barrier(ctx context.Context) error
}

// The limits on failures. A gateway is one source for all its devices, so they are wide: a token cannot be guessed, and what
// is limited is the work that guessing makes.
const (
	failuresPerSecond = 5
	failuresAtOnce    = 200
)

// Service enrolls keys and renews their certificates.
type Service struct {
	// Note, where set before the first request, is told of each refusal: whose token, from where, and why.
	Note func(action, actor, source, reason string)

	reg  Registry
	keys *Keyring
	wall func() time.Time
	log  *slog.Logger

	failed  throttle.Failures // by source
	refused atomic.Uint64
}

// NewService enrolls into reg with the fleet's keys.
func NewService(reg Registry, keys *Keyring, wall func() time.Time, log *slog.Logger) *Service {
	return &Service{reg: reg, keys: keys, wall: wall, log: log, failed: throttle.Failures{PerSecond: failuresPerSecond, Burst: failuresAtOnce}}
}

// Refused counts the enrollments that were refused since the start.
func (s *Service) Refused() uint64 { return s.refused.Load() }

// A Request is an enrollment as it came in.
type Request struct {
	wire.Enroll
	Via    ident.ID // the gateway that relays it; zero when it came straight to the core
	Source string   // for limits on failures: an address or a gateway
}

// Enroll answers an enrollment. The error is always a *wire.Error; an unknown, expired, used-up or wrongly proved token all
// give the same one, and the difference is in the log alone.
func (s *Service) Enroll(ctx context.Context, r Request) (*wire.Enrolled, error) {
	if !s.failed.Allowed(r.Source) {
		return nil, wire.Refuse(wire.CodeBusy, "too many failed enrollments").After(time.Minute)
	}
	pub, err := ident.ParseCSR(r.CSR)
	if err != nil {
		return nil, s.refuse(r, err)
	}
	proof, err := seal.ParseEnroll(r.Proof)
	if err != nil {
		return nil, s.refuse(r, err)
	}
	v := s.reg.View()
	if _, ok := v.Token(proof.TokenID); !ok { // it may be so new that this node has not heard of it
		if err := s.reg.Barrier(ctx); err != nil {
			return nil, wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(5 * time.Second)
		}
		v = s.reg.View()
	}
	t, err := s.check(v, r, proof, pub)
	if err != nil {
		return nil, s.refuse(r, err)
	}
	for range 3 {
		out, err := s.admit(ctx, v, r, t, pub)
		switch {
		case errors.Is(err, registry.ErrRetry):
			v = s.reg.View()
		case errors.Is(err, registry.ErrRefused), errors.Is(err, errRequest):
			return nil, s.refuse(r, err)
		case errors.Is(err, registry.ErrExists), errors.Is(err, registry.ErrInvalid): // of a core node, whose token is good
			return nil, wire.Refuse(wire.CodeForbidden, "%v", err)
		case err != nil:
			s.log.Warn("enrollment not committed", "token", t.ID.String(), "err", err)
			return nil, wire.Refuse(wire.CodeUnavailable, "the core cannot commit now").After(5 * time.Second)
		default:
			return out, nil
		}
	}
	return nil, wire.Refuse(wire.CodeUnavailable, "the record changes too quickly").After(time.Second)
}

var errRequest = errors.New("bad enrollment request")

// check holds a request against its token, before anything reaches Raft.
func (s *Service) check(v registry.View, r Request, proof *seal.SealedEnroll, pub ident.PublicKey) (*registry.Token, error) {
	t, ok := v.Token(proof.TokenID)
	if !ok {
		return nil, fmt.Errorf("no token %v: %w", proof.TokenID, registry.ErrRefused)
	}
	if err := proof.Verify(t.Public, s.keys.Fleet(), t.Kind, pub.SPKI); err != nil {
		return nil, err
	}
	_, before := v.UseOf(t.ID, pub.ID)
	if now := s.wall(); !t.Open(now) && (!before || !t.Retriable(now)) {
		return nil, fmt.Errorf("token %v is used up, expired or revoked: %w", t.ID, registry.ErrRefused)
	}
	switch t.Kind {
	case seal.KindDevice:
		if r.Via.Site != t.Site {
			return nil, fmt.Errorf("token %v is for site %q, asked through site %q: %w", t.ID, t.Site, r.Via.Site, errRequest)
		}
	case seal.KindGateway:
		if err := ident.CheckName("gateway", r.Name); err != nil {
			return nil, fmt.Errorf("%w: %w", errRequest, err)
		}
		if len(r.Listen) > 256 || !r.Via.IsZero() {
			return nil, fmt.Errorf("a gateway enrolls at the core itself: %w", errRequest)
		}
	case seal.KindCore:
		if err := checkNode(r); err != nil {
			return nil, fmt.Errorf("%w: %w", errRequest, err)
		}
	}
	return t, nil
}

// checkNode holds what a node says of itself against the rules.
func checkNode(r Request) error {
	if err := ident.CheckName("core node", r.Name); err != nil {
		return err
	}
	if !r.Via.IsZero() {
		return errors.New("a core node joins at the core itself")
	}
	for _, a := range []string{r.API, r.Uplink, r.Cluster} {
		if err := config.CheckAddr(a); err != nil {
			return err
		}
	}
	if len(r.Holder) != HolderPublicSize {
		return fmt.Errorf("the holder's key has %d bytes, want %d", len(r.Holder), HolderPublicSize)
	}
	return nil
}

// admit issues a certificate and commits it with the use of the token.
func (s *Service) admit(ctx context.Context, v registry.View, r Request, t *registry.Token, pub ident.PublicKey) (_ *wire.Enrolled, err error) {
	id := ident.Gateway(s.keys.Fleet(), t.Site, r.Name)
	switch t.Kind {
	case seal.KindGateway:
	case seal.KindCore:
		id = ident.Core(s.keys.Fleet(), r.Name)
	case seal.KindDevice:
		d := ident.NewDeviceID()
		if known, ok := v.DeviceByKey(pub.ID); ok {
			d = known.ID
		}
		id = ident.Device(s.keys.Fleet(), d)
	}
	now := s.wall()
	if t.Kind == seal.KindGateway {
		if now, err = s.afterLists(ctx, t.Site); err != nil {
			return nil, err
		}
	}
	chain, err := s.keys.Chain(ident.Leaf{ID: id, Public: pub.Key, Now: now})
	if err != nil {
		return nil, err
	}
	c := &command.Enroll{
		Token: t.ID, Kind: t.Kind, Device: id.Device, Name: r.Name, Listen: r.Listen, SPKI: pub.SPKI, Cert: chain[0],
		NotAfter: now.Add(ident.LeafLifetime).UnixMilli(),
	}
	if !r.Via.IsZero() {
		c.Via = r.Via.String()
	}
	if t.Kind == seal.KindCore {
		f := v.Fleet()
		w, err := s.keys.Wrap(f, r.Name, r.Holder)
		if err != nil {
			return nil, err
		}
		c.Wrap, c.Gen = &w, f.Generation
		c.Node = &command.CoreNode{Name: r.Name, API: r.API, Uplink: r.Uplink, Cluster: r.Cluster}
	}
	res, err := s.reg.Propose(ctx, c)
	if err != nil {
		return nil, err
	}
	e, ok := res.(*registry.Enrolled)
	if !ok {
		return nil, fmt.Errorf("enroll: result %T", res)
	}
	return s.answer(e, pub)
}

// afterLists is the time at which to issue a gateway's first certificate: now, and later than any list of its site. An agent takes
// a gateway that its list lacks only if the certificate is newer than the list. A certificate's times are of whole seconds.
func (s *Service) afterLists(ctx context.Context, site string) (time.Time, error) {
	if err := s.reg.Barrier(ctx); err != nil {
		return time.Time{}, err
	}
	now := s.wall()
	if rec, ok := s.reg.View().Site(site); ok {
		if list := time.UnixMilli(rec.List.LoggedMS); !now.After(list) {
			now = list.Add(time.Millisecond)
		}
	}
	if whole := now.Truncate(time.Second); whole.Before(now) {
		now = whole.Add(time.Second)
	}
	return now, nil
}

// answer is what whoever enrolls gets for its key.
func (s *Service) answer(e *registry.Enrolled, pub ident.PublicKey) (*wire.Enrolled, error) {
	v := s.reg.View()
	out := &wire.Enrolled{Root: s.keys.root.Raw, Authority: s.keys.authCert}
	var id ident.ID
	switch {
	case e.Device != nil:
		id, out.Site = ident.Device(s.keys.fleet, e.Device.ID), e.Device.Site
		out.IntervalMS = wire.Millis(v.Interval(e.Device))
	case e.Gateway != nil:
		id, out.Site = ident.Gateway(s.keys.fleet, e.Gateway.Site, e.Gateway.Name), e.Gateway.Site
	case e.Node != nil:
		id = ident.Core(s.keys.fleet, e.Node.Name)
	}
	out.Identity = id.String()
	out.Chain = s.keys.WithIssuer(id.Role, e.Cert)
	if e.Again {
		// The same leaf as the first time, because issuing is a function of its arguments.
		var err error
		if out.Chain, err = s.keys.Chain(ident.Leaf{ID: id, Public: pub.Key, Now: time.UnixMilli(e.NotAfterMS).Add(-ident.LeafLifetime)}); err != nil {
			return nil, err
		}
	}
	if out.Site != "" {
		out.Gateways = SiteGateways(v, out.Site)
	}
	if id.Role == ident.RoleDevice {
		var err error
		if out.List, err = facts.List(v, out.Site, s.keys.Authority()); err != nil {
			s.log.Error("the list of gateways is not signed: the device gets it from its gateway", "site", out.Site, "err", err)
		}
	}
	if id.Role != ident.RoleDevice {
		out.Cores = Uplinks(v)
	}
	return out, nil
}

// Uplinks lists the addresses at which gateways reach the core's nodes.
func Uplinks(v registry.View) []string {
	f := v.Fleet()
	if f == nil {
		return nil
	}
	var out []string
	for _, n := range f.Nodes {
		if len(out) < wire.MaxCores {
			out = append(out, n.Uplink)
		}
	}
	return out
}

// SiteGateways lists the addresses at which a site's gateways are reached.
func SiteGateways(v registry.View, site string) []string {
	var out []string
	v.Gateways(func(g *registry.Gateway) bool {
		if g.Site == site && g.RevokedMS == 0 && g.Listen != "" && len(out) < maxGateways {
			out = append(out, g.Listen)
		}
		return true
	})
	return out
}

// maxGateways bounds the list of gateways that a device is told.
const maxGateways = 32

// Renew answers a request for a new certificate for a key that is active. The error is always a *wire.Error.
func (s *Service) Renew(ctx context.Context, id ident.ID, csr []byte) (*wire.Renewed, error) {
	pub, err := ident.ParseCSR(csr)
	if err != nil {
		return nil, wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	c, ok := renewable(s.reg.View(), id, pub.ID)
	if !ok { // this node may be behind the one that let it in
		if err := s.reg.Barrier(ctx); err != nil {
			return nil, wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(5 * time.Second)
		}
		c, ok = renewable(s.reg.View(), id, pub.ID)
	}
	if !ok {
		return nil, wire.Refuse(wire.CodeUnknownKey, "the key is not an active key of %v", id)
	}
	now := s.wall()
	chain, err := s.keys.Chain(ident.Leaf{ID: id, Public: pub.Key, Now: now})
	if err != nil {
		s.log.Error("renewal failed", "identity", id.String(), "err", err)
		return nil, wire.Refuse(wire.CodeInternal, "the core cannot issue now").After(time.Minute)
	}
	c.Key, c.NotAfter = pub.ID, now.Add(ident.LeafLifetime).UnixMilli()
	if _, err := s.reg.Propose(ctx, c); err != nil {
		return nil, wire.Refuse(wire.CodeUnavailable, "the core cannot commit now").After(5 * time.Second)
	}
	return &wire.Renewed{Chain: chain}, nil
}

// renewable finds the record whose active key may be renewed under the identity.
func renewable(v registry.View, id ident.ID, key ident.KeyID) (*command.Renewed, bool) {
	switch id.Role {
	case ident.RoleDevice:
		d, ok := v.Device(id.Device)
		if !ok || d.State == wire.DeviceDecommissioned {
			return nil, false
		}
		_, ok = d.ActiveKey(key)
		return &command.Renewed{Device: d.ID}, ok
	case ident.RoleGateway:
		g, ok := v.Gateway(id.Site + "/" + id.Name)
		if !ok {
			return nil, false
		}
		_, ok = g.ActiveKey(key)
		return &command.Renewed{Gateway: g.ID()}, ok
	case ident.RoleCore, ident.RoleAPI, ident.RoleAuthority:
	}
	return nil, false
}

// refuse counts and logs a refusal and gives the one answer for all.
func (s *Service) refuse(r Request, why error) error {
	s.refused.Add(1)
	if s.Note != nil {
		actor := ""
		if proof, err := seal.ParseEnroll(r.Proof); err == nil {
			actor = "token:" + proof.TokenID.String() // as claimed
		}
		s.Note("enroll", actor, r.Source, why.Error())
	}
	if s.failed.Failed(r.Source) {
		s.log.Warn("enrollment refused", "source", r.Source, "reason", why.Error())
	}
	return wire.Refuse(wire.CodeRefused, "enrollment refused")
}
