package proc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrFormat says that a file of /proc does not look the way this package knows it.
var ErrFormat = errors.New("unknown format")

// ErrPID says that a number cannot be a process id.
var ErrPID = errors.New("process ids are 1 to 4194304")

// maxPID is the kernel's own limit. A larger number would not fit into the id of a clock, and name another.
const maxPID = 1 << 22

// userTick is the unit of /proc/stat. The kernel converts to it whatever its own tick is (USER_HZ is 100 on every
// architecture that Go runs on).
const userTick = 10 * time.Millisecond

// CPUTime returns the CPU time, user and system, that the process pid has used since its start, to the nanosecond and
// over all its threads, also those that have ended. A process that does not exist, or has been waited for, is an error.
func CPUTime(pid int) (time.Duration, error) {
	if pid <= 0 || pid > maxPID {
		return 0, fmt.Errorf("cpu time of process %d: %w", pid, ErrPID)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(processClock(pid), &ts); err != nil {
		return 0, fmt.Errorf("cpu time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// processClock is the id of the CPU clock of another process: the complement of the process id above three bits of
// kind, of which 2 is the clock that the scheduler keeps. (See clock_getcpuclockid(3), which computes the same.)
func processClock(pid int) int32 {
	const schedulerClock = 2
	return int32(^pid)<<3 | schedulerClock //nolint:gosec // G115: at most maxPID
}

// MachineBusy returns the CPU time that all cores together have spent on anything but waiting, since boot. Its
// resolution is 10 ms. Time that a hypervisor gave to others is in it: it is as lost to us as a neighbour's load.
func MachineBusy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("cpu time of the machine: %w", err)
	}
	busy, err := parseMachineBusy(b)
	if err != nil {
		return 0, fmt.Errorf("cpu time of the machine: /proc/stat: %w", err)
	}
	return busy, nil
}

// parseMachineBusy reads the first line: "cpu user nice system idle iowait irq softirq steal guest guest_nice". Guest
// time is left out because the kernel has counted it as user time already.
func parseMachineBusy(stat []byte) (time.Duration, error) {
	const name, idle, ioWait, steal = 0, 4, 5, 8
	line, _, _ := bytes.Cut(stat, []byte{'\n'})
	fields := bytes.Fields(line)
	if len(fields) <= steal || string(fields[name]) != "cpu" {
		return 0, fmt.Errorf("%w: first line %.60q", ErrFormat, line)
	}
	var ticks uint64
	for i := 1; i <= steal; i++ {
		if i == idle || i == ioWait {
			continue
		}
		v, err := strconv.ParseUint(string(fields[i]), 10, 48)
		if err != nil {
			return 0, fmt.Errorf("%w: field %d: %w", ErrFormat, i, err)
		}
		ticks += v
	}
	if ticks > uint64(math.MaxInt64/userTick) {
		return 0, fmt.Errorf("%w: %d ticks are more than 292 years", ErrFormat, ticks)
	}
	return time.Duration(ticks) * userTick, nil
}
