package spool

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrBusy refuses a record because too many wait for the disk. Try again soon.
	ErrBusy = errors.New("spool: too much is waiting for the disk")

	// ErrHold refuses a record because the quota is used up, or the disk is full. What is accepted stays; try again when the uplink has drained
	// some of it.
	ErrHold = errors.New("spool: no room")

	// ErrFailed refuses a record because a write or a sync failed. The spool repairs itself; try again later.
	ErrFailed = errors.New("spool: the disk failed")

	// ErrTooLarge refuses a record of more than MaxData bytes, or one that takes half the quota. It is a bug of the caller.
	ErrTooLarge = errors.New("spool: record too large")

	// ErrClosed is what every call returns once Run has ended, or Close was called.
	ErrClosed = errors.New("spool: closed")

	// ErrAhead is Trim's error for a number that no durable record has yet.
	ErrAhead = errors.New("spool: no such record yet")

	// ErrConfig is wrapped by Open's error when the configuration makes no sense.
	ErrConfig = errors.New("spool: bad configuration")

	// ErrVersion is wrapped by Open's error when a file was written in a format that this release does not know.
	ErrVersion = errors.New("spool: unknown format version")
)

// damage is the reason why bytes are not what was written.
type damage string

func (d damage) Error() string { return string(d) }

// noRoom tells whether an error of the disk is that it is full.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// refusal is what callers get for a failure of the disk.
func refusal(cause error) error {
	if noRoom(cause) {
		return fmt.Errorf("%w: %w", ErrHold, cause)
	}
	return fmt.Errorf("%w: %w", ErrFailed, cause)
}
