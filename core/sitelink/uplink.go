package sitelink

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// An uplink is one session of a gateway.
type uplink struct {
	*Server
	ses     *link.Session
	peer    ident.Peer
	gw      string // site/name
	session uint64
	run     uint64          // random id of the gateway's run
	spool   *wire.SpoolEnds // as it was when the session was opened; nil: not told
	via     string          // name of the sibling that relays the session, as the gateway says; "": none
	sub     *events.Sub
	known   seal.Stamp // the gateway holds every entry of its site up to it; owned by tell

	presence chan wire.Presence // reports, in order, for the one goroutine that commits them
	submits  chan *batch        // statements, in order, likewise
	due      *due
	said     chan *said    // doubts, for the one goroutine that names gateways
	inFlight chan struct{} // bounds the requests that are being answered; a full one stops the reading
}

// serve serves the session until it ends. Reports are committed in order by one goroutine; every other request is answered by
// one of its own, so that a slow commit holds up nothing else.
func (u *uplink) serve(ctx context.Context) {
	defer u.sub.Close()
	u.Tracker.Opened(u.gw, u.session, time.Now())
	u.Tracker.Carried(u.gw, u.session, u.ses.Carrier().String(), u.via)
	defer u.Tracker.Closed(u.gw, u.session)
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, u.ses.Close)
	defer stop()
	_, repaced := u.pacer.now() // before the list is told
	g.Go(func() error { return u.read(ctx, g) })
	g.Go(func() error { return u.report(ctx) })
	g.Go(func() error { return u.commitBatches(ctx) })
	g.Go(func() error { return u.receipts(ctx) })
	g.Go(func() error { return u.name(ctx) })
	u.checkKnown(ctx)
	g.Go(func() error { return u.tell(ctx) })
	g.Go(func() error { return u.witness(ctx) })
	g.Go(func() error { return u.pace(ctx, repaced) })
	if err := g.Wait(); err != nil {
		u.Log.Info("gateway disconnected", "gateway", u.gw, "err", err)
	}
}

// read hands out what comes in. It always returns an error, which ends the session.
func (u *uplink) read(ctx context.Context, g *errgroup.Group) error {
	for {
		t, body, err := u.ses.Recv()
		if err != nil {
			return err
		}
		u.Tracker.Heard(u.gw, u.session, time.Now())
		switch t {
		case wire.TypePresence:
			var p wire.Presence
			if err := wire.Unmarshal(body, &p); err != nil {
				return u.end(err)
			}
			select {
			case u.presence <- p:
			case <-ctx.Done():
				return ctx.Err()
			}
		case wire.TypeSubmit:
			err = u.submit(ctx, body)
		case wire.TypeRelayEnroll:
			err = answer(ctx, u, g, body, u.relayEnroll)
		case wire.TypeRelayRenew:
			err = answer(ctx, u, g, body, u.relayRenew)
		case wire.TypeAsk:
			err = answer(ctx, u, g, body, u.ask)
		default:
			err = u.ses.Send(wire.TypeError, &wire.Error{Code: wire.CodeUnsupported, Ref: t})
		}
		if err != nil {
			return u.end(err)
		}
	}
}

