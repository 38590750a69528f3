package sim

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/wire"
)

// sizeOf is the bytes of all files in a directory.
func sizeOf(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			n += i.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLongCut has a plant of 50 devices without its WAN for hours, with all that runs in the product. Each device has something to state
// every hour, and one is off for a while. Afterwards the core has every heartbeat that was answered and every statement once, and nobody
// was offline but the one. HOLDFAST_HOURS=24 takes longer than there is time for on every push.
func TestLongCut(t *testing.T) {
	t.Parallel()
	const interval = 30 * time.Second
	devices, hours := cutDevices, cutHours
	if v, ok := fromEnv(t, "HOLDFAST_HOURS"); ok {
		hours = int(v)
	}
	inPlant(t, 0, interval, func(p *plant) {
		token, err := p.Token(p.ctx, "device", "plant-7", devices)
		p.must(err)
		hour := make([]atomic.Int64, devices)
		for i := range devices {
			a := p.NewAgent(fmt.Sprintf("agent-%d", i+1), p.gw)
			p.must(a.Enroll(p.ctx, token))
			a.Facts = 10 * time.Minute
			a.Profile = func() wire.Profile {
				m := smallMachine()
				m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", hour[i].Load()))
				return m
			}
			p.devices, p.agents = append(p.devices, a), append(p.agents, p.startAgent(a))
		}
		p.sleep(5 * time.Minute)
		p.wan(p.gw, false)
		cut := time.Now()
		var off, on time.Time
		var most int64
		for h := range hours {
			for i := range hour {
				hour[i].Add(1)
			}
			p.sleep(20 * time.Minute)
			if h == hours/2 {
				off = time.Now()
				p.agents[0].Kill()
			}
			p.sleep(20 * time.Minute)
			if h == hours/2 {
				p.want(1, "offline", liveness.ReasonSiteUnreachable)
				p.agents[0], on = p.startAgent(p.devices[0]), time.Now()
			}
			p.sleep(20 * time.Minute)
			most = max(most, sizeOf(t, filepath.Join(p.gw.Dir(), "spool")))
		}
		p.wan(p.gw, true)
		p.sleep(5 * time.Minute)
		back := time.Now()
		for i := range p.devices {
			p.want(i, "online", "")
			p.agents[i].Kill()
		}
		p.sleep(5 * time.Minute)

		var beats, answered uint64
		for i, a := range p.devices {
			items := p.timeline(i)
			var got uint64
			for j, it := range items {
				got += it.Beats
				gone := i == 0 && it.From.Before(on) && it.From.After(off.Add(-3*interval))
				if it.State != "online" && it.From.After(cut.Add(-interval)) && it.From.Before(back) && !gone {
					t.Errorf("device %d was offline: %s", i, text(items, cut))
				}
				if j > 0 && !it.From.Equal(*items[j-1].To) {
					t.Errorf("device %d: a hole: %s", i, text(items, cut))
				}
			}
			kills := uint64(1)
			if i == 0 {
				kills = 2
				if was := at(items, off.Add(15*time.Minute)); was.State != "offline" {
					t.Errorf("the device that was off: %s", text(items, cut))
				}
			}
			if n := a.Answered(); got < n || got > n+kills { // one may have been heard whose answer was not read
				t.Errorf("device %d: %d heartbeats in the timeline, %d were answered: %s", i, got, n, text(items, cut))
			} else {
				answered += n
			}
			beats += got
			want := hours + 1
			if i == 0 {
				want++ // it registers when it starts
			}
			h := p.history(i)
			for j, it := range h {
				if it.Seq != uint64(j+1) || it.Epoch != 1 || it.Type != "register" {
					t.Errorf("device %d: statement %d is %+v", i, j+1, it)
				}
			}
			if len(h) != want {
				t.Errorf("device %d: %d statements, want %d", i, len(h), want)
			}
		}
		if most >= 64<<20 {
			t.Errorf("the spool had %d bytes", most)
		}
		t.Logf("%d devices, %d hours: %d heartbeats in the timeline, %d answered; at most %d bytes of spool", devices, hours, beats, answered, most)
	})
}
