package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// firstWait and maxWait are the bounds of the waits between attempts to open the stream again.
	firstWait = 500 * time.Millisecond
	maxWait   = 15 * time.Second
	// healthy is how long a stream must last for the next wait to be a first one again.
	healthy = 10 * time.Second
	// giveUp is how long there may be no healthy stream. An election takes seconds and a node's restart a minute; who follows
	// events longer than this without hearing of it would take silence for peace.
	giveUp = 5 * time.Minute
)

// An eventStream is one connection's events. Next also gives the id behind which another connection goes on.
type eventStream interface {
	Next() (id string, e v1.Event, err error)
	Close() error
}

// A follower shows events over any number of connections, each once.
type follower struct {
	after string // id of the last event that was shown, or where to begin; empty: with what comes
	open  func(ctx context.Context, after string) (eventStream, error)
	emit  func(v1.Event) error
	note  func(format string, args ...any)
}

// emitError is an error of emit, which ends the follower.
type emitError struct{ error }

func (e emitError) Unwrap() error { return e.error }

// run follows until ctx ends, emit fails, the core refuses, or there was no healthy stream for giveUp. That the very first
// attempt fails is reported at once.
func (f *follower) run(ctx context.Context) error {
	wait, good := firstWait, time.Now()
	for first := true; ; first = false {
		start := time.Now()
		opened, err := f.follow(ctx)
		if e, ours := errors.AsType[emitError](err); ours {
			return e.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if first && !opened || !passing(err) {
			return err
		}
		now := time.Now()
		if opened && now.Sub(start) >= healthy {
			wait, good = firstWait, now
		}
		if now.Sub(good) > giveUp {
			return fmt.Errorf("no lasting event stream for %v: %w", giveUp, err)
		}
		if opened {
			f.tell(err)
		}
		if err := sleep(ctx, wait/2+rand.N(wait/2)); err != nil { //nolint:gosec // jitter is no secret
			return err
		}
		wait = min(2*wait, maxWait)
	}
}

// tell notes that a stream ended, and what it means for who reads the events.
func (f *follower) tell(err error) {
	switch {
	case errors.Is(err, client.ErrLagged):
		f.note("%v; read the state afresh", err)
	case f.after == "":
		f.note("the event stream was cut (%v) and is opened again; events in between are not shown", err)
	default:
		f.note("the event stream was cut (%v) and is opened again where it was", err)
	}
}

// follow shows the events of one connection. opened says that there was one. The error is never nil.
func (f *follower) follow(ctx context.Context) (opened bool, err error) {
	s, err := f.open(ctx, f.after)
	if err != nil {
		return false, err
	}
	// A stream that ended has nothing to lose by closing it.
	defer s.Close() //nolint:errcheck // see above
	for {
		id, e, err := s.Next()
		if errors.Is(err, io.EOF) {
			err = errStreamEnd
		}
		if err != nil {
			return true, err
		}
		if err := f.emit(e); err != nil {
			return true, emitError{err}
		}
		if id != "" {
			f.after = id
		}
	}
}

// errStreamEnd says that the core ended the stream, as it does when a node stops.
var errStreamEnd = errors.New("the core ended it")

// passing tells whether an error may go away by itself.
func passing(err error) bool {
	for _, lasting := range []error{
		client.ErrInvalid, client.ErrUnauthorised, client.ErrForbidden, client.ErrNotFound, client.ErrConflict,
		client.ErrUntrusted, client.ErrAnswer,
	} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
