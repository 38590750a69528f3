package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A meddler is what a relay runs that wants to read or change what it carries: it wraps the streams to the core.
type meddler struct {
	how string // what it does to some pieces

	mu      sync.Mutex
	rand    *rand.Rand
	on      bool
	carried bytes.Buffer // all that it read, of both ways
	meddled int
}

func (m *meddler) wrap(addr string, c net.Conn) net.Conn {
	if addr != uplinkAddr {
		return c
	}
	return &meddled{Conn: c, m: m}
}

// pass is what the meddler makes of a piece.
func (m *meddler) pass(p []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.carried.Write(p)
	p = bytes.Clone(p)
	if !m.on || len(p) < 100 || m.rand.IntN(5) != 0 { // some of a session gets through, and the handshake mostly
		return p
	}
	m.meddled++
	at := m.rand.IntN(len(p))
	switch m.how {
	case "flips":
		p[at] ^= 1 << m.rand.IntN(8)
	case "inserts":
		p = append(p[:at:at], append([]byte("inserted"), p[at:]...)...)
	case "drops":
		p = append(p[:at:at], p[at+1:]...)
	case "replays":
		p = append(p, p...)
	case "repeats from before":
		old := m.carried.Bytes()
		from := m.rand.IntN(len(old))
		p = append(p, old[from:min(from+500, len(old))]...)
	}
	return p
}

// A meddled stream is the relay's own end of one.
type meddled struct {
	net.Conn
	m    *meddler
	rest []byte
}

// Write implements net.Conn: towards the core.
func (c *meddled) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(c.m.pass(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read implements net.Conn: from the core.
func (c *meddled) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		n, err := c.Conn.Read(p)
		if n == 0 {
			return n, err
		}
		c.rest = c.m.pass(p[:n])
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// TestMeddlingRelay lets a device state a secret, and more, through a relay that reads all it carries and changes some of it. It reads
// nothing of it, what it changes ends sessions and becomes no message, and once it stops everything has arrived as it was stated.
func TestMeddlingRelay(t *testing.T) {
	t.Parallel()
	const marker = "a-marker-that-nobody-may-read"
	for seed, how := range []string{"flips", "inserts", "drops", "replays", "repeats from before"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			inPair(t, 1, 10*time.Second, func(p *pair) {
				m := &meddler{how: how, rand: rand.New(rand.NewPCG(uint64(seed), 7))}
				p.must(p.runs[1].Stop())
				p.gws[1].Stream = m.wrap
				p.startGateway(1)
				p.sleep(20 * time.Second)
				for i := range p.devices {
					profile := p.devices[i].Profile
					p.devices[i].Profile = func() wire.Profile {
						f := profile()
						f.Kernel = wire.Known(f.Kernel.Value + marker)
						return f
					}
					p.must(p.agents[i].Stop())
					p.agents[i] = p.startAgent(p.devices[i])
				}
				// To its sibling gw-a goes over TCP, whose window is never full here: crypto/tls waits for a mutex when it reads a broken
				// record while a write is held up, and virtual time stands still for that.
				p.Net.BlockUDP(p.gws[0].Addr.Addr(), true)
				p.wan(p.gws[0], false)
				p.waitFor(0, "gw-b", time.Minute)
				p.sleep(time.Minute)
				m.set(true)
				p.sleep(5 * time.Minute)
				meddled := m.set(false)
				p.waitFor(0, "gw-b", 2*time.Minute)
				p.sleep(time.Minute)
				if meddled < 5 {
					t.Errorf("it meddled %d times", meddled)
				}
				carried := m.read()
				if len(carried) < 10_000 {
					t.Errorf("it carried %d bytes", len(carried))
				}
				if !bytes.Contains(carried, []byte(wire.ALPNUplink)) {
					t.Error("it sees not even what a handshake shows: the test looks in the wrong place")
				}
				for _, secret := range []string{marker, "6.12.", p.devices[0].ID, "plant-7"} {
					if bytes.Contains(carried, []byte(secret)) {
						t.Errorf("the relay reads %q", secret)
					}
				}
				if said := p.history(0); len(said) < 20 || !bytes.Contains(fmt.Append(nil, said), []byte(marker)) {
					t.Errorf("%d statements, the marker is not in them", len(said))
				}
				for _, doubt := range []string{"gateway.doubted", "conflict"} {
					if e := p.events(doubt); e != "" {
						t.Errorf("%s: %s", doubt, e)
					}
				}
				t.Logf("%d pieces meddled with, %d bytes carried", meddled, len(carried))
				p.judge(20)
			})
		})
	}
}

// set turns the meddling on or off, and tells how often there was any.
func (m *meddler) set(on bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
	return m.meddled
}

// read is all that it has carried.
func (m *meddler) read() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.carried.Bytes())
}
