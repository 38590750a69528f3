package link

import (
	"context"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// A hearing notes whether anything of a peer that is dialled arrives over UDP: a Retry, an acknowledgement, the first half of a
// handshake. Such a peer is slow, and not out of reach. It listens to what the library records of a connection.
type hearing struct{ heard atomic.Bool }

// trace has the library record to h.
func (h *hearing) trace(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return h }

// AddProducer implements qlogwriter.Trace.
func (h *hearing) AddProducer() qlogwriter.Recorder { return h }

// RecordEvent implements qlogwriter.Recorder.
func (h *hearing) RecordEvent(e qlogwriter.Event) {
	switch e.(type) {
	case qlog.PacketReceived, qlog.PacketBuffered: // the latter waits for its keys
		h.heard.Store(true)
	}
}

// Close implements qlogwriter.Recorder.
func (h *hearing) Close() error { return nil }
