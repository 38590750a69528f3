package sim

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// A journal keeps the lines of a log.
type journal struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, strings.TrimSpace(string(bytes.Clone(p))))
	return len(p), nil
}

var _ io.Writer = (*journal)(nil)

var carrierField = regexp.MustCompile(`carrier=(\w+)`)

// carrier is what the newest line with the message says of the carrier, "" without one, and how many lines there are.
func (j *journal) carrier(msg string) (last string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, "msg="+msg) || strings.Contains(l, `msg="`+msg+`"`) {
			n++
			if m := carrierField.FindStringSubmatch(l); m != nil {
				last = m[1]
			}
		}
	}
	return last, n
}

// A blockade is a plant on which UDP is blocked and unblocked, and what its processes say of their carriers.
type blockade struct {
	*plant
	agents  []*journal
	gateway *journal
}

// onCarrier waits until everybody's newest session runs over the carrier, and returns how long that took. Meanwhile no device may
// be shown offline.
func (b *blockade) onCarrier(want string, limit time.Duration) time.Duration {
	b.t.Helper()
	begun := time.Now()
	for {
		b.allOnline()
		missing := 0
		for _, j := range b.agents {
			if c, _ := j.carrier("attached"); c != want {
				missing++
			}
		}
		if c, _ := b.gateway.carrier("uplink open"); c != want {
			missing++
		}
		took := time.Since(begun)
		if missing == 0 {
			return took
		}
		if took > limit {
			b.t.Fatalf("%d of %d sessions are not over %s after %v", missing, len(b.agents)+1, want, limit)
		}
		b.sleep(250 * time.Millisecond)
	}
}

// allOnline checks that no device is shown offline. For the moment in which a new uplink has said nothing yet it may be shown as
// recovering.
func (b *blockade) allOnline() {
	b.t.Helper()
	for i := range b.devices {
		if d := b.device(i); d.Presence != "online" {
			b.t.Fatalf("device %d is %s/%s at %v (last heartbeat %v)", i, d.Presence, d.PresenceReason, time.Now(), d.LastHeartbeatAt)
		}
	}
}

// logged makes the processes that are started from now on write to a journal.
func (b *blockade) logged() *journal {
	j := new(journal)
	b.Log = slog.New(slog.NewTextHandler(j, nil))
	return j
}

// addAgent enrolls and starts one more device.
func (b *blockade) addAgent() {
	b.t.Helper()
	token, err := b.Token(b.ctx, "device", "plant-7", 1)
	b.must(err)
	b.agents = append(b.agents, b.logged())
	a := b.NewAgent(fmt.Sprintf("agent-%d", len(b.agents)), b.gw)
	b.must(a.Enroll(b.ctx, token))
	b.devices = append(b.devices, a)
	b.startAgent(a)
}

// inBlockade runs f with a plant of n agents, everybody on QUIC.
func inBlockade(t *testing.T, n int, weather netsim.Weather, f func(b *blockade)) {
	t.Helper()
	inPlant(t, 0, 30*time.Second, func(p *plant) {
		p.Net.SetWeather(weather)
		b := &blockade{plant: p}
		p.must(p.gateway.Stop())
		b.gateway = b.logged()
		gw, err := p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, gw)
		b.sleep(time.Second)
		for range n {
			b.addAgent()
		}
		b.sleep(2 * time.Second)
		b.onCarrier("quic", 10*time.Second)
		f(b)
	})
}

// TestUDPBlocked blocks UDP at the gateway, on both of its links, and lets it through again: once, and then again and again.
func TestUDPBlocked(t *testing.T) {
	t.Parallel()
	for name, weather := range map[string]netsim.Weather{
		"quiet": {Latency: 5 * time.Millisecond}, "lossy": {Latency: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.02},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBlockade(t, 5, weather, func(b *blockade) {
				host := b.gw.Addr.Addr()
				for range 5 {
					b.Net.BlockUDP(host, true)
					live := b.onCarrier("tcp", 20*time.Second)
					begun := time.Now()
					b.addAgent() // which enrolls over TCP, too
					b.sleep(time.Until(begun.Add(5 * time.Second)))
					b.onCarrier("tcp", 0)
					for range 40 { // it holds
						b.sleep(15 * time.Second)
						b.allOnline()
					}
					b.onCarrier("tcp", 0)
					b.Net.BlockUDP(host, false)
					back := b.onCarrier("quic", 5*time.Minute)
					for range 20 {
						b.sleep(15 * time.Second)
						b.allOnline()
					}
					b.onCarrier("quic", 0)
					t.Logf("live sessions were over TCP after %v, a new device within 5s, and all were back after %v", live, back)
				}
				for i, j := range b.agents {
					h := b.history(i)
					if len(h) != 1 {
						t.Errorf("device %d registered %d times", i, len(h))
					}
					if _, n := j.carrier("attached"); n > 12 {
						t.Errorf("device %d attached %d times, want about twice a blockade", i, n)
					}
				}
			})
		})
	}
}
