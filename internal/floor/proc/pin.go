package proc

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// AnyCPU in place of a core's number means: not pinned.
const AnyCPU = -1

// ErrCPU says that a core does not exist, or that this process may not use it.
var ErrCPU = errors.New("cpu not available")

// AllowedCPUs lists the cores on which this process may run, in ascending order.
func AllowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("list usable cpus: %w", err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// StartPinned starts cmd on the core cpu, or anywhere for AnyCPU. The process is pinned before its first instruction,
// so that a Go program finds one usable core and sets GOMAXPROCS to 1 by itself; pinning it later would leave it with
// threads for cores that it cannot use. A core that is not to be had is ErrCPU.
func StartPinned(cmd *exec.Cmd, cpu int) error {
	if cpu == AnyCPU {
		return cmd.Start()
	}
	var only unix.CPUSet
	only.Set(cpu) // ignores numbers out of range
	if !only.IsSet(cpu) {
		return fmt.Errorf("start %s on cpu %d: %w", cmd.Path, cpu, ErrCPU)
	}
	return startWith(cmd, cpu, &only)
}

// startWith narrows the calling thread to the set, starts cmd, which inherits it, and widens the thread again. The
// goroutine is locked to the thread meanwhile. The runtime starts no other thread from a locked one, so that nothing
// but the child inherits the narrow set.
func startWith(cmd *exec.Cmd, cpu int, only *unix.CPUSet) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("start %s on cpu %d: read affinity: %w", cmd.Path, cpu, err)
	}
	if err := unix.SchedSetaffinity(0, only); err != nil {
		return fmt.Errorf("start %s on cpu %d: %w: %w", cmd.Path, cpu, ErrCPU, err)
	}
	startErr := cmd.Start()
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		// Unlocking this thread now would hand a pinned thread to the scheduler. A second lock, never released,
		// keeps it to this goroutine, and the runtime ends the thread with it.
		runtime.LockOSThread()
		return errors.Join(startErr, fmt.Errorf("widen cpu affinity after starting %s: %w", cmd.Path, err))
	}
	return startErr
}
