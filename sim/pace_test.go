package sim

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/pace"
	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// hold lets time pass and looks every second: the given devices are online all the while.
func (p *plant) hold(d time.Duration, devices ...int) {
	p.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); p.sleep(time.Second) {
		for _, i := range devices {
			if d := p.device(i); d.Presence != "online" {
				p.t.Fatalf("device %d is offline (%s) at %v, last heartbeat %v", i, d.PresenceReason, time.Now(), d.LastHeartbeatAt)
			}
		}
	}
}

func (p *plant) wantInterval(want time.Duration, devices ...int) {
	p.t.Helper()
	for _, i := range devices {
		if got := p.device(i).HeartbeatIntervalS; got != want.Seconds() {
			p.t.Fatalf("device %d: interval %v s at %v, want %v", i, got, time.Now(), want)
		}
	}
}

// restartGateway kills the gateway and starts it again at once, or stops it before.
func (p *plant) restartGateway(stop func() error) {
	p.t.Helper()
	if stop == nil {
		p.gateway.Kill()
	} else {
		p.must(stop())
	}
	g, err := p.gw.Start(p.ctx)
	p.must(err)
	p.gateway, p.all = g, append(p.all, g)
}

// TestIntervalByTheGatewaysTarget has a gateway that wants two heartbeats a second and devices that are asked for more, over a
// link that loses packets: widened, kept over a restart, narrowed when most of them have gone, and nobody offline who lives.
func TestIntervalByTheGatewaysTarget(t *testing.T) {
	t.Parallel()
	inPlant(t, 16, 2*time.Second, func(p *plant) {
		everybody := make([]int, len(p.devices))
		for i := range everybody {
			everybody[i] = i
		}
		p.hold(time.Minute, everybody...)
		p.wantInterval(2*time.Second, everybody...)
		p.Net.SetWeather(netsim.Weather{Latency: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.05})
		p.gw.TargetBeats = 2 // 16 devices: 8 s, and the next step is 10
		p.restartGateway(p.gateway.Stop)
		p.hold(2*time.Minute, everybody...)
		p.wantInterval(10*time.Second, everybody...)
		p.restartGateway(nil)
		p.sleep(5 * time.Second)
		p.hold(3*time.Minute, everybody...)
		p.wantInterval(10*time.Second, everybody...)
		left := everybody[:4] // at 2 s they are 2 a second, which leaves no margin: 2.5 s, and the next step is 3
		for _, a := range p.agents[len(left):] {
			a.Kill()
		}
		p.hold(pace.Hold, left...)
		p.wantInterval(10*time.Second, left...)
		p.hold(2*time.Minute, left...)
		p.wantInterval(3*time.Second, left...)
		p.setInterval(time.Minute) // what is set above the least interval is as ever
		p.hold(5*time.Minute, left...)
		p.wantInterval(time.Minute, left...)
		p.agents[0].Kill()
		killed := time.Now()
		p.sleep(3*time.Minute - time.Minute - 10*time.Second)
		p.want(0, "online", "")
		p.sleep(2*time.Minute + 10*time.Second - time.Since(killed) + 3*time.Minute)
		p.want(0, "offline", "heartbeat_missed")
	})
}

// TestIntervalByTheCoresTarget has a core that wants one heartbeat a second of the whole fleet: its gateways hold to it, also
// while the core is away and after it has restarted.
func TestIntervalByTheCoresTarget(t *testing.T) {
	t.Parallel()
	inPlant(t, 8, 2*time.Second, func(p *plant) {
		everybody := []int{0, 1, 2, 3, 4, 5, 6, 7}
		restart := func(target uint32) {
			p.TargetBeats = target
			p.Core(1).Process().Kill()
			core, err := p.StartCore(p.ctx)
			p.must(err)
			p.all = append(p.all, core)
			p.sleep(10 * time.Second)
		}
		restart(1) // 8 devices: 8 s, and the next step is 10
		p.hold(2*time.Minute, everybody...)
		p.wantInterval(10*time.Second, everybody...)
		restart(1)
		p.hold(2*time.Minute, everybody...)
		p.wantInterval(10*time.Second, everybody...)
		p.Core(1).Process().Kill()
		p.sleep(time.Minute)
		p.restartGateway(nil)
		p.sleep(time.Minute)
		restart(100) // a restarted core that needs nothing says so at once
		p.hold(2*time.Minute, everybody...)
		p.wantInterval(2*time.Second, everybody...)
	})
}
