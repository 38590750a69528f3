package link

import (
	"context"
	"sync"

	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

// hold runs an admitted session until it ends. One over TCP ends, too, when the gateway has admitted the agent over QUIC: then
// next is the session to go on with. Without one there is an error.
//
// The attach of next makes the gateway end the older session. What that one had under way is begun anew: an unanswered
// statement is sent again, and the first heartbeat goes out at once.
func (l *Link) hold(ctx context.Context, gw string, s *session) (next *session, err error) {
	defer s.link.Close()
	if s.link.Carrier() == wirelink.QUIC {
		return nil, s.run(ctx)
	}
	running, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	wg.Go(func() {
		to := func() wirelink.Target { return l.target(gw) }
		if n, err := wirelink.OpenQUIC(ctx, l.dialer, s.link, to, l.greet); err == nil {
			next = n
			end()
		}
	})
	err = s.run(running)
	wg.Wait()
	return next, err
}
