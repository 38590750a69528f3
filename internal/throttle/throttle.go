// Package throttle limits how often a source may fail.
package throttle

import (
	"sync"

	"golang.org/x/time/rate"
)

// maxSources bounds the memory of a Failures: beyond it everything is forgotten.
const maxSources = 4096

// Failures counts failures per source. A source that has failed Burst times more than PerSecond allows must wait.
type Failures struct {
	PerSecond rate.Limit
	Burst     int

	mu sync.Mutex
	by map[string]*rate.Limiter
}

// Allowed tells whether the source may try.
func (f *Failures) Allowed(source string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.by[source]
	return !ok || l.Tokens() >= 1
}

// Failed notes a failure, and tells whether it was within the limit: beyond it there is no need to log each one.
func (f *Failures) Failed(source string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil || len(f.by) >= maxSources {
		f.by = make(map[string]*rate.Limiter)
	}
	l, ok := f.by[source]
	if !ok {
		l = rate.NewLimiter(f.PerSecond, f.Burst)
		f.by[source] = l
	}
	return l.Allow()
}
