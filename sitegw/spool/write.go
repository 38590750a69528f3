package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	// firstRetry and lastRetry bound how long the spool waits before it tries a disk again that was full or failed.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Run writes what is appended until ctx ends; then it writes what is left and closes the spool. It returns the error of closing it, if any.
// Failures of the disk do not end it.
func (s *Spool) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	wait := firstRetry
	for {
		select {
		case <-ctx.Done():
			s.flush()
			return s.Close()
		case <-s.kick:
		case <-retry.C:
		}
		if s.flush() {
			wait = firstRetry
			continue
		}
		retry.Reset(wait)
		wait = min(2*wait, lastRetry)
	}
}

// flush writes what is pending. While the disk is ailing it tries that again first; it returns whether the disk is well.
func (s *Spool) flush() bool {
	s.diskMu.Lock()
	dones, from, err := s.flushLocked()
	s.diskMu.Unlock()
	for i, done := range dones {
		if err != nil {
			done(0, err)
			continue
		}
		done(from+uint64(i), nil)
	}
	if err == nil && len(dones) > 0 {
		signal(s.wake)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ailing == nil
}

// flushLocked is flush for the holder of diskMu. It returns whom to tell, from which number on, or with which error.
func (s *Spool) flushLocked() (dones []func(uint64, error), from uint64, err error) {
	if s.isClosed() || !s.recovered() {
		return nil, 0, nil
	}
	b := s.take()
	if len(b.dones) == 0 {
		s.spare = b.buf
		return nil, 0, nil
	}
	if cause := s.write(&b); cause != nil {
		return s.stumble(&b, cause), 0, refusal(cause)
	}
	s.publish(&b)
	s.spare = b.buf
	return b.dones, b.from.Seq + 1, nil
}

func (s *Spool) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// write makes a batch durable, in a new segment when the one before is full.
func (s *Spool) write(b *batch) error {
	if w := s.active; w != nil && w.size > headerSize && w.size+int64(len(b.buf)) > s.cfg.Segment {
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.active == nil {
		if err := s.begin(b.from); err != nil {
			return err
		}
	}
	w := s.active
	if _, err := w.f.WriteAt(b.buf, w.size); err != nil {
		return fmt.Errorf("write %s at offset %d: %w", s.newest(), w.size, err)
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.newest(), err)
	}
	w.size += int64(len(b.buf))
	return nil
}

// newest names the newest segment's file.
func (s *Spool) newest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 {
		return s.cfg.Dir
	}
	return s.path(s.segments[len(s.segments)-1].first())
}

// publish lets readers see a batch that is durable.
func (s *Spool) publish(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments[len(s.segments)-1].size = s.active.size
	s.used += int64(len(b.buf))
	s.writing = 0
	s.durable = b.to
}

// seal ends the active segment, all of which is synced, and gives back what was preallocated and not used.
func (s *Spool) seal() error {
	w := s.active
	s.active = nil
	if err := errors.Join(w.f.Truncate(w.size), w.f.Close()); err != nil {
		return fmt.Errorf("seal %s: %w", s.newest(), err)
	}
	return nil
}

// begin starts a segment. Its room is reserved, so that a full disk shows here, with nothing written that would have to be cut.
func (s *Spool) begin(before Point) error {
	h := header{incarnation: s.incarnation, before: before, made: s.cfg.Wall()}
	name := s.path(before.Seq + 1)
	f, err := disk.Create(s.cfg.FS, s.cfg.Dir, fileName(before.Seq+1), h.encode())
	if err != nil {
		return err
	}
	s.mu.Lock()
	room := min(s.cfg.Segment, s.cfg.Quota-s.used)
	s.mu.Unlock()
	if err := f.Reserve(room); err != nil {
		return errors.Join(fmt.Errorf("reserve room for %s: %w", name, err), f.Close(), s.cfg.FS.Remove(name))
	}
	s.active = &writer{f: f, size: headerSize}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, segment{before: before, size: headerSize})
	s.used += headerSize
	return nil
}

// stumble ends the use of the active segment after a write or a sync failed. What waits is refused too, so that nothing is ever acknowledged
// behind something that is not. It returns whom to tell.
func (s *Spool) stumble(b *batch, cause error) []func(uint64, error) {
	var closing error
	if s.active != nil {
		closing = s.active.f.Close()
		s.active = nil
	}
	s.broken = true
	s.mu.Lock()
	s.writing = 0
	s.ailing = cause
	s.failures++
	dones := append(b.dones, s.refuse()...)
	s.mu.Unlock()
	s.cfg.Log.Error("the spool's disk fails; nothing is accepted until it works again", "dir", s.cfg.Dir, "refused", len(dones),
		"err", errors.Join(cause, closing))
	if !noRoom(cause) {
		s.recovered() // at once: a single failure is over with it
	}
	return dones
}

// recovered tells whether the disk is well, and tries to make it so when it is not: the newest segment is cut back to what is known to be
// durable, and a fresh one begun. The caller holds diskMu.
func (s *Spool) recovered() bool {
	s.mu.Lock()
	ailing, at := s.ailing, s.durable
	s.mu.Unlock()
	if ailing == nil {
		return true
	}
	err := s.repair()
	if err == nil && s.active == nil {
		err = s.begin(at)
	}
	s.mu.Lock()
	s.ailing = err
	s.mu.Unlock()
	if err != nil {
		s.cfg.Log.Warn("the spool's disk does not work yet", "dir", s.cfg.Dir, "err", err)
		return false
	}
	s.cfg.Log.Info("the spool's disk works again", "dir", s.cfg.Dir)
	return true
}

// repair cuts the newest segment back after a failure. It is opened anew: a sync that failed says nothing about later ones of the same file, and
// what it should have written is cut off.
func (s *Spool) repair() error {
	if !s.broken {
		return nil
	}
	s.mu.Lock()
	n := len(s.segments)
	var last segment
	if n > 0 {
		last = s.segments[n-1]
	}
	s.mu.Unlock()
	switch {
	case n == 0:
	case last.size <= headerSize:
		if err := s.drop(1, false); err != nil {
			return err
		}
	default:
		if err := s.cutBack(&last); err != nil {
			return err
		}
	}
	s.broken = false
	return nil
}

// cutBack cuts a segment's file to what is durable of it, and gives back what was preallocated.
func (s *Spool) cutBack(g *segment) (err error) {
	f, err := s.cfg.FS.OpenFile(s.path(g.first()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(g.size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.DropCache()
}

// Close ends a spool that is not run; Run closes its own. What is pending is refused with ErrClosed. Closing again does nothing.
func (s *Spool) Close() error {
	s.diskMu.Lock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.diskMu.Unlock()
		return nil
	}
	s.closed = true
	dones := s.refuse()
	s.mu.Unlock()
	var err error
	if s.active != nil {
		err = s.seal()
	}
	err = errors.Join(err, s.save(), s.lock.Close())
	s.diskMu.Unlock()
	for _, done := range dones {
		done(0, ErrClosed)
	}
	if err != nil {
		return fmt.Errorf("close spool %s: %w", s.cfg.Dir, err)
	}
	return nil
}
