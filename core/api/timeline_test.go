package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// text writes stretches as "on 10-20, off 20-30 site_unreachable".
func text(parts []stretch) string {
	var out []string
	for _, p := range parts {
		to := fmt.Sprint(p.to)
		if p.to == forever {
			to = ""
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %d-%s %s", strings.TrimSuffix(presence(p.online), "line"), p.from, to, p.reason)))
	}
	return strings.Join(out, ", ")
}

func TestSplit(t *testing.T) {
	on := func(from, to, word int64) stretch {
		return stretch{online: true, from: from, to: to, word: word, beats: 9, missed: 1}
	}
	out := func(pairs ...int64) (o []registry.Outage) {
		for i := 0; i < len(pairs); i += 2 {
			o = append(o, registry.Outage{FromMS: pairs[i], ToMS: pairs[i+1]})
		}
		return o
	}
	for _, tc := range []struct {
		name    string
		s       stretch
		outages []registry.Outage
		want    string
	}{
		{"no outage", on(10, 20, 20), nil, "on 10-20"},
		{"elsewhere", on(10, 20, 10), out(1, 10, 20, 30), "on 10-20"},
		{"vouched for throughout", on(10, 50, 49), out(20, 30), "on 10-50"},
		{"two, vouched for throughout", on(10, 50, 45), out(12, 20, 30, 40), "on 10-50"},
		{"never heard of again", on(10, 50, 20), out(20, 40), "on 10-20, off 20-40 site_unreachable, on 40-50"},
		{"vouched for in part", on(10, 50, 30), out(20, 40), "on 10-30, off 30-40 site_unreachable, on 40-50"},
		{"the second only", on(10, 50, 25), out(15, 20, 30, 40), "on 10-30, off 30-40 site_unreachable, on 40-50"},
		{"ends within", on(10, 30, 20), out(20, 40), "on 10-20, off 20-30 site_unreachable"},
		{"begins within", on(25, 50, 0), out(20, 40), "off 25-40 site_unreachable, on 40-50"},
		{"lies within", on(25, 30, 0), out(20, 40), "off 25-30 site_unreachable"},
		{"goes on, cut", on(10, forever, 20), out(20, 40), "on 10-20, off 20-40 site_unreachable, on 40-"},
		{"goes on, in an outage", on(10, forever, 20), out(20, forever), "on 10-20, off 20- site_unreachable"},
		{"offline", stretch{from: 10, to: 50, reason: "heartbeat_missed"}, out(20, 40), "off 10-50 heartbeat_missed"},
		{"closed without a word", closed(&registry.Span{Online: true, FromMS: 10, ToMS: 50}), out(20, 30), "on 10-50"},
		{"empty", on(20, 20, 0), out(10, 30), "on 20-20"},
	} {
		parts := tc.s.split(tc.outages)
		if got := text(parts); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
		var beats, missed uint64
		for _, p := range parts {
			beats, missed = beats+p.beats, missed+p.missed
		}
		if beats != tc.s.beats || missed != tc.s.missed {
			t.Errorf("%s: %d beats and %d missed after the split, were %d and %d", tc.name, beats, missed, tc.s.beats, tc.s.missed)
		}
	}
}

// A plant's day: what its timeline says while the link is down, and after.
type plant struct {
	*core
	m *machine
}

const plantGateway = "plant-7/gw-a"

func newPlant(t *testing.T) *plant {
	t.Helper()
	c := newCore(t)
	c.gateway("plant-7", "gw-a")
	return &plant{c, c.enroll(c.token(seal.KindDevice, "plant-7"))}
}

func minute(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }

// until moves the log's clock to minute n.
func (p *plant) until(n int) { p.pass(minute(n).Sub(p.wall())) }

func (p *plant) reach(reachable bool, n int) {
	p.commit(&command.SiteReach{Site: "plant-7", Reachable: reachable, AtMS: minute(n).UnixMilli()})
}

// timeline reads the presence, in pages of the given size, as "on 1-2".
func (p *plant) timeline(limit int, order string) string {
	var out []string
	for cursor := ""; ; {
		target := fmt.Sprintf("/v1/devices/%v/presence?limit=%d&order=%s&cursor=%s", p.m.id, limit, order, cursor)
		page := ask[v1.List[v1.PresenceItem]](p.core, http.MethodGet, target, "", http.StatusOK)
		for _, it := range page.Items {
			to := ""
			if it.To != nil {
				to = fmt.Sprint(it.To.Sub(start).Minutes())
			}
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %v-%s %s", strings.TrimSuffix(it.State, "line"), it.From.Sub(start).Minutes(), to, it.Reason)))
			if it.Gateway != plantGateway {
				p.t.Errorf("gateway %q", it.Gateway)
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if order == "desc" {
		slices.Reverse(out)
	}
	return strings.Join(out, ", ")
}

func (p *plant) expect(when, want string) {
	p.t.Helper()
	for _, limit := range []int{1, 2, 1000} {
		for _, order := range []string{"asc", "desc"} {
			if got := p.timeline(limit, order); got != want {
				p.t.Errorf("%s, %s in pages of %d: got %q, want %q", when, order, limit, got, want)
			}
		}
	}
}

func TestTimelineOfAnOutage(t *testing.T) {
	p := newPlant(t)
	p.expect("before the first session", "")
	p.until(1)
	p.online(p.m, plantGateway, minute(1), 1)
	p.vouch(p.m, plantGateway)
	p.expect("online", "on 1-")
	p.until(10)
	p.offline(p.m, plantGateway, minute(10), minute(9), 16, 2)
	p.expect("offline", "on 1-10, off 10- heartbeat_missed")
	p.until(12)
	p.online(p.m, plantGateway, minute(12), 2)
	p.until(20)
	p.reach(false, 20)
	p.expect("the link is down", "on 1-10, off 10-12 heartbeat_missed, on 12-20, off 20- site_unreachable")
	p.until(40)
	p.reach(true, 40)
	p.tracker = liveness.New(10 * time.Second) // the node was started anew
	p.server.Tracker = p.tracker
	p.tracker.Lead(true, time.Now())
	p.expect("the link is back, the gateway has not spoken", "on 1-10, off 10-12 heartbeat_missed, on 12-20, off 20-40 site_unreachable, on 40- recovering")
	p.vouch(p.m, plantGateway)
	p.expect("the gateway has spoken", "on 1-10, off 10-12 heartbeat_missed, on 12-")
	p.until(50)
	p.offline(p.m, plantGateway, minute(50), minute(49), 70, 3)
	p.expect("closed since", "on 1-10, off 10-12 heartbeat_missed, on 12-50, off 50- heartbeat_missed")
}

// The gateway was lost in the outage: nobody ever told what became of the device.
func TestTimelineOfALostGateway(t *testing.T) {
	p := newPlant(t)
	p.until(1)
	p.online(p.m, plantGateway, minute(1), 1)
	p.until(20)
	p.reach(false, 20)
	p.until(40)
	p.reach(true, 40)
	p.until(45)
	p.offline(p.m, plantGateway, minute(45), minute(19), 36, 0)
	p.expect("expired", "on 1-20, off 20-40 site_unreachable, on 40-45, off 45- heartbeat_missed")
	items := ask[v1.List[v1.PresenceItem]](p.core, http.MethodGet, "/v1/devices/"+p.m.id.String()+"/presence", "", http.StatusOK).Items
	if items[0].Beats != 36 || items[1].Beats != 0 || items[2].Beats != 0 {
		t.Errorf("got %+v", items)
	}
}

// More outages than one read of the history returns.
func TestTimelineOfAFlappingLink(t *testing.T) {
	p := newPlant(t)
	const flaps = 1100
	for i := range flaps {
		p.reach(false, 2*i)
		p.reach(true, 2*i+1)
	}
	p.until(2 * flaps)
	// A device that was last heard in the middle of the 40th outage from the beginning, and expired in the middle of the 42nd.
	p.commit(&command.Presence{Gateway: plantGateway, Items: []command.PresenceItem{{
		Device: p.m.id, Online: true, AtMS: minute(10).UnixMilli(), Attach: &command.Attach{Start: 1, Run: 1, Session: 1},
	}}})
	at := func(n float64) time.Time { return start.Add(time.Duration(n * float64(time.Minute))) }
	p.offline(p.m, plantGateway, at(84.5), at(80.5), 1, 0)
	p.expect("flapping", "on 10-80.5, off 80.5-81 site_unreachable, on 81-82, off 82-83 site_unreachable, on 83-84, off 84-84.5 site_unreachable, off 84.5- heartbeat_missed")
}

// A read is as of one moment of the log: what was committed after its view is not on its pages.
func TestTimelineIsOfOneMoment(t *testing.T) {
	p := newPlant(t)
	p.online(p.m, plantGateway, minute(1), 1)
	p.offline(p.m, plantGateway, minute(2), minute(2), 1, 0)
	view := p.View()
	p.online(p.m, plantGateway, minute(3), 2)
	p.offline(p.m, plantGateway, minute(4), minute(4), 1, 0)
	d, _ := view.Device(p.m.id)
	for order, limit := range map[string]int{"asc": 2, "desc": 100} { // 2: the page ends within what is newer
		in := &historyInput{Order: order, Paging: Paging{Limit: limit}}
		recs, next, err := p.server.records(t.Context(), view, d.ID, in, registry.KindSpan)
		if err != nil || len(recs) != 1 || next != "" {
			t.Errorf("%s: %d records, next %q, %v", order, len(recs), next, err)
		}
	}
}
