package reconcile

import (
	"errors"
	"fmt"
)

// The reasons of this package, as a status tells them; those of an installation are of package agent/install. They are words that programs
// know, and append-only.
const (
	ReasonSignature  = "signature"        // the release is not what a publisher signed
	ReasonPublisher  = "publisher"        // whoever signed the release is not in the set of publishers
	ReasonMismatch   = "release_mismatch" // the release was signed for something else than its manifest
	ReasonDowngrade  = "downgrade"        // a higher release of the name was healthy here
	ReasonManifest   = "manifest"         // the manifest breaks a rule
	ReasonContent    = "content"          // content cannot be had now, or what came is not it; it is tried again
	ReasonNoSpace    = "no_space"         // the disk has too little room; it is tried again
	ReasonDisk       = "disk"             // the disk fails; it is tried again
	ReasonActivate   = "activate"         // the unit did not start
	ReasonHealth     = "health"           // the release was not healthy in the time that it has to start
	ReasonSoak       = "soak"             // it was, and did not stay so
	ReasonDrift      = "drift"            // what was healthy is not on the disk as it was
	ReasonRemembered = "remembered"       // the artifact failed here before, and is not tried again in this attempt
	ReasonSuperseded = "superseded"       // an order wanted the release before back
)

// An Error is an error with a reason.
type Error struct {
	Reason string
	Err    error
}

// Error says what went wrong.
func (f *Error) Error() string { return f.Err.Error() }

// Unwrap is the cause.
func (f *Error) Unwrap() error { return f.Err }

func fail(reason, format string, args ...any) error {
	return &Error{reason, fmt.Errorf(format, args...)}
}

// reasonOf is an error's reason; ReasonContent where it says none: then it came from a fetch.
func reasonOf(err error) string {
	if f, ok := errors.AsType[*Error](err); ok {
		return f.Reason
	}
	return ReasonContent
}

// passes tells whether time may heal what a fetch failed for.
func passes(reason string) bool {
	return reason == ReasonContent || reason == ReasonNoSpace || reason == ReasonDisk
}
