package registry

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Refusals of a request for how it was repeated, or for what it took for granted.
var (
	ErrReused   = errors.New("the idempotency key was used for another request")
	ErrRevision = errors.New("the record was changed meanwhile")
)

// A deed is what an operator's command does, as permission and audit see it.
type deed struct {
	action  Action
	scope   Scope
	name    string // noun.verb
	target  string
	site    string
	detail  map[string]string
	do      func() any
	device  ident.DeviceID // whose revision counts, if any
	siteRev string         // as device, for a site
	gwRev   string         // as device, for a gateway
	artRev  wire.Digest    // as device, for an artifact
}

// operate applies an operator's command: it asks for the permission as of this entry, lets a repeated request have the
// result of the first time, applies it, and puts it on the audit trail. All or nothing of that is in the one entry.
func (a *applier) operate(c command.Operated) any {
	by := c.Actor()
	d, err := a.deed(c)
	if err != nil {
		return err
	}
	who, _ := a.view.operators.get(by.Operator)
	if err := Permit(who, d.action, d.scope, a.now); err != nil {
		return err
	}
	if by.Once != nil {
		if r, ok := a.view.repeats.get(repeatKey{by.Operator, by.Once.Key}); ok {
			return a.again(r, by.Once)
		}
	}
	if err := a.unchanged(by, &d); err != nil {
		return err
	}
	res := d.do()
	if err, refused := res.(error); refused {
		return err
	}
	a.audit(AuditRecord{
		Actor: "operator:" + by.Operator, Action: d.name, Target: d.target, Site: d.site, Request: by.Request, Source: by.Source, Detail: d.detail,
	})
	if by.Once != nil {
		a.remember(by, res)
	}
	return res
}

// deed says what a command does. What it is about must exist, as far as permission depends on it.
func (a *applier) deed(c command.Operated) (deed, error) {
	switch c := c.(type) {
	case *command.CreateToken:
		d := deed{
			name: "token.create", target: c.ID.String(), site: c.Site, do: func() any { return a.createToken(c) },
			detail: map[string]string{"kind": string(c.Kind), "uses": u64(uint64(c.Uses)), "ttl_ms": i64(c.TTLMS)},
		}
		d.action, d.scope = TokenAction(c.Kind, c.Site)
		return d, nil
	case *command.RevokeToken:
		t, ok := a.view.tokens.get(c.ID)
		if !ok {
			return deed{}, fmt.Errorf("token %v: %w", c.ID, ErrNotFound)
		}
		d := deed{name: "token.revoke", target: c.ID.String(), site: t.Site, do: func() any { return a.revokeToken(c) }}
		d.action, d.scope = TokenAction(t.Kind, t.Site)
		return d, nil
	case *command.SetSite:
		return deed{
			action: ActOperate, scope: ScopeSite(c.Site), name: "site.set", target: c.Site, site: c.Site, siteRev: c.Site,
			do: func() any { return a.setSite(c) }, detail: siteDetail(c),
		}, nil
	case *command.SetTags:
		return a.deviceDeed("device.tag", c.Device, func() any { return a.setTags(c) }, tagDetail(c))
	case *command.SetInterval:
		return a.deviceDeed("device.set", c.Device, func() any { return a.setInterval(c) },
			map[string]string{"heartbeat_interval_ms": u64(uint64(c.IntervalMS))})
	case *command.Release:
		return a.deviceDeed("device.release", c.Device, func() any { return a.release(c) }, nil)
	case *command.RevokeGateway:
		g, ok := a.view.gateways.get(c.Gateway)
		if !ok {
			return deed{}, fmt.Errorf("gateway %s: %w", c.Gateway, ErrNotFound)
		}
		return deed{
			action: ActAdminister, scope: ScopeSite(g.Site), name: "gateway.revoke", target: c.Gateway, site: g.Site, gwRev: c.Gateway,
			do: func() any { return a.revokeGateway(c) }, detail: a.revokeDetail(c, g),
		}, nil
	case *command.Assign:
		return a.deviceDeed(assignName(c.Verb), c.Device, func() any { return a.assign(c) }, a.assignDetail(c))
	case *command.AddArtifact, *command.DeleteArtifact, *command.SetPublishers:
		return a.publishing(c)
	case *command.CreateOperator:
		return deed{
			action: ActAdminister, scope: ScopeFleet(), name: "operator.create", target: c.Operator.ID, do: func() any { return a.createOperator(c) },
			detail: map[string]string{"name": c.Operator.Name, "role": c.Operator.Role, "sites": strings.Join(c.Operator.Sites, ",")},
		}, nil
	case *command.RevokeOperator:
		return deed{
			action: ActAdminister, scope: ScopeFleet(), name: "operator.revoke", target: c.ID, do: func() any { return a.revokeOperator(c) },
		}, nil
	case *command.RemoveNode:
		return deed{
			action: ActAdminister, scope: ScopeFleet(), name: "node.remove", target: c.Name, do: func() any { return a.removeNode(c) },
		}, nil
	}
	return deed{}, fmt.Errorf("%T: %w", c, ErrForbidden)
}