// answer decodes a request and answers it in a goroutine of its own, when there is room for one.
func answer[M any](ctx context.Context, u *uplink, g *errgroup.Group, body []byte, f func(context.Context, *M) error) error {
	m := new(M)
	if err := wire.Unmarshal(body, m); err != nil {
		return err
	}
	select {
	case u.inFlight <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.Go(func() error {
		defer func() { <-u.inFlight }()
		ctx, cancel := context.WithTimeout(ctx, proposeTime)
		defer cancel()
		return f(ctx, m)
	})
	return nil
}

// end closes the session with the reason that err is, if the peer made it.
func (u *uplink) end(err error) error {
	if errors.Is(err, wire.ErrMalformed) {
		u.ses.CloseWith(wire.Refuse(wire.CodeMalformed, "a frame does not read"))
	}
	return err
}

func (u *uplink) relayEnroll(ctx context.Context, m *wire.RelayEnroll) error {
	out, err := u.Enroll.Enroll(ctx, enroll.Request{Enroll: m.Enroll, Via: u.peer.ID, Source: "gateway " + u.gw})
	if err != nil {
		return u.refuse(err, wire.TypeRelayEnroll, m.ID)
	}
	return u.ses.Send(wire.TypeRelayEnrolled, wire.RelayEnrolled{ID: m.ID, Enrolled: *out})
}

func (u *uplink) relayRenew(ctx context.Context, m *wire.RelayRenew) error {
	id := u.peer.ID // without a device, the gateway renews its own certificate
	if !m.Device.IsZero() {
		id = ident.Device(id.Fleet, m.Device)
	}
	out, err := u.Enroll.Renew(ctx, id, m.Renew.CSR)
	if err != nil {
		return u.refuse(err, wire.TypeRelayRenew, m.ID)
	}
	return u.ses.Send(wire.TypeRelayRenewed, wire.RelayRenewed{ID: m.ID, Renewed: *out})
}

// refuse answers a numbered request with an error.
func (u *uplink) refuse(err error, ref wire.Type, id uint64) error {
	var e *wire.Error
	if !errors.As(err, &e) {
		e = wire.Refuse(wire.CodeInternal, "the core failed")
	}
	out := *e
	out.Ref, out.ID = ref, id
	return u.ses.Send(wire.TypeError, &out)
}

// report commits the gateway's reports, in order.
func (u *uplink) report(ctx context.Context) error {
	for {
		select {
		case p := <-u.presence:
			if err := u.commit(ctx, &p); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ahead is how far in the future a gateway's clock may be before its word about a beat is not taken.
const ahead = 5 * time.Minute

// commit proposes the transitions of a report and then lets the tracker know which of them were taken. A report that cannot
// be committed ends the session: the gateway tells everything again in the next.
func (u *uplink) commit(ctx context.Context, p *wire.Presence) error {
	c := &command.Presence{Gateway: u.gw}
	limit, came := u.Wall().Add(ahead), time.Now()
	told, err := u.prove(ctx, p, came, limit.UnixMilli())
	if err != nil {
		return err
	}
	for i := range told {
		c.Items = append(c.Items, told[i].item)
	}
	for i := range p.Offline {
		o := &p.Offline[i]
		c.Items = append(c.Items, command.PresenceItem{
			Device: o.Device, AtMS: o.AtMS, LastMS: o.LastMS, Beats: o.Beats, Missed: o.Missed, Counted: true,
		})
	}
	if len(c.Items) > 0 {
		ctx, cancel := context.WithTimeout(ctx, proposeTime)
		defer cancel()
		if _, err := u.Registry.Propose(ctx, c); err != nil {
			return err
		}
	}
	v := u.Registry.View()
	var devices []ident.DeviceID // that hold what is committed
	var guests []*registry.Device
	for i := range told {
		o := &told[i]
		if !u.track(v, o, came) {
			continue
		}
		if owed(v, &o.item) {
			devices = append(devices, o.Device)
		}
		if d, ok := v.Device(o.Device); ok && d.Site != u.peer.ID.Site {
			guests = append(guests, d)
		}
	}
	for page := range slices.Chunk(guests, sitePage) { // the list of its site does not have them
		if err := u.tellEntries(v, page...); err != nil {
			return err
		}
	}
	for i := range p.Offline {
		u.Tracker.Offline(u.gw, u.session, &p.Offline[i])
	}
	u.lie(u.Tracker.Digest(u.gw, u.session, p, came, limit))
	return u.sendReceipts(u.due.note(devices, time.Now()))
}

// owed tells whether a device's attach shows that it still holds statements that are committed: the receipt was lost on its
// way, or the attach itself settles what was open.
func owed(v registry.View, it *command.PresenceItem) bool {
	d, ok := v.Device(it.Device)
	if !ok {
		return false
	}
	c, ok := d.Covered()
	if !ok {
		return false
	}
	a := it.Attach
	oldest := registry.Position{Epoch: a.Epoch, Seq: a.Lowest}
	if a.OldestEpoch != 0 {
		oldest = registry.Position{Epoch: a.OldestEpoch, Seq: a.OldestSeq}
	}
	return !registry.Position{Epoch: c.Epoch, Seq: c.Seq}.Before(oldest)
}

// current tells whether a committed report is about the device's newest attach. An older one, kept and told again, is no
// word about where the device is now.
func current(v registry.View, gw string, it *command.PresenceItem) bool {
	d, ok := v.Device(it.Device)
	if !ok || d.Presence.Gateway != gw || d.Attach == nil {
		return false
	}
	a := &d.Attach.Attach
	return a.Start == it.Attach.Start && a.Run == it.Attach.Run && a.Session == it.Attach.Session
}

var (
	errAttach = errors.New("the attach does not prove it")
	// errUnknown is for what this node does not know, and may only not know yet.
	errUnknown = errors.New("the device or its key is not known")
)

// online holds a report that a device is online against the device's own signature.
func (u *uplink) online(v registry.View, o *wire.DeviceOnline) (command.PresenceItem, error) {
	a, err := seal.ParseAttach(o.Attach)
	if err != nil {
		return command.PresenceItem{}, err
	}
	d, ok := v.Device(o.Device)
	if !ok {
		return command.PresenceItem{}, errUnknown
	}
	if a.Device != o.Device || a.Gateway != u.peer.ID.String() {
		return command.PresenceItem{}, errAttach
	}
	k, ok := d.ActiveKey(a.Key)
	if !ok {
		return command.PresenceItem{}, errUnknown
	}
	pub, err := u.keys.get(&k)
	if err != nil {
		return command.PresenceItem{}, err
	}
	if err := a.Verify(pub); err != nil {
		return command.PresenceItem{}, err
	}
	return command.PresenceItem{
		Device: o.Device, Online: true, AtMS: o.SinceMS, LastMS: o.LastMS, IntervalMS: o.IntervalMS,
		Attach: &command.Attach{
			Start: a.Start, Run: a.Run, Session: a.Session, Epoch: a.Epoch, Lowest: a.Lowest, Highest: a.Highest, Chain: a.Chain,
			OldestEpoch: a.OldestEpoch, OldestSeq: a.OldestSeq, Doubts: a.Doubts, SilentMS: a.SilentMS, DoubtFor: a.DoubtFor,
		},
	}, nil
}
