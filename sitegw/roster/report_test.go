package roster

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

func TestTransitionsPage(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		const n = 2*maxReport + 50
		for i := range n {
			r.Attached(device(i), &peer{}, []byte("attach"), time.Second, time.Second)
		}
		collect := func() (online, offline, pages int) {
			for {
				p, more := r.Transitions()
				pages++
				online, offline = online+len(p.Online), offline+len(p.Offline)
				if len(p.Online)+len(p.Offline) > maxReport {
					t.Errorf("%d entries in a report", len(p.Online)+len(p.Offline))
				}
				if !more {
					return online, offline, pages
				}
			}
		}
		if on, off, pages := collect(); on != n || off != 0 || pages != 3 {
			t.Errorf("%d online, %d offline in %d pages", on, off, pages)
		}
		if on, off, _ := collect(); on+off != 0 {
			t.Errorf("reported again: %d, %d", on, off)
		}
		r.Resync()
		if on, _, _ := collect(); on != n {
			t.Errorf("after resync %d", on)
		}
		sleep(4 * time.Second)
		if on, off, _ := collect(); on != 0 || off != n {
			t.Errorf("then %d online, %d offline", on, off)
		}
	})
}

func TestSlotsAreReused(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		for round := range 5 {
			seen := map[uint32]bool{}
			for i := range 10 {
				s := new(peer)
				e := r.Attached(device(100*round+i), s, nil, time.Second, time.Second)
				seen[e.slot] = true
				r.Detached(e, s)
			}
			if len(seen) != 10 || len(r.slots) != 10 {
				t.Errorf("round %d: %d slots in use of %d", round, len(seen), len(r.slots))
			}
			sleep(4 * time.Second)
			r.Transitions()
			if left := r.Devices(); len(left) != 0 {
				t.Errorf("round %d: %d devices stay", round, len(left))
			}
		}
	})
}

func TestDigest(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		const n = digestPage + 500
		entries := make([]*Entry, n)
		for i := range n {
			entries[i] = r.Attached(device(i), &peer{}, nil, time.Minute, time.Minute)
		}
		for i, e := range entries {
			if i != 7 {
				r.Beat(e, beat(1, time.Minute))
			}
		}
		r.Told(device(3), time.Hour)
		sleep(2 * time.Second)
		pages := r.Digest()
		if len(pages) != 2 || pages[0].Digest || !pages[1].Digest || pages[1].Count != n {
			t.Fatalf("%d pages, the last %v with %d", len(pages), pages[len(pages)-1].Digest, pages[len(pages)-1].Count)
		}
		var slots []uint32
		for _, p := range pages {
			had := len(slots)
			for slot, age := range p.Beats.All() {
				if slots = append(slots, slot); age != 2*time.Second {
					t.Fatalf("age %v", age)
				}
			}
			if len(slots)-had > digestPage {
				t.Errorf("%d devices in a message", len(slots)-had)
			}
		}
		if len(slots) != n-1 || !slices.IsSorted(slots) || slices.Contains(slots, entries[7].slot) {
			t.Errorf("%d slots", len(slots))
		}
		if told := pages[0].Told; len(told) != 1 || told[0] != (wire.DeviceInterval{Slot: entries[3].slot, IntervalMS: 3_600_000}) {
			t.Errorf("told %+v", told)
		}
		if next := r.Digest(); len(next) != 1 || len(next[0].Beats)+len(next[0].Told) != 0 || next[0].Count != n {
			t.Errorf("the next digest repeats: %d", len(next[0].Beats))
		}
	})
}

func TestRefreshedIsReported(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		e := r.Attached(device(1), &peer{}, []byte("one"), time.Minute, time.Minute)
		r.Transitions()
		<-r.Wake()
		r.Refreshed(e, []byte("two"))
		select {
		case <-r.Wake():
		default:
			t.Error("nobody was woken")
		}
		if p, _ := r.Transitions(); len(p.Online) != 1 || string(p.Online[0].Attach) != "two" {
			t.Errorf("report %+v", p)
		}
	})
}
