package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Device does one exchange with the peer under test, numbered seq from 1 upward per device, and returns when the
// answer has come. It is called by one goroutine at a time. It need not watch a context, but must return, with an
// error, once its connection is closed.
type Device func(seq uint32) error

// failurePause keeps a device that always fails from taking the core away from those that work.
const failurePause = 10 * time.Millisecond

// Load is a fleet under a closed loop. Run may be called again after it returned; the sequence numbers go on.
type Load struct {
	devices []Device // immutable

	seqs []uint32 // seqs[i] is owned by the worker of device i while Run runs

	// atomic
	failed  atomic.Uint64
	latency Histogram // of the completed ones

	mu       sync.Mutex
	firstErr error // guarded by mu; the first failure of all
}

// New prepares a load of the given devices; the slice must not be changed afterwards.
func New(devices []Device) *Load {
	return &Load{devices: devices, seqs: make([]uint32, len(devices))}
}

// Run drives every device in a goroutine of its own until ctx ends, and returns when the last of them has finished the
// exchange that it had under way. If an exchange hangs then, closing its connection is up to the caller.
func (l *Load) Run(ctx context.Context) {
	var workers sync.WaitGroup
	for i := range l.devices {
		workers.Go(func() { l.drive(ctx, i) })
	}
	workers.Wait()
}

func (l *Load) drive(ctx context.Context, i int) {
	// Asking a channel costs less per exchange than asking the context, whose Err takes a lock.
	done := ctx.Done()
	for {
		select {
		case <-done:
			return
		default:
		}
		if !l.exchange(i) {
			pause(done, failurePause)
		}
	}
}

// exchange does one exchange of device i and accounts for it.
func (l *Load) exchange(i int) bool {
	begin := time.Now()
	l.seqs[i]++
	if err := l.devices[i](l.seqs[i]); err != nil {
		l.failed.Add(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.firstErr == nil {
			l.firstErr = err
		}
		return false
	}
	l.latency.Add(time.Since(begin))
	return true
}

func pause(done <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// Err returns the first failure of any exchange so far, or nil.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.firstErr
}

// Totals returns the counts so far, also while Run runs.
func (l *Load) Totals() Totals { return Totals{Failed: l.failed.Load(), Latency: l.latency.Snapshot()} }

// Totals counts exchanges, either since the beginning (Load.Totals) or between two moments (Since).
type Totals struct {
	// Failed counts exchanges that ended in an error.
	Failed uint64
	// Latency is how long those took that were answered.
	Latency *Distribution
}

// Completed counts exchanges that were answered.
func (t Totals) Completed() uint64 { return t.Latency.Count() }

// Since returns what was added after earlier, a reading of the same Load.
func (t Totals) Since(earlier Totals) Totals {
	return Totals{Failed: t.Failed - earlier.Failed, Latency: t.Latency.Since(earlier.Latency)}
}
