package mesh

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// bringing runs f with a courier whose connections are served by serve.
func bringing(t *testing.T, serve func(c net.Conn), f func(c *courier, dials *atomic.Int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		var wg sync.WaitGroup
		c := &courier{queue: make(chan []byte, courierQueue), dropped: new(atomic.Uint64), dial: func(context.Context) (net.Conn, error) {
			dials.Add(1)
			a, b := net.Pipe()
			wg.Go(func() {
				serve(b)
				b.Close()
			})
			return a, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { c.run(ctx) })
		f(c, &dials)
		start := time.Now()
		cancel()
		wg.Wait()
		if took := time.Since(start); took > 2*lastTime {
			t.Errorf("the stop took %v", took)
		}
	})
}

// One connection carries all packets, in order, and is dialled again when it has ended.
func TestCourierKeepsItsConnection(t *testing.T) {
	var got atomic.Int64
	serve := func(c net.Conn) {
		for range 100 {
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				return
			}
			got.Add(1)
		}
	}
	bringing(t, serve, func(c *courier, dials *atomic.Int64) {
		for range 150 {
			time.Sleep(time.Second)
			c.offer([]byte{1, 2, 3})
		}
		synctest.Wait()
		if got.Load() != 150 || dials.Load() != 2 || !c.up.Load() || c.dropped.Load() != 0 {
			t.Errorf("%d packets over %d connections, %d dropped", got.Load(), dials.Load(), c.dropped.Load())
		}
	})
}

// A sibling that takes connections and ends them at once is dialled ever more seldom.
func TestCourierBacksOff(t *testing.T) {
	bringing(t, func(net.Conn) {}, func(c *courier, dials *atomic.Int64) {
		for range 3600 {
			time.Sleep(time.Second)
			c.offer([]byte{1})
		}
		if n := dials.Load(); n > 500 || n < 100 {
			t.Errorf("%d dials in an hour", n)
		}
	})
}

// A sibling that reads nothing costs a queue, and nobody waits for it.
func TestCourierDropsForTheSlow(t *testing.T) {
	bringing(t, func(net.Conn) { time.Sleep(3 * writeTime) }, func(c *courier, _ *atomic.Int64) {
		start := time.Now()
		for range 10 * courierQueue {
			c.offer(make([]byte, 100))
		}
		if time.Since(start) != 0 || c.dropped.Load() < 9*courierQueue-1 {
			t.Errorf("after %v %d are dropped", time.Since(start), c.dropped.Load())
		}
		time.Sleep(time.Minute) // until nothing is under way
	})
}
