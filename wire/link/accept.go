package link

import (
	"context"
	"sync"

	"github.com/quic-go/quic-go"
)

// An acceptor takes connections out of the library's queue, which has 32 places and refuses whom it has no place for: the whole
// handshake of a crowd's member would be in vain because this side was slow for a moment. So several goroutines wait for them at
// any time, and there is a place for each handshake that can be unfinished.
type acceptor struct {
	ln    *quic.Listener
	ready chan *quic.Conn // capacity maxUnfinished: a connection in it counts as one, so it is never full

	end  chan struct{} // closed when the listener accepts no more
	once sync.Once
	err  error // why; set before end is closed
}

// acceptors are the goroutines: so many connections more than its places can the library hand out in one moment.
const acceptors = 64

// accepting starts the goroutines of an acceptor. They end with the listener or its transport, and wg then knows it.
func accepting(ln *quic.Listener, wg *sync.WaitGroup) *acceptor {
	a := &acceptor{ln: ln, ready: make(chan *quic.Conn, maxUnfinished), end: make(chan struct{})}
	for range acceptors {
		wg.Go(a.wait)
	}
	return a
}

func (a *acceptor) wait() {
	for {
		c, err := a.ln.Accept(context.Background())
		if err != nil {
			a.over(err)
			return
		}
		if h := handshakeOf(c); h != nil {
			h.completed()
		}
		select {
		case a.ready <- c:
		case <-a.end:
			c.CloseWithError(0, "") //nolint:errcheck // nobody has heard of it
		}
	}
}

func (a *acceptor) over(err error) {
	a.once.Do(func() {
		a.err = err
		close(a.end)
	})
}

// next waits for a connection whose handshake is complete.
func (a *acceptor) next(ctx context.Context) (*quic.Conn, error) {
	select {
	case c := <-a.ready:
		if h := handshakeOf(c); h != nil {
			h.over() // somebody serves it, so there is room for another handshake
		}
		return c, nil
	case <-a.end:
		return nil, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
