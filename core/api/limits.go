package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/throttle"
)

const (
	// maxBody bounds a request's body, in bytes: many times what the largest command needs.
	maxBody = 64 << 10
	// maxHeaders bounds the fields of a request's header: many times what a client and three proxies send.
	maxHeaders = 64
	// requestTime is the deadline of every request but a stream and those that have longer: longer than an election takes.
	requestTime = 10 * time.Second
	// clusterTime is the deadline of requests that a change of the core's members or a snapshot keeps waiting.
	clusterTime = 60 * time.Second
	// uploadTime is the deadline for the body of an upload, over some Mbit/s, and then that for what is done with it.
	uploadTime = 30 * time.Second
	// writeSlack is how much longer than its request an answer may take to leave, at the client's pace.
	writeSlack = 10 * time.Second
	// authTime bounds how long a token that this node does not know may wait for news of it.
	authTime = 5 * time.Second
)

// limits bound what clients can make a node do and hold. They are values so that tests can meet them quickly.
type limits struct {
	failures      rate.Limit // failed authentications per second and source, above
	failuresBurst int        // so many at once
	lookups       rate.Limit // times a second that a source may have an unknown token looked up at the leader, above
	lookupsBurst  int        // so many at once
	allLookups    rate.Limit // the same of all sources together
	allBurst      int
	requests      rate.Limit // per second and operator, above
	requestsBurst int        // so many at once
	inFlight      int        // requests that are served at a time, but for streams
	inFlightEach  int        // the same of one operator
	uploads       int        // requests with bodies over maxBody that are served at a time: each is in memory
	uploadsEach   int        // the same of one operator
	streams       int        // answers without an end that are open at a time: each holds a connection and a queue
	streamsEach   int        // the same of one operator
}

// defaultLimits are documented in docs/api.md; a test compares.
var defaultLimits = limits{
	failures: 0.2, failuresBurst: 20, lookups: 0.2, lookupsBurst: 3, allLookups: 10, allBurst: 20,
	requests: 200, requestsBurst: 400, inFlight: 256, inFlightEach: 64, uploads: 8, uploadsEach: 4, streams: 64, streamsEach: 16,
}

// A throttler bounds how often sources fail and operators ask.
type throttler struct {
	limits
	failed  throttle.Failures // authentications, by source
	looked  throttle.Failures // lookups at the leader, by source
	lookups *rate.Limiter     // of all sources

	mu sync.Mutex
	by map[string]*rate.Limiter // guarded by mu, by operator; the registry bounds how many there ever are
}

func newThrottler(l limits) *throttler {
	return &throttler{
		limits: l, failed: throttle.Failures{PerSecond: l.failures, Burst: l.failuresBurst},
		looked: throttle.Failures{PerSecond: l.lookups, Burst: l.lookupsBurst}, lookups: rate.NewLimiter(l.allLookups, l.allBurst),
		by: make(map[string]*rate.Limiter),
	}
}

// mayLookUp uses up a lookup at the leader of a token that this node does not know.
func (t *throttler) mayLookUp(source string) bool {
	return t.looked.Failed(source) && t.lookups.Allow()
}

// mayAsk uses up a request of an operator.
func (t *throttler) mayAsk(operator string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.by[operator]
	if !ok {
		l = rate.NewLimiter(t.requests, t.requestsBurst)
		t.by[operator] = l
	}
	return l.Allow()
}

// places are a number of things that may be at a time, of which each operator may have a part.
type places struct {
	most, each int

	mu    sync.Mutex
	taken int            // guarded by mu; Invariant: the sum of by, at most most
	by    map[string]int // guarded by mu, by operator; Invariant: from 1 to each
}

// take takes a place, if there is one. free must be called when it did.
func (p *places) take(operator string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most || p.by[operator] >= p.each {
		return false
	}
	if p.by == nil {
		p.by = make(map[string]int)
	}
	p.taken++
	p.by[operator]++
	return true
}

func (p *places) free(operator string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[operator]--; p.by[operator] == 0 {
		delete(p.by, operator)
	}
}

// count is how many are taken.
func (p *places) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}
