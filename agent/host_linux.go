package agent

import (
	"encoding/hex"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

// uptime is the time since boot, sleep included.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// bootID is the kernel's random id of this boot; zero when it tells none.
func bootID() (id [16]byte) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err == nil && len(raw) == len(id) {
		copy(id[:], raw)
	}
	return id
}

// clockQuality is the kernel's word on whether something disciplines the clock (adjtimex(2)).
func clockQuality() seal.ClockQuality {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return seal.ClockUnknown
	}
	if tx.Status&unix.STA_UNSYNC != 0 {
		return seal.ClockUnsynced
	}
	return seal.ClockSynced
}
