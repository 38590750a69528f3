package link

import (
	"context"
	"sync"

	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

// hold runs an admitted session with the gateway at an address until it ends. It ends, too, when there is a better one to go on
// with, which is next, at the address where: over QUIC instead of TCP, or with a gateway that is to be preferred. Without one
// there is an error.
//
// The attach of next makes the gateway end the older session, or takes the device's presence to the other one. What the older one
// had under way is begun anew: an unanswered statement is sent again, and the first heartbeat goes out at once.
func (l *Link) hold(ctx context.Context, at string, s *session) (next *session, where string, err error) {
	defer s.link.Close()
	running, end := context.WithCancel(ctx)
	defer end()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	goOn := func(n *session, addr, why string) {
		mu.Lock()
		defer mu.Unlock()
		if next != nil {
			n.link.Close()
			return
		}
		next, where, l.why = n, addr, why
		end()
	}
	if s.link.Carrier() != wirelink.QUIC {
		wg.Go(func() {
			to := func() wirelink.Target { return l.target(at) }
			if n, err := wirelink.OpenQUIC(ctx, l.dialer, s.link, to, l.greet); err == nil {
				goOn(n, at, "quic works")
			}
		})
	}
	home := l.isHome(s.gateway.Site)
	wg.Go(func() {
		if n, addr, why := l.look(running, use{s, at, home}); n != nil {
			goOn(n, addr, why)
		}
	})
	err = s.run(running)
	end()
	wg.Wait()
	if next == nil {
		where = at
	}
	return next, where, err
}
