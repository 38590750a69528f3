// Package api serves operators: the HTTP API under /v1 with its OpenAPI document, the events as a stream, and the health of
// the node.
//
// Every request passes the gate, which decides who asks and bounds what a request may cost, before a route sees it. Routes
// read immutable views and change nothing but through commands. A request that is refused changes nothing, and its answer is
// an RFC 9457 problem that names what is wrong.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
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

// History is where the records of devices and sites are read.
type History interface {
	Read(ctx context.Context, stream history.StreamID, q history.Query) ([]history.Record, history.Cursor, error)
}

// Config of New. All fields are required.
type Config struct {
	Registry Registry
	History  History
	Tracker  *liveness.Tracker
	Events   *events.Hub
	Pin      ident.KeyID       // id of the fleet root's key, which new tokens carry
	Cluster  func() v1.Cluster // the core as this node knows it
	Ready    func() error      // nil: this node can serve; otherwise why it cannot
	Version  string            // of this build
	Wall     func() time.Time
	Log      *slog.Logger
}

// New makes the API's handler. It starts nothing. A stream of events ends with its request's context, so give the server a
// base context that ends when the server drains.
func New(cfg Config) http.Handler {
	_, h := build(cfg)
	return h
}

func build(cfg Config) (*server, *gate) {
	mux := http.NewServeMux()
	s := &server{Config: cfg, streams: make(chan struct{}, maxStreams), api: humago.New(mux, humaConfig(cfg.Version))}
	s.deviceRoutes()
	s.historyRoutes()
	s.tokenRoutes()
	s.siteRoutes()
	s.nodeRoutes()
	s.eventRoutes()
	s.specRoute()
	return s, &gate{mux: mux, registry: cfg.Registry, log: cfg.Log}
}

// A server holds what the routes need.
type server struct {
	Config
	api     huma.API
	streams chan struct{} // one entry per open event stream; capacity maxStreams, and nobody waits for a place
	spec    []byte        // the OpenAPI document, set before the first request
}

// op describes an operation. Its error answers are added to those that every operation has.
func op(method, path, id, summary string) huma.Operation {
	o := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		Errors: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable},
		// The gate has read the body and bounded it. The value below clears the deadline that it had set for that.
		MaxBodyBytes: maxBody + 1, BodyReadTimeout: -1,
	}
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		o.Errors = append(o.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusGatewayTimeout)
	case http.MethodDelete:
		o.Errors = append(o.Errors, http.StatusGatewayTimeout)
	}
	return o
}

// public marks an operation that needs no token. The gate has the list that counts; a test compares them.
func public(o huma.Operation) huma.Operation {
	o.Security = []map[string][]string{}
	o.Errors = []int{http.StatusServiceUnavailable}
	return o
}

// missable marks an operation that answers 404 when its subject does not exist.
func missable(o huma.Operation) huma.Operation {
	o.Errors = append(o.Errors, http.StatusNotFound)
	return o
}

// add registers an operation, so that every error leaves as a problem.
func add[I, O any](s *server, o huma.Operation, handle func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, o, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, &o, err)
		}
		return out, nil
	})
}

// A reply is an answer that is only a body.
type reply[T any] struct{ Body T }

func answer[T any](v T) *reply[T] { return &reply[T]{Body: v} }

// Reading is the part of a query that says how fresh a read must be. It is exported, as are the other parts of requests, because huma
// finds only those.
type Reading struct {
	Consistency string `query:"consistency" enum:"linearizable,local" default:"linearizable" doc:"local: as this node knows it, without asking the majority"`
}

// view is the state that a read is answered from.
func (s *server) view(ctx context.Context, in Reading) (registry.View, error) {
	if in.Consistency != "local" {
		if err := s.Registry.Barrier(ctx); err != nil {
			return registry.View{}, err
		}
	}
	return s.Registry.View(), nil
}
