package registry

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/history/chain"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Refusals of a command. The state is unchanged; the error is the command's result.
var (
	ErrInitialised = errors.New("the fleet has been made already")
	ErrNoFleet     = errors.New("the fleet has not been made: run holdfast-core init")
	ErrNotFound    = errors.New("not found")
	ErrRefused     = errors.New("enrollment refused")
	ErrRetry       = errors.New("the registry changed meanwhile: try again")
	ErrExists      = errors.New("exists already")
	ErrInvalid     = errors.New("invalid")
	ErrRevoked     = errors.New("the gateway is revoked")
	ErrReplaced    = errors.New("a later run of the gateway was admitted")
)

// Effects are what applying one log entry brought about.
type Effects struct {
	Results []any    // one per command: an error, or what the command's doc says
	Records []Record // to append to the history, in order
	Events  []Event  // to tell whoever listens
}

// Apply applies the commands of one log entry, in order. It fails, with the state unchanged, only for an entry that this
// build cannot apply; the node must then stop.
func (s *State) Apply(index uint64, now time.Time, cmds [][]byte) (Effects, error) {
	decoded := make([]command.Command, len(cmds))
	for i, b := range cmds {
		c, err := command.Decode(b)
		if err != nil {
			return Effects{}, fmt.Errorf("log entry %d, command %d: %w", index, i, err)
		}
		decoded[i] = c
	}
	if now = now.UTC().Truncate(time.Millisecond); now.Before(s.view.time) { // a snapshot holds milliseconds
		now = s.view.time
	}
	s.view.index, s.view.time = index, now
	a := &applier{State: s, index: index, now: now, ms: now.UnixMilli()}
	for _, c := range decoded {
		a.out.Results = append(a.out.Results, a.apply(c))
	}
	h := &s.view.history
	for i, r := range a.out.Records {
		h.Head = chain.Next(h.Head, index, uint32(i), a.ms, uint8(r.Kind), r.Stream, r.Data)
		h.Count++
	}
	return a.out, nil
}

// An applier applies one entry.
type applier struct {
	*State
	index uint64
	now   time.Time
	ms    int64
	out   Effects
}

func (a *applier) apply(c command.Command) any {
	if i, ok := c.(*command.Init); ok {
		return a.init(i)
	}
	if a.view.fleet == nil {
		return ErrNoFleet
	}
	switch c := c.(type) {
	case command.Operated:
		return a.operate(c)
	case *command.Enroll:
		return a.enroll(c)
	case *command.Statements:
		return a.statements(c)
	case *command.Presence:
		return a.presence(c)
	case *command.Spans:
		return a.spans(c)
	case *command.Doubt:
		return a.doubt(c)
	case *command.SiteReach:
		return a.siteReach(c)
	case *command.Uplinked:
		return a.uplinked(c)
	case *command.Renewed:
		return a.renewed(c)
	case *command.OperatorsUsed:
		return a.operatorsUsed(c)
	case *command.Refusals:
		return a.refusals(c)
	case *command.SetNode:
		return a.setNode(c)
	case *command.Recover:
		return a.recover(c)
	}
	return fmt.Errorf("%T: %w", c, command.ErrUnknown)
}

// init makes the fleet. Result: nil.
func (a *applier) init(c *command.Init) any {
	if a.view.fleet != nil {
		return ErrInitialised
	}
	node := c.Node
	node.JoinedMS = a.ms
	a.view.fleet = &Fleet{
		Name: c.Fleet, ClusterEpoch: 1, Root: c.Root, CAs: c.CAs, Authority: c.Authority, Wraps: c.Wraps,
		IntervalMS: c.IntervalMS, CreatedMS: a.ms, Nodes: []command.CoreNode{node}, Generation: 1,
	}
	a.putOperator(&c.Operator, "")
	a.audit(AuditRecord{
		Actor: "core:" + node.Name, Action: "fleet.init", Target: c.Fleet, Detail: map[string]string{"operator": c.Operator.ID, "node": node.Name},
	})
	return nil
}

