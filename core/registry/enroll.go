package registry

import (
	"fmt"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Enrolled is the result of an Enroll command that was admitted, now or before.
type Enrolled struct {
	Device  *Device           // of a device
	Gateway *Gateway          // of a gateway
	Node    *command.CoreNode // of a core node
	// Cert is the DER of the leaf to hand out; nil when this is a retry, for which that of the first try is issued again.
	Cert       []byte
	NotAfterMS int64 // end of that leaf, as the first try's command had it
	Again      bool  // the key had been enrolled by this token before
}

// enroll consumes a use of a token and admits a key. Result: *Enrolled.
//
// It is idempotent per (token, key), until 24 h after the token's end. Every reason why a token does not permit it gives
// the same refusal.
func (a *applier) enroll(c *command.Enroll) any {
	t, ok := a.view.tokens.get(c.Token)
	if !ok || t.Kind != c.Kind {
		return ErrRefused
	}
	key := ident.KeyIDOfSPKI(c.SPKI)
	if u, ok := a.view.UseOf(t.ID, key); ok {
		return a.enrolledBefore(t, u)
	}
	if !t.Open(a.now) {
		return ErrRefused
	}
	var (
		out *Enrolled
		err error
	)
	switch c.Kind {
	case seal.KindDevice:
		out, err = a.enrollDevice(t, c, key)
	case seal.KindGateway:
		out, err = a.enrollGateway(t, c, key)
	case seal.KindCore:
		out, err = a.enrollNode(t, c, key)
	default:
		return ErrRefused
	}
	if err != nil {
		return err
	}
	out.NotAfterMS = c.NotAfter
	used := *t
	used.Used++
	a.view.uses.put(&Use{Token: t.ID, Key: key, NotAfterMS: c.NotAfter})
	a.view.tokens.put(&used)
	a.auditEnrolled(t, c, out)
	return out
}

// auditEnrolled puts an admission on the audit trail.
func (a *applier) auditEnrolled(t *Token, c *command.Enroll, e *Enrolled) {
	r := AuditRecord{Actor: "token:" + t.ID.String(), Site: t.Site, Source: c.Via}
	switch {
	case e.Device != nil:
		r.Action, r.Target = "device.enroll", e.Device.ID.String()
	case e.Gateway != nil:
		r.Action, r.Target = "gateway.enroll", e.Gateway.ID()
	case e.Node != nil:
		r.Action, r.Target = "node.join", e.Node.Name
	}
	a.audit(r)
}

// enrolledBefore answers a retry with what the first try got.
func (a *applier) enrolledBefore(t *Token, u *Use) any {
	if !t.Retriable(a.now) {
		return ErrRefused
	}
	if t.Kind == seal.KindCore {
		for _, n := range a.view.fleet.Nodes {
			if n.Key == u.Key {
				return &Enrolled{Node: &n, NotAfterMS: u.NotAfterMS, Again: true}
			}
		}
		return ErrRefused
	}
	ref, ok := a.view.keys.get(u.Key)
	if !ok {
		return ErrRefused
	}
	if ref.Gateway != "" {
		g, ok := a.view.gateways.get(ref.Gateway)
		if !ok {
			return ErrRefused
		}
		if _, active := g.ActiveKey(u.Key); !active {
			return ErrRefused
		}
		return &Enrolled{Gateway: g, NotAfterMS: u.NotAfterMS, Again: true}
	}
	d, ok := a.view.devices.get(ref.Device)
	if !ok || d.State == wire.DeviceDecommissioned {
		return ErrRefused
	}
	if _, active := d.ActiveKey(u.Key); !active {
		return ErrRefused
	}
	return &Enrolled{Device: d, NotAfterMS: u.NotAfterMS, Again: true}
}

// enrollDevice makes a record, or, for a key that has one, keeps the record: the key is the identity.
func (a *applier) enrollDevice(t *Token, c *command.Enroll, key ident.KeyID) (*Enrolled, error) {
	if ref, ok := a.view.keys.get(key); ok {
		d, ok := a.view.devices.get(ref.Device)
		if !ok || d.State == wire.DeviceDecommissioned {
			return nil, ErrRefused
		}
		if d.ID != c.Device {
			return nil, ErrRetry // the certificate names another record than the one the key turned out to have
		}
		n := *d
		n.Keys = withNotAfter(n.Keys, key, c.NotAfter)
		a.putDevice(&n)
		return &Enrolled{Device: &n, Cert: c.Cert}, nil
	}
	if _, ok := a.view.devices.get(c.Device); ok || c.Device.IsZero() {
		return nil, fmt.Errorf("device %v: %w", c.Device, ErrRetry)
	}
	d := &Device{
		ID: c.Device, Site: t.Site, State: wire.DeviceActive, TokenTags: t.Tags, EnrolledMS: a.ms, Revision: a.revision(),
		Keys: []Key{{ID: key, SPKI: c.SPKI, State: KeyActive, SinceMS: a.ms, NotAfterMS: c.NotAfter}},
	}
	a.storeDevice(nil, d)
	a.view.keys.put(&keyRef{Key: key, Device: d.ID})
	a.event(EventDeviceEnrolled, a.subject(d), map[string]string{"token": t.ID.String(), "via": c.Via})
	return &Enrolled{Device: d, Cert: c.Cert}, nil
}

// enrollGateway makes a gateway, or gives one whose name is taken a new key in place of the old: a gateway's record is its
// name, and only an operator's token for its site can do this.
func (a *applier) enrollGateway(t *Token, c *command.Enroll, key ident.KeyID) (*Enrolled, error) {
	id := t.Site + "/" + c.Name
	if ref, ok := a.view.keys.get(key); ok && ref.Gateway != id {
		return nil, ErrRefused
	}
	a.ensureSite(t.Site)
	g := &Gateway{Site: t.Site, Name: c.Name, EnrolledMS: a.ms}
	old, ok := a.view.gateways.get(id)
	if ok {
		*g = *old
	}
	if _, retired := keyIn(g.Keys, key, KeyRetired); retired {
		return nil, ErrRefused // what was revoked comes back under a new key, or not at all
	}
	g.Listen, g.Revision = c.Listen, a.revision()
	g.RevokedMS, g.RevokedBy, g.Reason = 0, "", ""
	g.Runs, g.Spool, g.Forked = nil, nil, nil // of the machine before
	keys := make([]Key, 0, len(g.Keys)+1)
	for _, k := range g.Keys {
		if k.ID == key {
			continue
		}
		if k.State == KeyActive {
			k.State, k.SinceMS = KeySuperseded, a.ms
		}
		keys = append(keys, k)
	}
	g.Keys = append(keys, Key{ID: key, SPKI: c.SPKI, State: KeyActive, SinceMS: a.ms, NotAfterMS: c.NotAfter})
	a.putGateway(old, g)
	a.view.keys.put(&keyRef{Key: key, Gateway: id})
	a.event(EventGatewayEnrolled, Subject{Site: g.Site, Gateway: id}, map[string]string{"token": t.ID.String()})
	return &Enrolled{Gateway: g, Cert: c.Cert}, nil
}
