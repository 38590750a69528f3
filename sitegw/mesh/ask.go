package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Times and bounds of asking siblings for facts.
const (
	askLook = 2 * time.Second  // how often it is looked whether somebody claims to have newer ones
	askTime = 30 * time.Second // for one exchange
	// minAsk and maxAsk are between two exchanges with one sibling; the second is for one that claims what it does not hand out.
	minAsk = 10 * time.Second
	maxAsk = 10 * time.Minute
)

// asking is what is remembered of the siblings that were asked. It belongs to the goroutine that asks.
type asking struct{ of map[string]*asked }

// asked is one sibling.
type asked struct {
	upto  seal.Stamp // of what it handed out: it is asked for what is behind that
	last  time.Time  // when it was asked; before, when it became a sibling
	wait  time.Duration
	again time.Time // not to be asked before
}

// ask asks siblings for newer facts while there is no way to the core, until ctx ends.
func (m *Mesh) ask(ctx context.Context) {
	for backoff.Sleep(ctx, backoff.Jitter(askLook, 0.2)) {
		all := m.siblings()
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // spreading load needs no secrecy; whoever claims the most is not asked first for it
		for _, s := range all {
			if ctx.Err() != nil || m.Uplink() != None {
				break
			}
			if a := m.asking.sibling(s.Name); m.due(&s, a, time.Now()) {
				m.askOne(ctx, s.Name, a)
			}
		}
		m.asking.prune(m.isListed)
	}
}

// due tells whether a sibling is to be asked now. Whoever is not said to have anything may have it nevertheless, as others can say that
// in its name; so it is asked, too, now and then.
func (m *Mesh) due(s *Sibling, a *asked, now time.Time) bool {
	switch {
	case !s.Alive || now.Before(a.again):
		return false
	case !s.Said || m.claims(&s.Meta, a):
		return true
	}
	return now.Sub(a.last) >= maxAsk
}

func (a *asking) sibling(name string) *asked {
	if a.of[name] == nil {
		a.of[name] = &asked{last: time.Now()}
	}
	return a.of[name]
}

func (a *asking) prune(listed func(string) bool) {
	for n := range a.of {
		if !listed(n) {
			delete(a.of, n)
		}
	}
}

// claims tells whether a sibling says that it has what it was not asked for yet, and the core has not told.
func (m *Mesh) claims(meta *wire.GossipMeta, a *asked) bool {
	_, list := m.Mirror.List()
	return mirrorStamp(meta).Compare(m.after(a)) > 0 || listStamp(meta).Compare(list) > 0
}

// after is the stamp behind which a sibling is asked for entries. Up to the mark of the core everything is here; what is behind it
// and here already may have come from another sibling, which may have left something out.
func (m *Mesh) after(a *asked) seal.Stamp {
	if told := m.Mirror.Told(); told.Compare(a.upto) > 0 {
		return told
	}
	return a.upto
}

// askOne asks a sibling, and notes when it may be asked next: later each time that it claims something and brings nothing.
func (m *Mesh) askOne(ctx context.Context, name string, a *asked) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	before := m.counts.taken.Load()
	err := m.exchange(ctx, name, a)
	taken := m.counts.taken.Load() - before
	if taken > 0 {
		m.Log.Info("a sibling had newer facts about the site", "gateway", name, "facts", taken)
	}
	switch {
	case errors.Is(err, errOffer):
		m.counts.refused.Add(1)
		m.Log.Error("what a sibling hands out is not believed", "gateway", name, "err", err)
	case err != nil:
		m.Log.Debug("a sibling was asked for newer facts in vain", "gateway", name, "err", err)
	}
	if a.wait = min(max(2*a.wait, minAsk), maxAsk); taken > 0 && err == nil {
		a.wait = minAsk
	}
	a.last = time.Now()
	a.again = a.last.Add(a.wait)
}

// errOffer says that a sibling handed out something that is not right.
var errOffer = errors.New("offer of a sibling")

