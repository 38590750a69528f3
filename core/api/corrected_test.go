package api

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// counts writes stretches as "on 10-20 a:5", with gateway and heartbeats, "off 20-30 a".
func counts(parts []stretch) string {
	var out []string
	for _, p := range parts {
		text := fmt.Sprintf("%s %d-", strings.TrimSuffix(presence(p.online), "line"), p.from)
		if p.to != forever {
			text += fmt.Sprint(p.to)
		}
		if text += " " + p.gateway; p.counted {
			text += fmt.Sprintf(":%d", p.beats)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestCorrected(t *testing.T) {
	fact := func(gw string, from, last, to int64, beats uint64) stretch {
		return kept(&registry.Span{Online: true, FromMS: from, LastMS: last, ToMS: to, Gateway: gw, Beats: beats, Counted: true, Kept: true})
	}
	on := func(gw string, from, to int64) stretch {
		return closed(&registry.Span{Online: true, FromMS: from, ToMS: to, LastMS: to, Gateway: gw})
	}
	told := func(gw string, from, to int64, beats uint64) stretch {
		return closed(&registry.Span{Online: true, FromMS: from, ToMS: to, LastMS: to, Gateway: gw, Beats: beats, Counted: true})
	}
	off := func(gw string, from, to int64) stretch {
		return closed(&registry.Span{FromMS: from, ToMS: to, Gateway: gw})
	}
	goesOn := func(gw string, from int64) stretch {
		return stretch{online: true, from: from, to: forever, gateway: gw, word: forever}
	}
	for _, tc := range []struct {
		name        string
		live, facts []stretch
		want        string
	}{
		{"nothing", nil, nil, ""},
		{"live alone", []stretch{told("a", 5, 9, 4), off("a", 9, 12), goesOn("a", 12)}, nil, "on 5-9 a:4, off 9-12 a, on 12- a"},
		{"the same, from the disk", []stretch{told("a", 5, 9, 4), off("a", 9, 12), goesOn("a", 12)}, []stretch{fact("a", 5, 8, 9, 4)}, "on 5-9 a:4, off 9-12 a, on 12- a"},
		{
			"several in an outage, of which live knows one",
			[]stretch{told("a", 5, 50, 7), off("a", 50, 60), goesOn("a", 60)},
			[]stretch{fact("a", 40, 47, 50, 7), fact("a", 5, 9, 12, 4), fact("a", 20, 27, 30, 5)},
			"on 5-12 a:4, off 12-20 a, on 20-30 a:5, off 30-40 a, on 40-50 a:7, off 50-60 a, on 60- a",
		},
		{
			"and it goes on",
			[]stretch{on("a", 5, 35), goesOn("a", 35)},
			[]stretch{fact("a", 5, 9, 12, 4), fact("a", 20, 27, 30, 5)},
			"on 5-12 a:4, off 12-20 a, on 20-30 a:5, off 30-35 a, on 35- a",
		},
		{"the report of the end is late", []stretch{goesOn("a", 5)}, []stretch{fact("a", 5, 9, 12, 4)}, "on 5-12 a:4, on 12- a"},
		{"twice", []stretch{on("a", 5, 20), goesOn("a", 20)}, []stretch{fact("a", 5, 9, 9, 3), fact("a", 5, 10, 13, 4)}, "on 5-13 a:4, off 13-20 a, on 20- a"},
		{
			"the gateway was killed and is back",
			[]stretch{on("a", 5, 20), goesOn("a", 20)},
			[]stretch{fact("a", 5, 12, 12, 4)},
			"on 5-12 a:4, on 12-20 a, on 20- a",
		},
		{
			"moved to another gateway",
			[]stretch{on("a", 5, 20), goesOn("b", 20)},
			[]stretch{fact("a", 5, 19, 25, 4)},
			"on 5-20 a:4, on 20- b",
		},
		{
			"moved and back, before the verdict",
			[]stretch{on("a", 5, 60), goesOn("a", 60)},
			[]stretch{fact("a", 5, 55, 60, 9), fact("b", 20, 29, 35, 3)},
			"on 5-20 a:9, on 20-29 b:3, on 29-60 a, on 60- a",
		},
		{
			"there and back in an outage",
			[]stretch{on("a", 5, 70), goesOn("a", 70)},
			[]stretch{fact("a", 5, 19, 23, 4), fact("b", 21, 44, 48, 8), fact("a", 50, 57, 60, 2)},
			"on 5-21 a:4, on 21-48 b:8, off 48-50 a, on 50-60 a:2, off 60-70 a, on 70- a",
		},
		{
			"a gateway that nobody heard of live",
			[]stretch{off("a", 40, 50), goesOn("a", 50)},
			[]stretch{fact("b", 10, 17, 20, 3), fact("b", 30, 37, 45, 2)},
			"on 10-20 b:3, off 20-30 b, on 30-45 b:2, off 45-50 a, on 50- a",
		},
		{"before anything live", []stretch{goesOn("a", 30)}, []stretch{fact("a", 5, 8, 12, 4)}, "on 5-12 a:4, off 12-30 a, on 30- a"},
		{"hidden altogether, or no longer than a moment", nil, []stretch{fact("a", 20, 25, 25, 2), fact("b", 20, 30, 30, 3), fact("a", 30, 30, 30, 9)}, ""},
	} {
		got := corrected(tc.live, tc.facts)
		if tc.want == "" && len(tc.facts) > 0 {
			var beats uint64
			for _, s := range got {
				beats += s.beats
			}
			if beats != 14 {
				t.Errorf("%s: %s: heartbeats are lost", tc.name, counts(got))
			}
			continue
		}
		if got := counts(got); got != tc.want {
			t.Errorf("%s:\n got %q\nwant %q", tc.name, got, tc.want)
		}
	}
}

// Whatever gateways say, the timeline has no hole and no moment twice, and no heartbeat of a kept span is lost.
func TestCorrectedIsATimeline(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	gateways := []string{"a", "b", "c"}
	for round := range 5000 {
		var live, facts []stretch
		at := rng.Int64N(50)
		for range rng.IntN(6) {
			to := at + rng.Int64N(40)
			live = append(live, closed(&registry.Span{Online: rng.IntN(2) == 0, FromMS: at, ToMS: to, LastMS: to, Gateway: gateways[rng.IntN(3)]}))
			at = to
		}
		live = append(live, stretch{online: rng.IntN(2) == 0, from: at, to: forever, gateway: "a", word: forever})
		beats := map[string]uint64{}
		for range rng.IntN(8) {
			from := rng.Int64N(300)
			last := from + rng.Int64N(30)
			s := registry.Span{
				Online: true, FromMS: from, LastMS: last, ToMS: last + rng.Int64N(10), Gateway: gateways[rng.IntN(3)], Beats: uint64(last), Counted: true, Kept: true,
			}
			facts = append(facts, kept(&s))
		}
		for _, f := range distinct(append([]stretch(nil), facts...)) {
			beats[f.gateway] += f.beats
		}
		out := corrected(live, facts)
		for i, s := range out {
			if i > 0 && s.from != out[i-1].to {
				t.Fatalf("round %d: %s", round, counts(out))
			}
			if s.from > s.to || s.from == s.to && !s.counted {
				t.Fatalf("round %d: empty: %s", round, counts(out))
			}
			if s.counted {
				beats[s.gateway] -= s.beats
			}
		}
		if out[len(out)-1].to != forever {
			t.Fatalf("round %d: it ends: %s", round, counts(out))
		}
		for gw, left := range beats {
			if left != 0 {
				t.Fatalf("round %d: %d heartbeats at %s are lost or shown twice: %s", round, int64(left), gw, counts(out))
			}
		}
	}
}

// spans commits what a gateway had on its disk: triples of minutes from, last, to; a heartbeat for each minute.
func (p *plant) spans(gateway string, triples ...int) {
	c := &command.Spans{Gateway: gateway}
	for i := 0; i < len(triples); i += 3 {
		ms := func(n int) int64 { return minute(triples[i+n]).UnixMilli() }
		c.Items = append(c.Items, command.Span{
			Device: p.m.id, FromMS: ms(0), LastMS: ms(1), ToMS: ms(2), Beats: uint64(triples[i+1] - triples[i]),
		})
	}
	p.commit(c)
}

// A day of outages, the device going and coming, its gateway killed. What was kept comes late, and in two batches.
func TestTimelineIsCorrected(t *testing.T) {
	p := newPlant(t)
	p.until(1)
	p.online(p.m, plantGateway, minute(1), 1)
	p.until(20)
	p.reach(false, 20)
	p.until(90)
	p.reach(true, 90)
	p.online(p.m, plantGateway, minute(80), 2)
	p.vouch(p.m, plantGateway)
	p.expect("the newest is known", "on 1-80, on 80-")
	p.until(91)
	p.spans(plantGateway, 40, 50, 50, 1, 30, 32)
	p.expect("some is known", "on 1-32, off 32-40 heartbeat_missed, on 40-50, off 50-80 site_unreachable, on 80-")
	p.spans(plantGateway, 1, 30, 32, 53, 60, 62, 66, 70, 72)
	want := "on 1-32, off 32-40 heartbeat_missed, on 40-50, off 50-53 site_unreachable, on 53-62, off 62-66 heartbeat_missed, on 66-72, off 72-80 heartbeat_missed, on 80-"
	p.expect("all is known", want)
	p.until(100)
	p.offline(p.m, plantGateway, minute(100), minute(97), 18, 0)
	p.spans(plantGateway, 80, 97, 100)
	p.expect("since", want+"100, off 100- heartbeat_missed")
}

// Pages join although the timeline is corrected while somebody reads it.
func TestPagesJoinWhenCorrected(t *testing.T) {
	p := newPlant(t)
	p.until(1)
	p.online(p.m, plantGateway, minute(1), 1)
	for n := range 10 {
		p.until(20*n + 10)
		p.offline(p.m, plantGateway, minute(20*n+10), minute(20*n+9), 1, 0)
		p.until(20*n + 20)
		p.online(p.m, plantGateway, minute(20*n+20), uint64(n)+2)
	}
	for _, order := range []string{"asc", "desc"} {
		var last time.Time
		cursor, pages := "", 0
		for more := true; more; more = cursor != "" {
			items, next := p.page(order, cursor)
			for _, it := range items {
				joint, end := it.From, it.To
				if order == "desc" {
					if joint, end = last, &it.From; it.To != nil {
						joint = *it.To
					}
				}
				if !last.IsZero() && !joint.Equal(last) {
					t.Fatalf("%s: an item begins at %v, the one before ended at %v", order, joint, last)
				}
				if end != nil {
					last = *end
				}
			}
			cursor = next
			pages++
			p.spans(plantGateway, 20*pages-8, 20*pages-4, 20*pages-3)
		}
		if pages < 5 {
			t.Errorf("%s: %d pages", order, pages)
		}
	}
}

// page reads three stretches.
func (p *plant) page(order, cursor string) ([]v1.PresenceItem, string) {
	p.t.Helper()
	target := fmt.Sprintf("/v1/devices/%v/presence?limit=3&order=%s&cursor=%s", p.m.id, order, cursor)
	l := ask[v1.List[v1.PresenceItem]](p.core, http.MethodGet, target, "", http.StatusOK)
	return l.Items, l.NextCursor
}