// TokenAction is what it takes to make or end an enrollment token: devices enter one site, a gateway serves whoever comes,
// and a core node holds the keys of all.
func TokenAction(k seal.Kind, site string) (Action, Scope) {
	switch k {
	case seal.KindDevice:
		return ActOperate, ScopeSite(site)
	case seal.KindGateway:
		return ActOperate, ScopeFleet()
	case seal.KindCore:
		return ActAdminister, ScopeFleet()
	}
	return ActNone, ScopeFleet()
}

func (a *applier) deviceDeed(name string, id ident.DeviceID, do func() any, detail map[string]string) (deed, error) {
	d, ok := a.view.devices.get(id)
	if !ok {
		return deed{}, fmt.Errorf("device %v: %w", id, ErrNotFound)
	}
	return deed{
		action: ActOperate, scope: ScopeSite(d.Site), name: name, target: id.String(), site: d.Site, device: id, do: do, detail: detail,
	}, nil
}

func siteDetail(c *command.SetSite) map[string]string {
	out := map[string]string{"heartbeat_interval_ms": u64(uint64(c.IntervalMS))}
	if c.ContentRate != nil {
		out["content_bytes_per_second"] = u64(*c.ContentRate)
	}
	if c.ContentWindow != nil {
		out["content_window"] = *c.ContentWindow
	}
	return out
}

func tagDetail(c *command.SetTags) map[string]string {
	out := make(map[string]string, len(c.Set)+1)
	for k, v := range c.Set {
		out["set."+k] = v
	}
	if len(c.Remove) > 0 {
		gone := append([]string(nil), c.Remove...)
		sort.Strings(gone)
		out["removed"] = strings.Join(gone, ",")
	}
	return out
}

// revision is what a record that is changed now gets as its revision: the number of the audit record that the change is about
// to make. The log index would not do, because changes that share an entry would share it, and an operator who saw the first
// could overwrite the second unseen.
func (a *applier) revision() uint64 { return a.view.audit.Count + 1 }

// unchanged refuses a change of a record that is no longer what its operator saw.
func (a *applier) unchanged(by *command.Actor, d *deed) error {
	if by.Revision == 0 {
		return nil
	}
	var now uint64
	switch {
	case !d.device.IsZero():
		if r, ok := a.view.devices.get(d.device); ok {
			now = r.Revision
		}
	case d.siteRev != "":
		if r, ok := a.view.sites.get(d.siteRev); ok {
			now = r.Revision
		}
	case d.gwRev != "":
		if r, ok := a.view.gateways.get(d.gwRev); ok {
			now = r.Revision
		}
	case !d.artRev.IsZero():
		if r, ok := a.view.artifacts.get(d.artRev); ok {
			now = r.Revision
		}
	}
	if now != by.Revision {
		return fmt.Errorf("revision %d, not %d: %w", now, by.Revision, ErrRevision)
	}
	return nil
}