// createToken makes a token, and its site if that is new. Result: *Token.
func (a *applier) createToken(c *command.CreateToken) any {
	if _, ok := a.view.tokens.get(c.ID); ok {
		return fmt.Errorf("token %v: %w", c.ID, ErrExists)
	}
	if c.Site != "" {
		a.ensureSite(c.Site)
	}
	t := &Token{
		ID: c.ID, Public: c.Public, Kind: c.Kind, Site: c.Site, Tags: c.Tags, CreatedMS: a.ms, ExpiresMS: a.ms + c.TTLMS,
		Uses: c.Uses, By: c.By.Operator, Comment: c.Comment,
	}
	a.view.tokens.put(t)
	a.forgetUses()
	a.event(EventTokenCreated, Subject{Token: t.ID.String(), Site: t.Site}, map[string]string{"kind": string(t.Kind), "by": c.By.Operator})
	return t
}

// forgetUses drops the uses of tokens whose retries are no longer answered.
func (a *applier) forgetUses() {
	a.view.tokens.all(func(t *Token) bool {
		if t.Used == 0 || t.Retriable(a.now) {
			return true
		}
		var gone []*Use
		a.view.uses.after(useKey{Token: t.ID}, func(u *Use) bool {
			if u.Token != t.ID {
				return false
			}
			gone = append(gone, u)
			return true
		})
		for _, u := range gone {
			a.view.uses.delete(useKey{u.Token, u.Key})
		}
		return true
	})
}

// revokeToken ends a token. Result: *Token.
func (a *applier) revokeToken(c *command.RevokeToken) any {
	old, ok := a.view.tokens.get(c.ID)
	if !ok {
		return fmt.Errorf("token %v: %w", c.ID, ErrNotFound)
	}
	if old.RevokedMS != 0 {
		return old
	}
	t := *old
	t.RevokedMS = a.ms
	a.view.tokens.put(&t)
	a.event(EventTokenRevoked, Subject{Token: t.ID.String(), Site: t.Site}, map[string]string{"by": c.By.Operator})
	return &t
}

// ensureSite makes a site that is not there yet.
func (a *applier) ensureSite(name string) *Site {
	if s, ok := a.view.sites.get(name); ok {
		return s
	}
	s := &Site{Name: name, CreatedMS: a.ms}
	a.view.sites.put(s)
	return s
}

// setSite makes or changes a site. Result: *Site.
func (a *applier) setSite(c *command.SetSite) any {
	old, _ := a.view.sites.get(c.Site)
	limit := old.contentLimit(c)
	if err := limit.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	s := *a.ensureSite(c.Site)
	s.Content = nil
	if limit != (wire.ContentLimit{}) {
		s.Content = &limit
	}
	if c.IntervalMS != 0 {
		s.IntervalMS = c.IntervalMS
	}
	s.Revision = a.revision()
	a.view.sites.put(&s)
	a.event(EventSiteChanged, Subject{Site: s.Name}, map[string]string{"heartbeat_interval": a.view.SiteInterval(s.Name).String(), "by": c.By.Operator})
	return &s
}

// contentLimit is the site's limit with what a command changes of it. s may be nil.
func (s *Site) contentLimit(c *command.SetSite) (l wire.ContentLimit) {
	if s != nil && s.Content != nil {
		l = *s.Content
	}
	if c.ContentRate != nil {
		l.BytesPerSecond = *c.ContentRate
	}
	if c.ContentWindow != nil {
		l.Window = *c.ContentWindow
	}
	return l
}

