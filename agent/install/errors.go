package install

import (
	"errors"
	"fmt"
	"syscall"
)

// Reasons are words that programs know; a status carries them. They are append-only.
const (
	ReasonManifest     = "manifest"                  // breaks a rule, or is not the one that was ordered
	ReasonContent      = "content"                   // what was fetched is not what the manifest names, or did not come
	ReasonNoSpace      = "no_space"                  // the disk has too little room
	ReasonDisk         = "disk"                      // the disk fails, or has what is none of ours
	ReasonArch         = "incompatible_arch"         // the artifact is not for this device
	ReasonSoC          = "incompatible_soc"          // likewise
	ReasonAccelerators = "incompatible_accelerators" // likewise
	ReasonRAM          = "incompatible_ram"          // likewise
	ReasonOS           = "incompatible_os"           // likewise
	ReasonUnit         = "unit_not_allowed"          // the device's settings do not let the unit be restarted
	ReasonActivate     = "activate"                  // the unit did not start
	ReasonHealth       = "health"                    // a health check failed
	ReasonDrift        = "drift"                     // an installed release is not as it was installed
)

// ErrLayout is the sentinel of a slot whose layout this build does not know. It is left alone.
var ErrLayout = errors.New("layout of the slot is not known")

// An Error is why something could not be done, with the word that programs know.
type Error struct {
	Reason string
	Err    error
}

// Error says what went wrong; the reason is in it.
func (e *Error) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason of the first Error in err's chain; ReasonDisk for any other error, "" for nil.
func ReasonOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Reason
	}
	return ReasonDisk
}

func fail(reason, format string, args ...any) error {
	return &Error{reason, fmt.Errorf(format, args...)}
}

// onDisk gives an error of the file system its reason; nil stays nil, and so does the reason of an Error.
func onDisk(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	reason := ReasonDisk
	if full(err) {
		reason = ReasonNoSpace
	}
	return &Error{reason, fmt.Errorf(format+": %w", append(args, err)...)}
}

// full tells whether err says that there is no room on the disk, or that the user may have no more of it.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
