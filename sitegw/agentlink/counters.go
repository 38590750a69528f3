package agentlink

import (
	"sync/atomic"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Counters count since the start of the process. They may be read and raised from any goroutine.
type Counters struct {
	Attached           ByCarrier     // sessions that were admitted
	Heartbeats         atomic.Uint64 // that read
	Probes             atomic.Uint64 // that were answered
	Downloads          atomic.Uint64 // sessions for content that were admitted
	Enrollments        atomic.Uint64 // that the core granted
	EnrollmentsRefused ByCode
	AgentsRefused      ByCode // that wanted a session
	Statements         ByCode // CodeNone: taken into custody
}

// ByCarrier counts by what sessions run over.
type ByCarrier struct {
	n [link.TCP + 1]atomic.Uint64
}

// Add counts one.
func (b *ByCarrier) Add(c link.Carrier) { b.n[c].Add(1) }

// Count is the count of a carrier.
func (b *ByCarrier) Count(c link.Carrier) uint64 { return b.n[c].Load() }

// ByCode counts by code. Codes that this build does not know share one count, so that a peer cannot make it grow.
type ByCode struct {
	n [otherCode + 1]atomic.Uint64
}

const otherCode = wire.CodeInternal + 1

// Add counts one.
func (b *ByCode) Add(c wire.Code) { b.n[min(c, otherCode)].Add(1) }

// Each calls f with the name of each code, "other" for those that this build does not know, and its count.
func (b *ByCode) Each(f func(code string, n uint64)) {
	for c := range otherCode {
		f(c.String(), b.n[c].Load())
	}
	f("other", b.n[otherCode].Load())
}

// Count is the count of a code.
func (b *ByCode) Count(c wire.Code) uint64 { return b.n[min(c, otherCode)].Load() }
