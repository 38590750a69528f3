package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	listPage    = 100                   // devices
	listCeiling = 20 * time.Millisecond // p99 of a page
	// heapCeiling is what a device may take of a core node's live heap, in bytes: 1.3 KiB.
	heapCeiling = 1331
)

// heaps reports what a device takes of a core node's heap, as it was read when the registry was filled.
func heaps(_ context.Context, b *bench) error {
	f := &b.world.fill
	each := func(heap uint64) float64 { return (float64(heap) - float64(f.Empty)) / float64(f.Devices) }
	b.add("heap.enrolled", each(f.Enrolled), "B", fmt.Sprintf("live heap per device, %d of them just enrolled, registered and online: log, registry and history of one node, over the same without devices (%.1f MiB)",
		f.Devices, float64(f.Empty)/mib))
	b.add("heap.later", each(f.Later), "B", "the same when their enrollments can no longer be repeated")
	b.add("heap.forgetting", float64(f.Forgetting)/float64(time.Millisecond), "ms", "the one command that forgets all those enrollments, to its commit")
	restored := float64(f.Restored) / float64(f.Devices)
	b.add("heap.restored", restored, "B", "live heap per device of the registry alone, as a node has it that read it from a snapshot")
	for _, when := range []struct {
		name string
		heap float64
	}{{"just enrolled", each(f.Enrolled)}, {"later", each(f.Later)}, {"later, restored from a snapshot", restored}} {
		b.judge(verdict{
			name: "core heap per device, " + when.name, target: "at most 1.3 KiB", unit: "B", own: when.heap, ratio: when.heap / heapCeiling, limit: 1,
			note: fmt.Sprintf("live heap, %d devices", f.Devices),
		})
	}
	return nil
}

// listRound is one walk through the whole list at each of two nodes.
type listRound struct{ leader, follower asked }

func (r *listRound) foreign() float64 { return max(r.leader.foreign, r.follower.foreign) }

// lists measures how long one page of the list of devices takes, anywhere in it.
func lists(ctx context.Context, b *bench) error {
	bearers, err := b.world.operators(ctx)
	if err != nil {
		return err
	}
	lead, err := b.world.leader(ctx)
	if err != nil {
		return err
	}
	c := &client{w: b.world, bearers: bearers}
	var rounds []listRound
	for range b.size.listRounds {
		var r listRound
		if r.leader, err = c.walk(ctx, b.world.cores[lead]); err != nil {
			return err
		}
		if r.follower, err = c.walk(ctx, b.world.cores[(lead+1)%clusterNodes]); err != nil {
			return err
		}
		rounds = append(rounds, r)
	}
	reportLists(b, rounds)
	return b.listNodes(ctx, c, lead)
}

// walk reads the whole list, page by page, as of now: no page may be behind what was committed.
func (c *client) walk(ctx context.Context, node *coreNode) (asked, error) {
	cursor, seen, last := "", 0, ""
	a, err := c.window(ctx, 0, func(a *asked) (bool, error) {
		var page v1.List[v1.Device]
		path := fmt.Sprintf("/v1/devices?limit=%d", listPage)
		if cursor != "" {
			path += "&cursor=" + url.QueryEscape(cursor)
		}
		if err := c.ask(ctx, a, &page, node, request{method: http.MethodGet, path: path}); err != nil {
			return true, err
		}
		for i := range page.Items {
			if page.Items[i].ID <= last {
				return true, fmt.Errorf("%s behind %s: %w", page.Items[i].ID, last, errList)
			}
			last = page.Items[i].ID
		}
		seen += len(page.Items)
		cursor = page.NextCursor
		return cursor == "", nil
	})
	if err == nil && seen != c.w.filled {
		err = fmt.Errorf("%d devices, want %d: %w", seen, c.w.filled, errList)
	}
	return a, err
}

var errList = errors.New("the list is not as it should be")

func reportLists(b *bench, all []listRound) {
	rounds := quieter(all, func(r listRound) float64 { return r.foreign() })
	for _, at := range []struct {
		name string
		get  func(r *listRound) *asked
	}{
		{"leader", func(r *listRound) *asked { return &r.leader }},
		{"follower", func(r *listRound) *asked { return &r.follower }},
	} {
		p99 := func(r listRound) float64 { return micros(at.get(&r).percentile(0.99)) / 1e3 }
		b.add("list."+at.name+"_p50", median(rounds, func(r listRound) float64 { return micros(at.get(&r).percentile(0.5)) / 1e3 }), "ms", fmt.Sprintf("%d pages of %d devices, every answer as of the moment of asking; others took %.0f %% of a core",
			len(at.get(&rounds[0]).took), listPage, 100*median(rounds, func(r listRound) float64 { return at.get(&r).foreign })))
		b.add("list."+at.name+"_p99", median(rounds, p99), "ms", "")
		best, worst := extremes(rounds, p99)
		b.judge(verdict{
			name: "API list page at the " + at.name + ", p99", target: "at most 20 ms", unit: "ms", own: median(rounds, p99), ratio: median(rounds, p99) / (micros(listCeiling) / 1e3), limit: 1,
			note: fmt.Sprintf("%d of %d devices, HTTPS on loopback, one client; median of the quieter %d of %d walks through the list, %.1f to %.1f", listPage, b.world.filled, len(rounds), len(all), best, worst),
		})
	}
}

// listNodes adds what else a core with so many devices is like: a write to it, and the memory of its nodes.
func (b *bench) listNodes(ctx context.Context, c *client, lead int) error {
	w, err := c.writes(ctx, b.world.cores[lead], b.size.writeWindow)
	if err != nil {
		return err
	}
	b.add("list.write_p50", micros(w.percentile(0.5)), "us", fmt.Sprintf("PUT of a site's interval at the leader with %d devices in the fleet; p99 %.0f us", b.world.filled, micros(w.percentile(0.99))))
	for i, n := range b.world.cores {
		h, err := holdings(ctx, n.child)
		if err != nil {
			return err
		}
		what := "a follower"
		if i == lead {
			what = "the leader"
		}
		b.add("list."+n.Name+"_heap", float64(h.heap.Heap)/mib, "MiB", fmt.Sprintf("heap of %s after a collection, %.0f B of live objects per device, all of the node's included; resident %.0f MiB, %.0f before it",
			what, float64(h.heap.Live)/float64(b.world.filled), float64(h.rss)/mib, float64(h.loose)/mib))
	}
	return nil
}
