// Package witness keeps heads of the core's audit trail at a gateway, so that whoever rewrites the trail later is contradicted
// by what he had signed before.
//
// A head is believed for the authority's signature alone. The trail goes forward in (cluster epoch, seq): an older head is
// passed over, and a head that contradicts one seen before is an alarm, with both as its evidence. docs/gateway-files.md
// describes the files.
package witness

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	logFile   = "witness.log"
	alarmFile = "witness.alarm"
	// keepEvery is the least time between two heads that are kept: a head a minute is what the core sends.
	keepEvery = time.Minute
	// maxSealed bounds a sealed head, in bytes; one of today has about 200.
	maxSealed = 1 << 10
	// maxTimeMS is the end of the year 9999, beyond which a time has no text.
	maxTimeMS = 253402300799999
	// queueLength is how many heads wait for the disk. One that finds no room is passed over: the next one says more.
	queueLength = 8
)

// Config of a Witness. All fields are required.
type Config struct {
	Dir       string // the gateway's data directory
	Fleet     string
	Authority ed25519.PublicKey
	Wall      func() time.Time
	Log       *slog.Logger
}

// Witness is a gateway's witness. Take may be called from any goroutine; everything else belongs to Run.
type Witness struct {
	Config
	heads chan head

	kept    *kept     // nil: not open
	newest  Line      // of all that were seen; zero: none
	due     time.Time // when the next head may be kept
	pending bool      // newest is not kept yet
	alarms  alarms
	noise   *rate.Limiter // of the log

	alarmed atomic.Uint64
	seq     atomic.Uint64
}

// A head came from a core node.
type head struct {
	sealed []byte
	from   string
}

// New makes a witness; Run keeps its files.
func New(c Config) *Witness {
	return &Witness{
		Config: c, heads: make(chan head, queueLength), alarms: alarms{path: filepath.Join(c.Dir, alarmFile)},
		noise: rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
}

// Path is where the witness of a data directory keeps its heads.
func Path(dir string) string { return filepath.Join(dir, logFile) }

// Take hands over a sealed head that came from a core node. It does not block and copies what it keeps.
func (w *Witness) Take(sealed []byte, from string) {
	select {
	case w.heads <- head{sealed: slices.Clone(sealed[:min(len(sealed), maxSealed+1)]), from: from}:
	default:
	}
}

// Alarms counts the heads that were forged or contradicted another one, since the start.
func (w *Witness) Alarms() uint64 { return w.alarmed.Load() }

// Seq is the number of the newest record of the trail that a head vouched for; 0: none yet.
func (w *Witness) Seq() uint64 { return w.seq.Load() }

// Run keeps what is taken until ctx ends. No failure of the disk ends it: a plant does not stop for its witness.
func (w *Witness) Run(ctx context.Context) {
	w.reopen()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case h := <-w.heads:
			w.take(h)
		case <-t.C:
		case <-ctx.Done():
			w.end()
			return
		}
		if w.pending && !time.Now().Before(w.due) {
			w.keep()
		}
		if w.pending {
			t.Reset(time.Until(w.due))
		}
	}
}

// end takes what still waits and keeps the newest head, however short the time since the one before.
func (w *Witness) end() {
	for len(w.heads) > 0 {
		w.take(<-w.heads)
	}
	if w.pending {
		w.keep()
	}
	if w.kept != nil {
		if err := w.kept.close(); err != nil {
			w.Log.Error("witness: close", "err", err)
		}
	}
}

// reopen reads the file of heads kept.
func (w *Witness) reopen() {
	k, newest, err := openKept(w.Dir, w.Log)
	if err != nil {
		w.Log.Error("witness: heads of the audit trail cannot be kept, trying again with the next one", "err", err)
		return
	}
	w.kept = k
	if newest.Seq == 0 || w.newest.after(&newest) {
		return
	}
	// What was seen while the file could not be read is held against it now.
	seen := w.newest
	w.newest, w.pending = newest, false
	w.seq.Store(newest.Seq)
	if before, known := w.find(&seen); known && before.Hash != seen.Hash {
		w.fork(&seen, &before, "")
	}
}