// exchange asks a sibling and takes what it hands out. The first thing that is not right ends it, and so does the end of ctx: what was
// taken until then is good.
func (m *Mesh) exchange(ctx context.Context, name string, a *asked) error {
	conn, err := m.Dial(ctx, name, wire.PurposeMirror)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it is over
	until, _ := ctx.Deadline()
	conn.SetDeadline(until)                                                        //nolint:errcheck // ctx ends it as well
	unhook := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // likewise
	defer unhook()
	after := m.after(a)
	_, list := m.Mirror.List()
	q := wire.MirrorAsk{AfterEpoch: after.ClusterEpoch, After: after.Number, ListEpoch: list.ClusterEpoch, List: list.Number}
	frame, err := wire.AppendFrame(nil, wire.TypeMirrorAsk, q)
	if err != nil {
		return err
	}
	if _, err := conn.Write(frame); err != nil {
		return err
	}
	pages := wire.NewFrameReader(conn, wire.MaxFrame)
	for {
		p, err := nextPage(pages)
		if err != nil {
			return err
		}
		if err := m.takePage(p, &after, list); err != nil {
			return err
		}
		a.upto = after
		if !p.More {
			return nil
		}
		if len(p.Entries) == 0 {
			return fmt.Errorf("%w: an empty page, and another one behind it: %w", errOffer, wire.ErrMalformed)
		}
	}
}

func nextPage(r *wire.FrameReader) (*wire.MirrorPage, error) {
	t, body, err := r.Next()
	p := new(wire.MirrorPage)
	switch {
	case errors.Is(err, wire.ErrMalformed):
		return nil, fmt.Errorf("%w: %w", errOffer, err)
	case err != nil:
		return nil, err
	case t != wire.TypeMirrorPage:
		return nil, fmt.Errorf("%w: want a mirror_page, got %v: %w", errOffer, t, wire.ErrMalformed)
	}
	if err := wire.Unmarshal(body, p); err != nil {
		return nil, fmt.Errorf("%w: %w", errOffer, err)
	}
	if len(p.Entries) > wire.MaxPage || len(p.Orders) > len(p.Entries) {
		return nil, fmt.Errorf("%w: %d entries and %d orders, limit %d: %w", errOffer, len(p.Entries), len(p.Orders), wire.MaxPage, wire.ErrMalformed)
	}
	return p, nil
}

// takePage gives a page to the mirror. after moves with the entries, whose stamps only grow; so no sibling can go on for longer than
// it has entries that the authority signed.
func (m *Mesh) takePage(p *wire.MirrorPage, after *seal.Stamp, list seal.Stamp) (err error) {
	var devices []ident.DeviceID
	site := false
	if len(p.List) > 0 {
		if site, err = m.Mirror.OfferedList(p.List, list); err != nil {
			return fmt.Errorf("%w: %w", errOffer, err)
		}
	}
	for _, b := range p.Entries {
		stamp, id, fresh, wrong := m.Mirror.Offered(b, *after)
		if wrong != nil {
			err = fmt.Errorf("%w: %w", errOffer, wrong)
			break
		}
		if *after = stamp; fresh {
			devices = append(devices, id)
		}
	}
	if err == nil {
		devices, err = m.takeOrders(p.Orders, devices)
	}
	n := len(devices)
	if site {
		n++
	}
	if n > 0 {
		m.counts.taken.Add(uint64(n))
		m.Changed(devices, site)
	}
	return err
}

// takeOrders gives a page's orders to the mirror and adds the devices of which one was news.
func (m *Mesh) takeOrders(orders [][]byte, devices []ident.DeviceID) ([]ident.DeviceID, error) {
	for _, b := range orders {
		id, fresh, err := m.Mirror.OfferedOrder(b)
		if err != nil {
			return devices, fmt.Errorf("%w: %w", errOffer, err)
		}
		if fresh && !slices.Contains(devices, id) {
			devices = append(devices, id)
		}
	}
	return devices, nil
}