// A Repeat is the result of a request with an idempotency key. It is kept for keepRepeats of log time.
type Repeat struct {
	Operator string   `cbor:"1,keyasint"`
	Key      [32]byte `cbor:"2,keyasint"`
	Body     [32]byte `cbor:"3,keyasint"`
	Turn     uint64   `cbor:"4,keyasint"` // orders repeats by age
	AtMS     int64    `cbor:"5,keyasint"`
	Kind     byte     `cbor:"6,keyasint,omitempty"` // of the record that is the result; 0: none
	Result   []byte   `cbor:"7,keyasint,omitempty"` // CBOR
}

func (r *Repeat) key() repeatKey { return repeatKey{r.Operator, r.Key} }

type repeatKey struct {
	operator string
	key      [32]byte
}

func compareRepeats(a, b repeatKey) int {
	if c := strings.Compare(a.operator, b.operator); c != 0 {
		return c
	}
	return bytes.Compare(a.key[:], b.key[:])
}

// A turn leads from the age of a repeat to it.
type turn struct {
	turn uint64
	of   repeatKey
}

const (
	keepRepeats = 24 * 3600 * 1000 // ms
	// maxRepeats bounds the results kept, at about 0.5 KB each. The oldest go first: only a flood of requests makes that
	// earlier than a day.
	maxRepeats = 50_000
)

// remember keeps the result of a request with an idempotency key, and forgets those that are too old.
func (a *applier) remember(by *command.Actor, res any) {
	r := &Repeat{Operator: by.Operator, Key: by.Once.Key, Body: by.Once.Body, Turn: 1, AtMS: a.ms}
	if last, ok := a.view.repeated.t.Max(); ok {
		r.Turn = last.v.turn + 1
	}
	r.Kind = resultKind(res)
	if r.Kind != 0 {
		b, err := wire.Marshal(res)
		if err != nil {
			panic(fmt.Sprintf("registry: %T does not encode: %v", res, err))
		}
		r.Result = b
	}
	a.putRepeat(r)
	for {
		first, ok := a.view.repeated.t.Min()
		if !ok {
			return
		}
		old, ok := a.view.repeats.get(first.v.of)
		if ok && old.AtMS+keepRepeats > a.ms && a.view.repeats.len() <= maxRepeats {
			return
		}
		a.view.repeats.delete(first.v.of)
		a.view.repeated.delete(first.v.turn)
	}
}

func (s *State) putRepeat(r *Repeat) {
	s.view.repeats.put(r)
	s.view.repeated.put(&turn{turn: r.Turn, of: r.key()})
}

// resultKind is the kind of a result that is a record, as snapshots number them.
func resultKind(res any) byte {
	switch res.(type) {
	case *Device:
		return snapDevice
	case *Site:
		return snapSite
	case *Gateway:
		return snapGateway
	case *Token:
		return snapToken
	case *Operator:
		return snapOperator
	case *Artifact:
		return snapArtifact
	case *PublisherSet:
		return snapPublishers
	}
	return 0
}

// again is the answer to a request whose idempotency key is known.
func (a *applier) again(r *Repeat, once *command.Once) any {
	if r.Body != once.Body {
		return ErrReused
	}
	var res any
	switch r.Kind {
	case snapDevice:
		res = new(Device)
	case snapSite:
		res = new(Site)
	case snapGateway:
		res = new(Gateway)
	case snapToken:
		res = new(Token)
	case snapOperator:
		res = new(Operator)
	case snapArtifact:
		res = new(Artifact)
	case snapPublishers:
		res = new(PublisherSet)
	default:
		return nil
	}
	if err := wire.Unmarshal(r.Result, res); err != nil {
		return fmt.Errorf("the result of the first time does not read: %w", err)
	}
	return res
}