var errSize = errors.New("not of a head's size")

// open verifies a sealed head.
func (w *Witness) open(sealed []byte) (*seal.AuditHead, error) {
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("over %d bytes: %w", maxSealed, errSize)
	}
	h, err := seal.OpenAuditHead(sealed, w.Authority)
	switch {
	case err != nil:
		return nil, err
	case h.Fleet != w.Fleet || h.Seq == 0 || h.LogTimeMS < 0 || h.LogTimeMS > maxTimeMS:
		return nil, fmt.Errorf("head %d of fleet %.80q at %d ms, want one of %q: %w", h.Seq, h.Fleet, h.LogTimeMS, w.Fleet, seal.ErrSignature)
	}
	return h, nil
}

// take judges one head.
func (w *Witness) take(in head) {
	h, err := w.open(in.sealed)
	if err != nil {
		w.alarm(&Alarm{Reason: ReasonInvalid, From: in.from, Detail: err.Error(), Sealed: in.sealed})
		return
	}
	line := Line{
		Seq: h.Seq, Hash: hex.EncodeToString(h.Hash[:]), LogTime: time.UnixMilli(h.LogTimeMS).UTC(), ClusterEpoch: h.ClusterEpoch, Sealed: in.sealed,
	}
	if before, known := w.find(&line); known {
		if before.Hash != line.Hash {
			w.fork(&line, &before, in.from)
		}
		return
	}
	if w.newest.Seq != 0 && !line.after(&w.newest) {
		w.Log.Debug("witness: an older head passed over", "seq", line.Seq, "newest", w.newest.Seq, "core", in.from)
		return
	}
	w.newest, w.pending = line, true
	w.seq.Store(line.Seq)
}

// fork reports two heads of the same record.
func (w *Witness) fork(now, before *Line, from string) {
	w.alarm(&Alarm{
		Reason: ReasonFork, From: from, Sealed: now.Sealed, Against: before.Sealed,
		Detail: fmt.Sprintf("record %d of cluster epoch %d has hash %s, and had %s", now.Seq, now.ClusterEpoch, now.Hash, before.Hash),
	})
}

// find looks for a head of the same record among those seen. The one found has its sealed bytes only if its hash is another.
func (w *Witness) find(l *Line) (Line, bool) {
	if w.newest.ClusterEpoch == l.ClusterEpoch && w.newest.Seq == l.Seq {
		return w.newest, true
	}
	if w.kept == nil {
		return Line{}, false
	}
	hash, ok := w.kept.hash(l)
	if !ok {
		return Line{}, false
	}
	if found := (Line{Seq: l.Seq, ClusterEpoch: l.ClusterEpoch, Hash: hash}); hash == l.Hash {
		return found, true
	}
	found, err := w.kept.read(l.ClusterEpoch, l.Seq)
	if err != nil {
		w.Log.Error("witness: the head that another one contradicts does not read", "err", err)
		found = Line{Seq: l.Seq, ClusterEpoch: l.ClusterEpoch, Hash: hash}
	}
	return found, true
}

// keep appends the newest head.
func (w *Witness) keep() {
	w.due = time.Now().Add(keepEvery)
	if w.kept == nil {
		w.reopen()
	}
	if w.kept == nil || !w.pending { // the file may have had it already
		return
	}
	if err := w.kept.append(&w.newest); err != nil {
		w.Log.Error("witness: head of the audit trail not kept, trying again in a minute", "err", err)
		w.kept = nil
		return
	}
	w.pending = false
}

// alarm reports and keeps evidence against the core.
func (w *Witness) alarm(a *Alarm) {
	w.alarmed.Add(1)
	a.At = w.Wall().UTC()
	if w.noise.Allow() {
		w.Log.Error("witness: ALARM: a core node showed a head of the audit trail that cannot be true",
			"reason", a.Reason, "core", a.From, "detail", a.Detail, "evidence", w.alarms.path)
	}
	if err := w.alarms.add(a); err != nil && w.noise.Allow() {
		w.Log.Error("witness: evidence not kept", "err", err)
	}
}
