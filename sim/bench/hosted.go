package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// Commands of every hosted program, and of the gateway. The last two take a path behind a space.
const (
	commandCollect = "collect" // free what is garbage; answers heap
	commandTraffic = "traffic" // answers traffic: of a gateway that counts
	commandEnd     = "end"     // end the CPU profile
	commandProfile = "profile" // begin a CPU profile into a file
	commandHeap    = "heap"    // write a heap profile into a file
)

// errEnded says that a hosted program ended by itself.
var errEnded = errors.New("the hosted program has ended")

// heap is what a process has in use, in bytes, after a collection.
type heap struct {
	Heap, Stack, Goroutines int64
	Live                    int64 // of Heap: objects that are in use
}

// hosted is a part of the product at work in a child process: what the shipped program runs, with a way to ask for a garbage
// collection and for profiles, which the shipped program does not offer.
type hosted struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has returned
	err     error         // set before done is closed
	profile *os.File      // nil: none is being taken
	traffic *meter        // of a gateway
}

var _ floor.Service = (*hosted)(nil)

// host begins run, which Close ends.
func host(ctx context.Context, run func(context.Context) error) *hosted {
	ctx, cancel := context.WithCancel(ctx)
	h := &hosted{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		h.err = run(ctx)
	}()
	return h
}

// Do implements floor.Service.
func (h *hosted) Do(_ context.Context, command string) (any, error) {
	select {
	case <-h.done:
		return nil, errors.Join(errEnded, h.err)
	default:
	}
	name, path, _ := strings.Cut(command, " ")
	switch name {
	case commandCollect:
		return collect(), nil
	case commandTraffic:
		return h.traffic.read(), nil
	case commandProfile:
		return nil, h.beginProfile(path)
	case commandEnd:
		return nil, h.endProfile()
	case commandHeap:
		return nil, writeHeap(path)
	}
	return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, name)
}

// Close implements floor.Service.
func (h *hosted) Close() error {
	err := h.endProfile()
	h.cancel()
	<-h.done
	return errors.Join(err, h.err)
}

func (h *hosted) beginProfile(path string) error {
	if err := h.endProfile(); err != nil {
		return err
	}
	f, err := os.Create(path) //nolint:gosec // G304: the parent names the file
	if err != nil {
		return fmt.Errorf("cpu profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(fmt.Errorf("cpu profile: %w", err), f.Close())
	}
	h.profile = f
	return nil
}

func (h *hosted) endProfile() error {
	if h.profile == nil {
		return nil
	}
	pprof.StopCPUProfile()
	err := h.profile.Close()
	h.profile = nil
	return err
}

func writeHeap(path string) error {
	f, err := os.Create(path) //nolint:gosec // G304: the parent names the file
	if err != nil {
		return fmt.Errorf("heap profile: %w", err)
	}
	runtime.GC()
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// collect gives what is garbage back to the system, three times because objects with finalizers and pools survive the first
// collections. The floor does the same.
func collect() heap {
	for range 3 {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return heap{
		Heap: int64(m.HeapInuse), Stack: int64(m.StackInuse), Live: int64(m.HeapAlloc), //nolint:gosec // G115: memory sizes fit
		Goroutines: int64(runtime.NumGoroutine()),
	}
}

// held is what a process holds, before and after a collection, in bytes.
type held struct {
	loose, rss int64 // resident before, and after
	heap       heap
}

func holdings(ctx context.Context, c *floor.Child) (held, error) {
	before, err := proc.MemoryOf(c.PID())
	if err != nil {
		return held{}, err
	}
	h := held{loose: before.RSS}
	if err := c.Ask(ctx, commandCollect, &h.heap); err != nil {
		return held{}, err
	}
	after, err := proc.MemoryOf(c.PID())
	h.rss = after.RSS
	return h, err
}
