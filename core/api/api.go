// Package api serves operators: the HTTP API under /v1 with its OpenAPI document, the events as a stream, the node's metrics
// and its health.
//
// Every request passes the gate, which decides who asks and bounds what a request may cost, before a route sees it. What it
// takes to use a route is declared with the route, in the one table of this package, and registry.Permit alone decides: once
// by what the gate knows of the token, once on the view that the request is answered from, and for changes once more in the
// log entry that makes them. Routes read immutable views and change nothing but through commands. A request that is refused
// changes nothing, and its answer is an RFC 9457 problem that names what is wrong.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/core/tally"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Registry is the replicated state.
type Registry interface {
	// View is the state as this node knows it.
	View() registry.View
	// Propose commits a command. The result is what the command says; a refusal by the registry is the error.
	Propose(ctx context.Context, c command.Command) (any, error)
	// Barrier waits until View shows everything that was committed before the call.
	Barrier(ctx context.Context) error
}

// History is where the records of devices, sites and the audit trail are read.
type History interface {
	Read(ctx context.Context, stream history.StreamID, q history.Query) ([]history.Record, history.Cursor, error)
}

// Cluster is the core as a set of nodes. Errors are those of raftstore and registry, wrapped.
type Cluster interface {
	// Status is the core as this node knows it.
	Status(ctx context.Context) v1.Cluster
	// Remove ends the membership of a node, by proposing a command.RemoveNode whose actor is by. That command must be
	// proposed even when the node is no member any more if by.Once is set: it may be a repetition.
	Remove(ctx context.Context, by command.Actor, name string) error
	// Snapshot makes this node write a snapshot of its state now.
	Snapshot(ctx context.Context) (v1.Snapshot, error)
	// Transfer makes another node lead: to, or whichever is best when to is empty.
	Transfer(ctx context.Context, to string) error
}

// Content is what artifacts consist of, on all nodes of the core. Errors are those of package content, wrapped.
type Content interface {
	// Put stores chunks, and returns when a majority of the nodes have them on their disks.
	Put(ctx context.Context, v content.Verified) error
	// Lacking returns those of the chunks that are not known to be on the disks of a majority, and touches the others.
	Lacking(ctx context.Context, list []wire.Digest) ([]wire.Digest, error)
	// Join puts the parts of a manifest together and holds them against its digest.
	Join(ctx context.Context, parts []wire.Digest, d wire.Digest) ([]byte, error)
}

// Config of New. All fields but Metrics are required.
type Config struct {
	Registry Registry
	History  History
	Tracker  *liveness.Tracker
	Events   *events.Hub
	Node     string // this node's name
	Cluster  Cluster
	Content  Content
	Tally    *tally.Book // takes refusals and uses; its owner runs it
	Pin      ident.KeyID // id of the fleet root's key, which new tokens carry

	// Sign seals a head of the audit trail with the fleet's authority.
	Sign func(*seal.AuditHead) ([]byte, error)
	// SignPublishers seals the first set of publishers with the same key.
	SignPublishers func(*seal.PublisherSet) ([]byte, error)
	// Authority is the certificate of the key that Sign uses, as DER.
	Authority []byte
	// Derive is a keyed one-way function that all nodes of the core share. Secrets that are made under an idempotency key
	// come from it, so that whichever node is asked again shows the same secret and none is kept.
	Derive func(label string, data []byte) [32]byte

	Ready   func() error           // nil: this node can serve; otherwise why it cannot: see UnreadyError
	Metrics []prometheus.Collector // what /metrics shows beside the API's own, of which none may have the name
	Version string                 // of this build
	Wall    func() time.Time
	Log     *slog.Logger
}

// New makes the API's handler. It starts nothing. Streams end with their request's context, so give the server a base context
// that ends when the server drains.
func New(cfg Config) http.Handler {
	_, h := build(cfg, defaultLimits)
	return h
}

func build(cfg Config, most limits) (*server, *gate) {
	mux := http.NewServeMux()
	s := &server{
		Config: cfg, api: humago.New(mux, humaConfig(cfg.Version)), table: make(map[string]*route),
		streams: &places{most: most.streams, each: most.streamsEach},
	}
	s.metrics = newMetrics(cfg.Metrics, s.streams, cfg.Log)
	s.routes()
	s.document()
	return s, newGate(s, mux, most)
}

// A server holds what the routes need.
type server struct {
	Config
	api     huma.API
	table   map[string]*route // by method and pattern; complete before the first request
	streams *places           // for answers that have no end
	metrics *metrics
	spec    []byte // the OpenAPI document, set before the first request
}

// now is the time at which permissions are looked at: the machine's, but never before the newest entry of the log.
func (s *server) now(v registry.View) time.Time {
	now := s.Wall()
	if t := v.Time(); t.After(now) {
		return t
	}
	return now
}

// A reply is an answer that is only a body.
type reply[T any] struct{ Body T }

func answer[T any](v T) *reply[T] { return &reply[T]{Body: v} }

// Reading is the part of a query that says how fresh a read must be. It is exported, as are the other parts of requests, because huma
// finds only those.
type Reading struct {
	Consistency string `query:"consistency" enum:"linearizable,local" default:"linearizable" doc:"local: as this node knows it, without asking the majority"`
}

// local tells whether this node's own knowledge will do.
func (in Reading) local() bool { return in.Consistency == "local" }
