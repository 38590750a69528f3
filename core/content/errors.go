package content

import (
	"errors"
	"fmt"
)

var (
	// ErrMissing says that a chunk is not here.
	ErrMissing = errors.New("chunk is not stored")

	// ErrQuota says that there is no room for more. Delete artifacts that are not needed, or raise content_quota.
	ErrQuota = errors.New("the quota of content is used up")

	// ErrDamaged is what every [*DamageError] is, for errors.Is.
	ErrDamaged = errors.New("stored chunk is damaged")

	// ErrNoMajority says that fewer than a majority of the core's nodes did what was asked. Trying again does no harm.
	ErrNoMajority = errors.New("no majority of the core's nodes")
)

// A DamageError says which file does not hold what was written to it. The file has been moved aside, and the chunk counts as missing.
type DamageError struct {
	File   string // path that the file had
	Reason string
}

// Error names the file and the reason.
func (e *DamageError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.File, e.Reason) }

// Unwrap makes errors.Is(err, ErrDamaged) true.
func (e *DamageError) Unwrap() error { return ErrDamaged }
