package api

import (
	"math"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// forever is the end of what goes on, in Unix ms.
const forever = math.MaxInt64

// A stretch of a device's timeline. Times are Unix ms.
type stretch struct {
	online        bool
	from, to      int64 // to: forever when it goes on
	gateway       string
	reason        string
	beats, missed uint64
	counted       bool  // beats and missed are somebody's count
	last          int64 // of a kept span: its last heartbeat
	// word is until when the gateway vouches for it: an outage of the site before that is corrected, because the gateway
	// told of later heartbeats when it was back.
	word int64
}

// closed is a span from the history. Its last heartbeat is how far the gateway's word goes; one that does not say it is taken
// at its word to its end.
func closed(sp *registry.Span) stretch {
	s := stretch{
		online: sp.Online, from: sp.FromMS, to: sp.ToMS, gateway: sp.Gateway, beats: sp.Beats, missed: sp.Missed, counted: sp.Counted, word: sp.LastMS,
	}
	if !s.online {
		s.reason = liveness.ReasonHeartbeatMissed
	}
	if s.word == 0 {
		s.word = s.to
	}
	return s
}

// ongoing is the span that a device is in.
func ongoing(p *registry.Presence, verdict liveness.Verdict) stretch {
	s := stretch{online: p.Online, from: p.SinceMS, to: forever, gateway: p.Gateway, reason: verdict.Reason, word: forever}
	switch verdict.Reason {
	case liveness.ReasonSiteUnreachable:
		s.reason, s.word = "", verdict.Since.UnixMilli() // the outage itself gives the reason to its part
	case liveness.ReasonRecovering:
		s.word = verdict.Last.UnixMilli()
	}
	return s
}

// shadow is the part of the stretch that an outage hides: what no gateway vouches for.
func (s stretch) shadow(o registry.Outage) (from, to int64) {
	return max(s.from, s.word, o.FromMS), min(s.to, o.ToMS)
}

// cutBy tells whether the outage shows in the stretch.
func (s stretch) cutBy(o registry.Outage) bool {
	from, to := s.shadow(o)
	return s.online && from < to
}

// split cuts the outages, which are in order of time and apart from each other, out of the stretch. The counts of heartbeats
// are known for the whole stretch only, so the first part carries them.
func (s stretch) split(outages []registry.Outage) []stretch {
	var out []stretch
	for _, o := range outages {
		if !s.cutBy(o) {
			continue
		}
		from, to := s.shadow(o)
		if from > s.from {
			head := s
			head.to, head.reason = from, ""
			out = append(out, head)
			s.beats, s.missed, s.counted = 0, 0, false
		}
		out = append(out, stretch{
			from: from, to: to, gateway: s.gateway, reason: liveness.ReasonSiteUnreachable, beats: s.beats, missed: s.missed, counted: s.counted,
		})
		s.beats, s.missed, s.counted = 0, 0, false
		if to == s.to {
			return out
		}
		s.from = to
	}
	return append(out, s)
}

// item is the stretch as the API writes it.
func (s stretch) item() v1.PresenceItem {
	out := v1.PresenceItem{
		State: presence(s.online), From: at(s.from), Gateway: s.gateway, Reason: s.reason, Beats: s.beats, Missed: s.missed, Counted: s.counted,
	}
	if s.to != forever {
		to := at(s.to)
		out.To = &to
	}
	return out
}
