package registry

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A StatementResult tells what became of one statement, and how far its device is committed.
type StatementResult struct {
	Device  ident.DeviceID
	Covered Covered     // after the statement; zero: nothing is complete yet
	LogMS   int64       // log time
	Refuse  *wire.Error // nil: committed, now or before
}

// statements commits verified statements. Result: []StatementResult, one per item; an error: nothing of it was taken, see marked.
func (a *applier) statements(c *command.Statements) any {
	if slices.ContainsFunc(c.Items, func(it command.Statement) bool { return a.revoked(it.Gateway) }) {
		return ErrRevoked
	}
	if err := a.marked(c.Mark); err != nil {
		return err
	}
	out := make([]StatementResult, len(c.Items))
	for i := range c.Items {
		out[i] = a.statement(&c.Items[i])
	}
	return out
}

func (a *applier) statement(it *command.Statement) StatementResult {
	res := StatementResult{Device: it.Device, LogMS: a.ms}
	d, ok := a.view.devices.get(it.Device)
	if !ok {
		res.Refuse = wire.Refuse(wire.CodeUnknownKey, "no device %v", it.Device)
		return res
	}
	s, err := seal.ParseStatement(it.Sealed)
	if err != nil || s.Device != it.Device {
		res.Refuse = wire.Refuse(wire.CodeMalformed, "statement does not read")
		return res
	}
	if _, active := d.ActiveKey(s.Key); !active || d.State == wire.DeviceDecommissioned {
		res.Refuse = wire.Refuse(wire.CodeRetired, "the key is no longer active")
		return res
	}
	n := *d
	verdict, refuse := n.place(s)
	if refuse == nil && verdict != seen {
		refuse = a.take(&n, s, it, verdict == late)
	}
	if refuse != nil {
		res.Refuse = refuse
		if refuse.Code == wire.CodeConflict {
			detail := map[string]string{"epoch": u64(s.Epoch), "seq": u64(s.Seq), "gateway": it.Gateway, "detail": refuse.Detail}
			a.event(EventStatementConflict, a.subject(d), detail)
		}
		return res
	}
	if verdict == seen {
		n.Duplicates++
	} else {
		a.giveUp(&n)
	}
	a.putDevice(&n)
	res.Covered, _ = n.Covered()
	return res
}

// giveUp makes gaps final that the device's newest attach says it cannot fill, and notes them in its history.
func (a *applier) giveUp(n *Device) {
	if n.Attach == nil || n.Open == nil {
		return
	}
	q := n.Sequence()
	for _, l := range q.giveUp(&n.Attach.Attach) {
		a.record(DeviceStream(n.ID), KindLost, l)
		a.event(EventStatementsLost, a.subject(n), map[string]string{"epoch": u64(l.Epoch), "from": u64(l.From), "to": u64(l.To)})
	}
	n.setSequence(q)
}

// take lets a statement act on the record, and appends it to the device's history.
func (a *applier) take(n *Device, s *seal.SealedStatement, it *command.Statement, isLate bool) *wire.Error {
	var (
		kind    string
		changed []Change
		data    map[string]string
		err     error
	)
	switch s.Type {
	case seal.StatementRegister:
		kind, data = EventDeviceRegistered, make(map[string]string, 4)
		changed, err = n.register(s, a.ms)
		for _, c := range changed {
			data["changed."+c.Fact] = c.To
		}
	case seal.StatementStatus:
		kind = EventDeviceStatus
		data, err = a.takeStatus(n, s)
	case seal.StatementAlarm:
		kind = EventDeviceAlarm
		data, err = takeAlarm(s)
	default:
		return wire.Refuse(wire.CodeUnsupported, "statement type %d", s.Type)
	}
	if err != nil {
		return wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	a.record(DeviceStream(n.ID), KindStatement, StatementRecord{
		Sealed: it.Sealed, Gateway: it.Gateway, GatewayMS: it.GatewayMS, Changed: changed, Late: isLate,
	})
	data["epoch"], data["seq"], data["gateway"] = u64(s.Epoch), u64(s.Seq), it.Gateway
	a.event(kind, a.subject(n), data)
	return nil
}

// register takes over what a registration says, unless a later one has been committed. It returns what it changes.
func (d *Device) register(s *seal.SealedStatement, now int64) ([]Change, error) {
	at := Position{s.Epoch, s.Seq}
	first := d.RegisteredMS == 0
	if !first && at.Before(d.RegisteredAt) {
		_, err := s.Register() // to be refused all the same when it does not read
		return nil, err
	}
	var changed []Change
	if first || !bytes.Equal(s.Body, d.Facts) { // most registrations say what the one before said, to the byte
		r, err := s.Register()
		if err != nil {
			return nil, err
		}
		if !first {
			old := d.Registered()
			changed = diff(&old, r)
		}
		d.Facts = facts(r)
	}
	d.RegisteredMS, d.RegisteredAt = now, at
	return changed, nil
}

// facts is what a record keeps of a registration: what this build knows of it, encoded.
func facts(r *seal.Register) []byte {
	b, err := wire.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("registry: a registration that was decoded does not encode: %v", err))
	}
	return b
}