// setTags changes the operator's tags. Result: *Device.
func (a *applier) setTags(c *command.SetTags) any {
	old, ok := a.view.devices.get(c.Device)
	if !ok {
		return fmt.Errorf("device %v: %w", c.Device, ErrNotFound)
	}
	d := *old
	d.Revision = a.revision()
	d.OperatorTags = make(map[string]*string, len(old.OperatorTags)+len(c.Set))
	maps.Copy(d.OperatorTags, old.OperatorTags)
	for _, k := range c.Remove {
		d.OperatorTags[k] = nil
	}
	for k, v := range c.Set {
		d.OperatorTags[k] = &v
	}
	if max(len(d.Tags()), len(d.OperatorTags)) > maxAllTags {
		return fmt.Errorf("device %v would have over %d tags: %w", c.Device, maxAllTags, ErrInvalid)
	}
	a.putDevice(&d)
	a.event(EventDeviceTagged, a.subject(&d), map[string]string{"by": c.By.Operator})
	return &d
}

// maxAllTags bounds the tags in force on a device, of all origins, and what its record holds of the operator's: values and
// removals. A record with more pairs would not read again.
const maxAllTags = 64

// setInterval sets a device's heartbeat interval. Result: *Device.
func (a *applier) setInterval(c *command.SetInterval) any {
	old, ok := a.view.devices.get(c.Device)
	if !ok {
		return fmt.Errorf("device %v: %w", c.Device, ErrNotFound)
	}
	d := *old
	d.IntervalMS, d.Revision = c.IntervalMS, a.revision()
	a.storeDevice(old, &d)
	a.event(EventDeviceChanged, a.subject(&d), map[string]string{"heartbeat_interval": a.view.Interval(&d).String(), "by": c.By.Operator})
	return &d
}

// release ends a quarantine. Result: *Device.
func (a *applier) release(c *command.Release) any {
	old, ok := a.view.devices.get(c.Device)
	if !ok {
		return fmt.Errorf("device %v: %w", c.Device, ErrNotFound)
	}
	if old.State != wire.DeviceQuarantined {
		return fmt.Errorf("device %v is %v, not quarantined: %w", c.Device, old.State, ErrInvalid)
	}
	d := *old
	d.State, d.Reason, d.Attach, d.Revision = wire.DeviceActive, "", nil, a.revision()
	a.storeDevice(old, &d)
	a.event(EventDeviceReleased, a.subject(&d), map[string]string{"by": c.By.Operator})
	return &d
}

// siteReach records that a site fell silent or came back. Result: nil.
func (a *applier) siteReach(c *command.SiteReach) any {
	old, ok := a.view.sites.get(c.Site)
	if !ok {
		return fmt.Errorf("site %s: %w", c.Site, ErrNotFound)
	}
	if (old.UnreachableMS == 0) == c.Reachable {
		return nil
	}
	s := *old
	s.UnreachableMS = 0
	kind := EventSiteReachable
	if c.Reachable {
		a.record(SiteStream(s.Name), KindOutage, Outage{FromMS: old.UnreachableMS, ToMS: c.AtMS})
	} else {
		s.UnreachableMS = c.AtMS
		kind = EventSiteUnreachable
	}
	a.view.sites.put(&s)
	a.event(kind, Subject{Site: s.Name}, map[string]string{"since": time.UnixMilli(c.AtMS).UTC().Format(time.RFC3339Nano)})
	return nil
}

// renewed records the new end of a key's certificate. Result: nil.
func (a *applier) renewed(c *command.Renewed) any {
	if c.Gateway != "" {
		old, ok := a.view.gateways.get(c.Gateway)
		if !ok {
			return fmt.Errorf("gateway %s: %w", c.Gateway, ErrNotFound)
		}
		g := *old
		g.Keys = withNotAfter(g.Keys, c.Key, c.NotAfter)
		a.view.gateways.put(&g)
		return nil
	}
	old, ok := a.view.devices.get(c.Device)
	if !ok {
		return fmt.Errorf("device %v: %w", c.Device, ErrNotFound)
	}
	d := *old
	d.Keys = withNotAfter(d.Keys, c.Key, c.NotAfter)
	a.putDevice(&d)
	return nil
}

func withNotAfter(keys []Key, id ident.KeyID, notAfter int64) []Key {
	out := append([]Key(nil), keys...)
	for i := range out {
		if out[i].ID == id {
			out[i].NotAfterMS = max(out[i].NotAfterMS, notAfter)
		}
	}
	return out
}
