package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

const (
	// maxStreams bounds the event streams that are open at a time: a stream holds a connection and a queue.
	maxStreams = 64
	// keepAlive is the longest silence on a stream: shorter than proxies wait.
	keepAlive = 15 * time.Second
	// streamWrite is how long a client may take to receive one event.
	streamWrite = 10 * time.Second

	eventsPath = "/v1/events"
)

// isStream tells whether a request has no deadline as a whole.
func isStream(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Path == eventsPath }

func eventTypes() []string {
	return []string{
		registry.EventDeviceEnrolled, registry.EventDeviceRegistered, registry.EventDeviceOnline, registry.EventDeviceOffline,
		registry.EventDeviceTagged, registry.EventDeviceChanged, registry.EventDeviceQuarantined, registry.EventStatementConflict,
		registry.EventGatewayEnrolled, registry.EventSiteChanged, registry.EventSiteUnreachable, registry.EventSiteReachable,
		registry.EventTokenCreated, registry.EventTokenRevoked,
	}
}

func (s *server) eventRoutes() {
	o := op(http.MethodGet, eventsPath, "events", "Events as they are committed")
	o.Description = "Server-sent events. The event's name is its type, its data an Event, its id a place to resume from " +
		"with the header Last-Event-ID. A comment comes every 15 s. A stream that ends with the event \"lagged\" has lost events: " +
		"read the state afresh and subscribe again."
	model := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.Event](), true, "Event")
	o.Responses = map[string]*huma.Response{"200": {
		Description: "the data of each event is an Event",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: model}},
	}}
	add(s, o, s.events)
}

type eventsInput struct {
	After  string `query:"after" maxLength:"40" doc:"a log index or the id of an event: begin behind it, with what is still kept; absent: new events only"`
	LastID string `header:"Last-Event-ID" maxLength:"40" doc:"as after, which wins"`
	Device string `query:"device" maxLength:"64"`
	Site   string `query:"site" maxLength:"63"`
	Type   string `query:"type" maxLength:"64"`
}

// A place is where a stream begins: behind the first skip events of the index after the one named.
type place struct {
	after uint64
	skip  int
}

// A subscription is what a stream wants.
type subscription struct {
	place
	device, site, kind string // empty: all
}

func (s *server) events(_ context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	sub := subscription{device: in.Device, site: in.Site, kind: in.Type}
	var err error
	location, from := "query.after", in.After
	if from == "" {
		location, from = "header.Last-Event-ID", in.LastID
	}
	if sub.place, err = parsePlace(location, from); err != nil {
		return nil, err
	}
	if in.Device != "" {
		if _, err := ident.ParseDeviceID(in.Device); err != nil {
			return nil, invalid("query.device", "%v", err)
		}
	}
	if in.Site != "" {
		if err := ident.CheckName("site", in.Site); err != nil {
			return nil, invalid("query.site", "%v", err)
		}
	}
	if in.Type != "" && !slices.Contains(eventTypes(), in.Type) {
		return nil, invalid("query.type", "is none of %s", strings.Join(eventTypes(), ", "))
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		s.stream(w, r, &sub)
	}}, nil
}

// parsePlace reads index, or index.n as the ids of events are written.
func parsePlace(location, text string) (place, error) {
	if text == "" {
		return place{after: math.MaxUint64}, nil
	}
	head, tail, isID := strings.Cut(text, ".")
	index, err := strconv.ParseUint(head, 10, 64)
	if err != nil || isID && index == 0 {
		return place{}, invalid(location, "%.40q is neither a log index nor the id of an event", text)
	}
	if !isID {
		return place{after: index}, nil
	}
	n, err := strconv.ParseUint(tail, 10, 31)
	if err != nil {
		return place{}, invalid(location, "%.40q is neither a log index nor the id of an event", text)
	}
	return place{after: index - 1, skip: int(n) + 1}, nil
}

// stream answers with events until the client or the node goes, or the client does not keep up.
func (s *server) stream(w http.ResponseWriter, r *http.Request, want *subscription) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		writeProblem(w, later(v1.ProblemBusy, fmt.Sprintf("%d event streams are open on this node, which is the most: close one or ask another node", maxStreams)))
		return
	}
	sub := s.Events.Subscribe(want.after)
	defer sub.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := &sse{w: w, rc: http.NewResponseController(w)}
	err := out.flush()
	if err == nil {
		err = out.run(r.Context(), sub, want)
	}
	s.Log.Debug("event stream ended", "err", err)
}

// sse writes server-sent events to one client.
type sse struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	index uint64 // of the newest event
	n     int    // its position among those of its index
}

// run passes events on until it cannot; the error says why.
func (o *sse) run(ctx context.Context, sub *events.Sub, want *subscription) error {
	for {
		e, err := next(ctx, sub)
		switch {
		case err == nil:
			err = o.event(&e, want)
		case errors.Is(err, events.ErrLagged):
			return errors.Join(err, o.send("event: lagged\ndata: {\"detail\":\"this stream has lost events: read the state afresh and subscribe again\"}\n\n"))
		case ctx.Err() == nil:
			err = o.send(": keep-alive\n\n")
		}
		if err != nil {
			return err
		}
	}
}

// next waits for an event, at most until it is time for a sign of life.
func next(ctx context.Context, sub *events.Sub) (registry.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, keepAlive)
	defer cancel()
	return sub.Next(ctx)
}

// event sends an event, if it is wanted.
func (o *sse) event(e *registry.Event, want *subscription) error {
	if o.n++; e.Index != o.index {
		o.index, o.n = e.Index, 0
	}
	if e.Index == want.after+1 && o.n < want.skip || !want.wants(e) {
		return nil
	}
	b, err := json.Marshal(event(e))
	if err != nil {
		return fmt.Errorf("event of index %d: %w", e.Index, err)
	}
	return o.send(fmt.Sprintf("id: %d.%d\nevent: %s\ndata: %s\n\n", o.index, o.n, e.Type, b))
}

func (want *subscription) wants(e *registry.Event) bool {
	return (want.device == "" || e.Device == want.device) && (want.site == "" || e.Site == want.site) && (want.kind == "" || e.Type == want.kind)
}

// send writes and flushes within streamWrite.
func (o *sse) send(text string) error {
	if err := o.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound the write: %w", err)
	}
	if _, err := o.w.Write([]byte(text)); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	return o.flush()
}

// flush sends what is written and lifts the deadline for it: HTTP/2 would reset a stream whose deadline passes in silence.
func (o *sse) flush() error {
	if err := o.rc.Flush(); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	if err := o.rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("lift the write's bound: %w", err)
	}
	return nil
}