// diff lists what a registration changes of the facts that a record holds, in order of name, by the names that the API uses.
// Most change nothing, so nothing is built before a difference is found.
func diff(d, r *seal.Register) []Change {
	var out []Change
	is := func(fact, from, to string) {
		if from != to {
			out = append(out, Change{Fact: fact, From: from, To: to})
		}
	}
	p, q := &d.Profile, &r.Profile
	is("agent_version", d.AgentVersion, r.AgentVersion)
	if !slices.Equal(p.Accelerators.Value, q.Accelerators.Value) {
		is("profile.accelerators", strings.Join(p.Accelerators.Value, ","), strings.Join(q.Accelerators.Value, ","))
	}
	is("profile.arch", text(p.Arch), text(q.Arch))
	if p.CPUCores != q.CPUCores {
		is("profile.cpu_cores", number(p.CPUCores), number(q.CPUCores))
	}
	is("profile.kernel", text(p.Kernel), text(q.Kernel))
	is("profile.model", text(p.Model), text(q.Model))
	is("profile.os", text(p.OS), text(q.OS))
	if p.RAMBytes != q.RAMBytes {
		is("profile.ram_bytes", number(p.RAMBytes), number(q.RAMBytes))
	}
	is("profile.soc", text(p.SoC), text(q.SoC))
	if !slices.Equal(d.Slots, r.Slots) {
		was, now := installed(d.Slots), installed(r.Slots)
		names := maps.Clone(was)
		maps.Copy(names, now)
		for _, k := range slices.Sorted(maps.Keys(names)) {
			is("slots."+k, was[k], now[k])
		}
	}
	if !maps.Equal(d.Tags, r.Tags) {
		names := maps.Clone(d.Tags)
		if names == nil {
			names = make(map[string]string)
		}
		maps.Copy(names, r.Tags)
		for _, k := range slices.Sorted(maps.Keys(names)) {
			is("tags."+k, d.Tags[k], r.Tags[k])
		}
	}
	return out
}

// installed is what runs in each slot: a name and version, if the device knows them, and the artifact's digest.
func installed(slots []seal.Installed) map[string]string {
	out := make(map[string]string, len(slots))
	for _, s := range slots {
		if out[s.Slot] = s.Artifact.String(); s.Name != "" {
			out[s.Slot] = s.Name + "@" + s.Version + " " + out[s.Slot]
		}
	}
	return out
}

func text(f wire.Fact[string]) string { return f.Value }

func number[T uint32 | uint64](f wire.Fact[T]) string {
	if v, ok := f.Get(); ok {
		return u64(uint64(v))
	}
	return ""
}

func u64(v uint64) string { return strconv.FormatUint(v, 10) }
func i64(v int64) string  { return strconv.FormatInt(v, 10) }

// A Transition tells what became of one item of a report.
type Transition struct {
	State wire.DeviceState // of the device, after it
	Taken bool             // the report is about the device's newest attach, and counts
}

// presence commits transitions. Result: []Transition, one per item.
func (a *applier) presence(c *command.Presence) any {
	out := make([]Transition, len(c.Items))
	revoked := a.revoked(c.Gateway)
	for i := range c.Items {
		if it := &c.Items[i]; revoked && (it.Online || it.Counted) {
			continue // the gateway's word; what nobody counted is the leader's, about devices that were there
		}
		out[i] = a.transition(c.Gateway, &c.Items[i])
	}
	return out
}

