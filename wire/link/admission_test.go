package link_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// isBusy tells whether a dial was refused in a way that an agent answers with patience.
func isBusy(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code == wire.CodeBusy && errors.Is(err, link.ErrClosed)
}

// outcomes dials n times at once and counts who got a connection and who was told that the gateway is busy.
func (w *world) outcomes(n int) (in, busy int) {
	w.t.Helper()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for range n {
		wg.Go(func() {
			s, err := w.dial(link.Options{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in++
				s.Close()
			case isBusy(err):
				busy++
			default:
				w.t.Errorf("a dial failed with %v", err)
			}
		})
	}
	wg.Wait()
	return in, busy
}

// drain accepts whoever comes, as a gateway does, until the test ends.
func (w *world) drain() {
	var wg sync.WaitGroup
	ctx := w.t.Context()
	w.t.Cleanup(wg.Wait)
	wg.Go(func() {
		for {
			if _, err := w.ln.Accept(ctx); err != nil {
				return
			}
		}
	})
}

// Beyond the rate a dial is refused before its handshake, and a moment later there is room again.
func TestHandshakeRate(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{Handshakes: 20, Unproved: 1000}, func(t *testing.T, w *world) {
		t.Helper()
		w.drain()
		// Not every refusal is sent: who hears nothing asks again a moment later, and may find room then. So what is bounded is
		// how many got in since the beginning, whenever a crowd's last dial ended.
		begin, all := time.Now(), 0
		for range 2 {
			in, busy := w.outcomes(80)
			all += in
			if most := 20 + int(20*time.Since(begin).Seconds()); all < 20 || all > most+1 || busy == 0 || busy != 80-in {
				t.Errorf("%d got in within %v, of the last 80 %d were told that it is busy", all, time.Since(begin), busy)
			}
		}
		time.Sleep(5 * time.Second) // the least that an agent waits
		if in, busy := w.outcomes(15); in != 15 || busy != 0 {
			t.Errorf("later %d got in, %d were told that it is busy", in, busy)
		}
	})
}

// A crowd within the rate is taken on as it comes: nobody has to wait because others do, however many are accepted at once.
func TestCrowdGetsIn(t *testing.T) {
	inWorld(t, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		w.drain()
		for range 3 {
			if in, busy := w.outcomes(120); in != 120 || busy != 0 {
				t.Errorf("%d got in, %d were told that it is busy", in, busy)
			}
			time.Sleep(time.Second)
		}
	})
}

// Whoever shows a certificate that is not taken, again and again, shuts the door on its own address, and on no other.
func TestFailedHandshakesCountByAddress(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		w.drain()
		stranger := identtest.New(t, "plant", time.Now()).Certificate(ident.Device("plant", ident.NewDeviceID()), time.Now())
		bad := w.transport(deviceHost+1, nil)
		fails := func() error {
			s, err := bad.Dial(t.Context(), w.gateway, identtest.Client{Cert: stranger}.Raw(wire.ALPNAgent), link.Options{})
			if err == nil {
				_, _, err = s.RecvWithin(time.Minute)
				s.Close()
			}
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
			return err
		}
		n := 0
		for ; n < 500 && !isBusy(fails()); n++ {
		}
		if n < 100 || n > 200 {
			t.Errorf("refused after %d bad handshakes", n)
		}
		if in, _ := w.outcomes(1); in != 1 {
			t.Error("another address pays for it")
		}
		time.Sleep(5 * time.Second)
		if isBusy(fails()) {
			t.Error("never let in again")
		}
	})
}

// Clients that begin a handshake and go silent hold a bounded part of the door, and those who prove their address get in
// meanwhile.
func TestSilentClientsHoldNobodyUp(t *testing.T) {
	inWorldOver(t, link.QUIC, link.Options{}, func(t *testing.T, w *world) {
		t.Helper()
		w.drain()
		const silent = 100
		var wg sync.WaitGroup
		defer wg.Wait()
		for i := range silent {
			host := byte(50 + i)
			tr := w.transport(host, nil)
			w.net.Deaf(tr.Addr(), true)
			wg.Go(func() {
				if _, err := tr.Dial(t.Context(), w.gateway, w.fleet.Endpoint(w.device).Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{}); err == nil {
					t.Error("a client that hears nothing got in")
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		begin := time.Now()
		if in, busy := w.outcomes(20); in != 20 {
			t.Errorf("%d got in, %d were told that it is busy", in, busy)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("they took %v", d)
		}
	})
}
