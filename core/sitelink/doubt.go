package sitelink

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// What a gateway can be doubted for, beside what liveness finds. A gateway that keeps to the protocol does none of it, whatever its
// devices do; but for the clock, which may only be wrong.
const (
	doubtAttach    = "it reported a device that did not attach to it"
	doubtStatement = "it brought statements that no device made"
	doubtNumber    = "it said a number that cannot be"
	doubtClock     = "its times are ahead of the core's clock"
	doubtStamp     = "it says that it knows what the authority has not signed"
)

// doubtAgain is how long a gateway that was named is not named for the same thing again.
const doubtAgain = 10 * time.Minute

// maxSaid bounds the doubts of a session that wait for being committed. Beyond it they are only counted.
const maxSaid = 8

// A said is one doubt.
type said struct {
	gateway, reason, detail string
	device                  ident.DeviceID // zero: about none
}

// named knows who was named for what. There are few reasons, and only gateways of the fleet.
type named struct {
	mu    sync.Mutex
	known map[[2]string]*naming // by gateway and reason
	all   uint64                // doubts since the start
}

type naming struct {
	at    time.Time // when it was named last; zero: never
	count uint64    // since then
}

// note counts a doubt, and tells whether it is time to name the gateway for it.
func (n *named) note(s *said, now time.Time) (due bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = make(map[[2]string]*naming)
	}
	key := [2]string{s.gateway, s.reason}
	k, ok := n.known[key]
	if !ok {
		k = new(naming)
		n.known[key] = k
	}
	k.count++
	n.all++
	return k.at.IsZero() || now.Sub(k.at) >= doubtAgain
}

// begin takes the count of what is to be named now; false: it was named meanwhile.
func (n *named) begin(s *said, now time.Time) (count uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.known[[2]string{s.gateway, s.reason}]
	if !k.at.IsZero() && now.Sub(k.at) < doubtAgain {
		return 0, false
	}
	count, k.count, k.at = k.count, 0, now
	return count, true
}

// again lets it be named for this once more: it could not be committed.
func (n *named) again(s *said, count uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.known[[2]string{s.gateway, s.reason}]
	k.at, k.count = time.Time{}, k.count+count
}

// Doubted counts what gateways said, since the start, that cannot be.
func (s *Server) Doubted() uint64 {
	s.named.mu.Lock()
	defer s.named.mu.Unlock()
	return s.named.all
}

// doubt notes that a gateway said what cannot be. It does not wait.
func (u *uplink) doubt(reason, detail string, device ident.DeviceID) {
	u.say(&said{gateway: u.gw, reason: reason, detail: detail, device: device})
}

func (u *uplink) say(s *said) {
	if !u.named.note(s, time.Now()) {
		return
	}
	select {
	case u.said <- s:
	default:
	}
}

// lie notes what a gateway claimed of a device against the device's own word. Where two machines act with one key, each gateway may be right.
func (u *uplink) lie(l *liveness.Lie) {
	if l == nil {
		return
	}
	if d, ok := u.Registry.View().Device(l.Device); ok && d.State == wire.DeviceActive {
		u.say(&said{gateway: l.Gateway, reason: l.Reason, device: l.Device})
	}
}

// name puts doubts on record until ctx ends. What cannot be committed is said again when it happens again.
func (u *uplink) name(ctx context.Context) error {
	for {
		select {
		case s := <-u.said:
			count, ok := u.named.begin(s, time.Now())
			if !ok {
				continue
			}
			u.Log.Warn("gateway doubted", "gateway", s.gateway, "reason", s.reason, "detail", s.detail, "device", s.device.String(), "count", count)
			if err := u.commitDoubt(ctx, s, count); err != nil {
				u.Log.Warn("doubt not committed", "gateway", s.gateway, "err", err)
				u.named.again(s, count)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (u *uplink) commitDoubt(ctx context.Context, s *said, count uint64) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	_, err := u.Registry.Propose(ctx, &command.Doubt{Gateway: s.gateway, Reason: s.reason, Detail: s.detail, Device: s.device, Count: count})
	return err
}