func (a *applier) transition(gateway string, it *command.PresenceItem) Transition {
	d, ok := a.view.devices.get(it.Device)
	if !ok {
		return Transition{}
	}
	n := *d
	if it.Online {
		if it.Attach == nil {
			return Transition{State: d.State}
		}
		switch clone := n.attach(it.Attach, a.ms); {
		case clone == stale:
			return Transition{State: d.State} // news of a session that a later one has replaced
		case clone != "" && n.State == wire.DeviceActive:
			n.State, n.Reason, n.Revision = wire.DeviceQuarantined, clone, a.revision()
			detail := map[string]string{"reason": clone, "gateway": gateway}
			a.event(EventDeviceQuarantined, a.subject(&n), detail)
			a.auditCore("device.quarantine", a.subject(&n), detail)
		}
	} else if d.Presence.Gateway != gateway || !d.Presence.Online {
		return Transition{State: d.State} // only the gateway of the newest attach may say so
	}
	a.giveUp(&n)
	if it.Attach != nil && it.Attach.Doubts != "" {
		a.event(EventGatewayDoubted, a.subject(&n), map[string]string{"gateway": it.Attach.Doubts, "via": gateway, "reason": it.Attach.DoubtFor.String()})
	}
	a.span(d, &n, gateway, it)
	a.storeDevice(d, &n)
	return Transition{State: n.State, Taken: true}
}

// span closes the device's presence span and opens the next.
//
// A gateway's clock may be wrong, so its times are kept within what the log knows: not before the span that ends began, and
// not after now.
func (a *applier) span(old, n *Device, gateway string, it *command.PresenceItem) {
	p := old.Presence
	at := min(max(it.AtMS, p.SinceMS), a.ms)
	last := min(it.LastMS, a.ms)
	n.Presence = Presence{Online: it.Online, SinceMS: at, Gateway: unique.Make(gateway).Value(), LastMS: last, IntervalMS: it.IntervalMS, ToldMS: a.ms}
	if n.Presence.IntervalMS == 0 {
		n.Presence.IntervalMS = p.IntervalMS
	}
	if p.Online && it.Online && p.Gateway == gateway && it.AtMS <= p.SinceMS {
		n.Presence = p // told again: the span goes on
		n.Presence.ToldMS = a.ms
		return
	}
	if p.SinceMS != 0 {
		s := Span{Online: p.Online, FromMS: p.SinceMS, ToMS: at, Gateway: p.Gateway, LastMS: last}
		if p.Online && !it.Online { // what the gateway counted is of the span that it saw end
			s.Beats, s.Missed, s.Counted = it.Beats, it.Missed, it.Counted
		}
		a.record(DeviceStream(n.ID), KindSpan, s)
	}
	if it.Online != p.Online {
		kind := EventDeviceOffline
		if it.Online {
			kind = EventDeviceOnline
		}
		a.event(kind, a.subject(n), map[string]string{"gateway": gateway})
	}
}

const (
	keptRuns = 8
	stale    = "stale"
)

// attach takes over a device's newest attach at log time ms. It returns "" when the attach follows what was known, stale when it is older,
// and otherwise how it contradicts: then two machines act with one key.
func (d *Device) attach(in *command.Attach, ms int64) string {
	if d.Attach == nil {
		d.Attach = &Attach{Attach: *in, Runs: []Run{{in.Start, in.Run}}, AtMS: ms}
		return ""
	}
	old := d.Attach
	for _, r := range old.Runs {
		if r.Start == in.Start && r.Run != in.Run {
			return fmt.Sprintf("clone: start %d was made twice", in.Start)
		}
	}
	if in.Start < old.Start || in.Start == old.Start && in.Session < old.Session {
		return stale
	}
	if in.Epoch == old.Epoch && in.Highest == old.Highest && in.Chain != old.Chain {
		return fmt.Sprintf("clone: statement %d was made twice", in.Highest)
	}
	if in.Epoch == old.Epoch && in.Highest < old.Highest {
		return fmt.Sprintf("clone: statement %d was made and is gone", old.Highest)
	}
	runs := old.Runs
	if len(runs) == 0 || runs[0].Start != in.Start {
		runs = append([]Run{{in.Start, in.Run}}, runs[:min(len(runs), keptRuns-1)]...)
	}
	if old.Same(in) {
		ms = old.AtMS
	}
	d.Attach = &Attach{Attach: *in, Runs: runs, AtMS: ms}
	return ""
}
