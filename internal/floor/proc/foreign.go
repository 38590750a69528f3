package proc

import (
	"fmt"
	"os"
	"time"
)

// Foreign measures how much of the machine was taken by processes that do not belong to a measurement. On a shared
// machine it tells the rounds to trust from those to leave out.
type Foreign struct {
	pids  []int
	begin time.Time
	busy  time.Duration
	own   time.Duration
}

// StartForeign begins a measurement in which this process and pids are ours and everything else is foreign. The
// processes must live until Share has been called.
func StartForeign(pids ...int) (*Foreign, error) {
	f := &Foreign{pids: append([]int{os.Getpid()}, pids...)}
	var err error
	if f.busy, f.own, err = f.read(); err != nil {
		return nil, err
	}
	f.begin = time.Now()
	return f, nil
}

// Share returns the CPU time that others have used since StartForeign, as a share of one core: 0 is a quiet machine, 2
// are two cores taken. Readings of less than a tenth of a second mean little, because the machine counts in ticks of
// 10 ms.
func (f *Foreign) Share() (float64, error) {
	busy, own, err := f.read()
	if err != nil {
		return 0, err
	}
	elapsed := max(time.Since(f.begin), time.Microsecond)
	return foreignShare(busy-f.busy, own-f.own, elapsed), nil
}

func foreignShare(busy, own, elapsed time.Duration) float64 {
	return max(0, float64(busy-own)/float64(elapsed))
}

func (f *Foreign) read() (busy, own time.Duration, err error) {
	if busy, err = MachineBusy(); err != nil {
		return 0, 0, err
	}
	for _, pid := range f.pids {
		t, err := CPUTime(pid)
		if err != nil {
			return 0, 0, fmt.Errorf("foreign load: %w", err)
		}
		own += t
	}
	return busy, own, nil
}
