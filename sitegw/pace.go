package sitegw

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
)

// DefaultTargetBeats is thirty thousand devices at the usual 30 s, more than a gateway takes connections from; with shorter
// intervals it keeps heartbeats at a twentieth of a core of a server, and at half a core of a small board.
const DefaultTargetBeats = 1000

func (s *Settings) targetBeats() uint32 { return cmp.Or(s.TargetBeats, DefaultTargetBeats) }

// paceFile is the base name of the two files that the pace is kept in.
const paceFile = "pace"

// storedPace is the pace on disk, so that a crowd that comes back after a restart is welcomed with the interval that it had,
// even while the core is away.
type storedPace struct {
	OwnMS  uint32 `cbor:"1,keyasint,omitempty"`
	CoreMS uint32 `cbor:"2,keyasint,omitempty"`
}

// A paceStore keeps the pace. Errors of the disk cost the memory of it, and are logged.
type paceStore struct {
	slots *durable.Slots
	log   *slog.Logger
}

func (s paceStore) load() roster.Pace {
	var p storedPace
	b, err := s.slots.Load()
	if err == nil {
		err = wire.Unmarshal(b, &p)
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("the pace of before does not read: beginning without", "err", err)
		}
		return roster.Pace{}
	}
	return roster.Pace{Own: stored(p.OwnMS), Core: stored(p.CoreMS)}
}

// stored is an interval from the disk, held to what an agent accepts.
func stored(ms uint32) time.Duration { return min(time.Duration(ms)*time.Millisecond, time.Hour) }

func (s paceStore) save(p roster.Pace) {
	b, err := wire.Marshal(storedPace{OwnMS: wire.Millis(p.Own), CoreMS: wire.Millis(p.Core)})
	if err == nil {
		err = s.slots.Save(b, 0o600)
	}
	if err != nil {
		s.log.Error("the pace is not stored: after a restart the one before counts", "err", err)
	}
}

// keepPace stores the pace whenever it changes, until ctx ends.
func (g *Gateway) keepPace(ctx context.Context, s paceStore) {
	for {
		select {
		case <-g.roster.Repaced():
		case <-ctx.Done():
			return
		}
		p := g.roster.Pace()
		g.Log.Info("the least heartbeat interval changed", "own", p.Own.String(), "core", p.Core.String(), "target_beats", g.targetBeats())
		s.save(p)
	}
}

// busyWindow is what the load is averaged over: longer than it takes a thousand devices to come back, because their handshakes
// keep a gateway busy and no longer interval would relieve it of them.
const busyWindow = time.Minute

// A lastBusy remembers what was measured, for those who ask in between. It may be used from any goroutine.
type lastBusy struct {
	measure func() float64
	share   atomic.Uint64 // math.Float64bits
}

// ask measures; 0: not known now.
func (l *lastBusy) ask() float64 {
	share := l.measure()
	if share > 0 {
		l.share.Store(math.Float64bits(share))
	}
	return share
}

// last is the share that was measured last; 0: none was.
func (l *lastBusy) last() float64 { return math.Float64frombits(l.share.Load()) }

// A busyMeter measures the share of its processors that this process keeps busy.
type busyMeter struct {
	cpu func() time.Duration // CPU time of the process so far
	at  time.Time
	had time.Duration
}

func newBusyMeter() *busyMeter { return &busyMeter{cpu: cpuTime, at: time.Now(), had: cpuTime()} }

// busy is the share, from 0 to 1, once for each window that has ended, and 0 in between.
func (m *busyMeter) busy() float64 {
	now := time.Now()
	span := now.Sub(m.at)
	if span < busyWindow {
		return 0
	}
	had := m.cpu()
	share := (had - m.had).Seconds() / span.Seconds() / float64(runtime.GOMAXPROCS(0))
	m.at, m.had = now, had
	return min(max(share, 0), 1)
}

// cpuTime is what the kernel counts for this process; 0 when it does not say.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
