package history

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("history: store is closed")

	// ErrFailed is wrapped by every error after a write or a sync went wrong. The store stays unusable; restart the process once the cause,
	// which is wrapped too, is dealt with.
	ErrFailed = errors.New("history: store stopped after a disk error")

	// ErrInvalid is wrapped by Append's error when records are out of order, too large or have no log index. Nothing was stored. It is a
	// bug of the caller.
	ErrInvalid = errors.New("history: invalid record")

	// ErrVersion is wrapped by Open's error when a file was written in a format that this release does not know.
	ErrVersion = errors.New("history: unknown format version")

	// ErrIncomplete is wrapped by the error of every way of reading while records are missing that are still to be fetched from a peer, and
	// by Export's error when this store does not reach as far as was asked for. Try again later, or another node.
	ErrIncomplete = errors.New("history: incomplete")

	// ErrMismatch is wrapped by the error when records do not have the chain that the replicated state asks for.
	ErrMismatch = errors.New("history: records do not fit the replicated state")

	// ErrChunk is wrapped by Fill's error when the bytes are not a chunk, or not one that joins on. Nothing was stored. Fetch it again, or from
	// another peer.
	ErrChunk = errors.New("history: invalid chunk")

	// ErrCorrupt is what every [*CorruptError] is, for errors.Is.
	ErrCorrupt = errors.New("history: data is damaged")
)

// A CorruptError says which file does not hold what was written to it, and where that shows.
type CorruptError struct {
	File   string // path of the file
	Offset int64  // bytes from the start of the file to the damaged frame
	Reason string // what is wrong there
}

// Error names the file, the offset and the reason.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s", e.File, e.Offset, e.Reason)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// damage is the reason why bytes are not a valid frame. The decoders return it; those who know the file make it a CorruptError.
type damage string

func (d damage) Error() string { return string(d) }

// located turns damage into a CorruptError of that place, names the file of an unknown version, and leaves every other error as it is.
func located(err error, file string, offset int64) error {
	if d, ok := errors.AsType[damage](err); ok {
		return &CorruptError{File: file, Offset: offset, Reason: string(d)}
	}
	if errors.Is(err, ErrVersion) {
		return fmt.Errorf("%s: %w; run the release that wrote it, or a newer one", file, err)
	}
	return err
}
