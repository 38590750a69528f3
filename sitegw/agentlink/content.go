package agentlink

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Content serves the sessions of devices that fetch content, of which first was the first question, until they end or ctx does. allowed
// says why the device may have no more; nil: it may.
type Content interface {
	Serve(ctx context.Context, ls *link.Session, first wire.Fetch, allowed func() *wire.Error)
}

// Each download takes up to a MiB of memory, so their number is bounded. An agent needs one at a time, and the next one before the end of
// the older one is noticed.
const (
	maxDownloads = 64
	maxOfDevice  = 2
)

// A download is a session for content that is admitted.
type download struct {
	first   wire.Fetch
	allowed func() *wire.Error
	done    func()
}

// fetches admits a session for content. The error is what the device is told. Neither roster nor mirror hear of it.
func (s *Server) fetches(peer *ident.Peer, body []byte) (*download, error) {
	var m wire.Fetch
	if err := wire.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	allowed := func() *wire.Error { return s.mayFetch(peer) }
	if e := allowed(); e != nil {
		return nil, e
	}
	d := peer.ID.Device
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.fetching >= maxDownloads || s.downloads[d] >= maxOfDevice {
		return nil, wire.Refuse(wire.CodeBusy, "%d downloads are under way", s.fetching).After(busyAfter)
	}
	s.fetching++
	s.downloads[d]++
	s.counters.Downloads.Add(1)
	return &download{m, allowed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fetching--
		if s.downloads[d]--; s.downloads[d] == 0 {
			delete(s.downloads, d)
		}
	}}, nil
}

// mayFetch is why a device gets no content; nil: it does, because the authority says that it is active, with this key.
func (s *Server) mayFetch(peer *ident.Peer) *wire.Error {
	ask, err := s.checkState(peer)
	if ask {
		s.Uplink.Ask(peer.ID.Device)
	}
	if err != nil {
		e, ok := errors.AsType[*wire.Error](err)
		if !ok {
			e = wire.Refuse(wire.CodeInternal, "%v", err)
		}
		return e
	}
	switch d, known := s.Mirror.Device(peer.ID.Device); {
	case !known:
		return wire.Refuse(wire.CodeUnavailable, "nothing is known of the device here yet").After(busyAfter)
	case d.State == wire.DeviceQuarantined:
		return wire.Refuse(wire.CodeQuarantined, "the device is quarantined").After(time.Minute)
	}
	return nil
}

// Downloads counts the sessions for content that are open.
func (s *Server) Downloads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetching
}
