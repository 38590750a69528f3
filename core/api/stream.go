package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
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
	// keepAlive is the longest silence on a stream: shorter than proxies wait.
	keepAlive = 15 * time.Second
	// streamWrite is how long a client may take to receive one piece of a stream.
	streamWrite = 10 * time.Second

	eventsText = "Server-sent events. The event's name is its type, its data an Event, its id a place to resume from " +
		"with the header Last-Event-ID. A comment comes every 15 s. A stream that ends with the event \"lagged\" has lost events: " +
		"read the state afresh and subscribe again. One that ends with the event \"error\", whose data is a problem, ended because " +
		"the operator's token did."
)

func eventTypes() []string {
	return []string{
		registry.EventDeviceEnrolled, registry.EventDeviceRegistered, registry.EventDeviceOnline, registry.EventDeviceOffline,
		registry.EventDeviceTagged, registry.EventDeviceChanged, registry.EventDeviceQuarantined, registry.EventDeviceReleased,
		registry.EventStatementConflict, registry.EventStatementsLost, registry.EventGatewayEnrolled, registry.EventGatewayRevoked,
		registry.EventGatewayDoubted, registry.EventGatewayStarted, registry.EventGatewayForked, registry.EventSiteChanged, registry.EventSiteUnreachable,
		registry.EventSiteReachable, registry.EventTokenCreated, registry.EventTokenRevoked, registry.EventOperatorCreated,
		registry.EventOperatorRevoked, registry.EventNodeJoined, registry.EventNodeChanged, registry.EventNodeRemoved, registry.EventNodeRecovered,
		registry.EventDeviceAssigned, registry.EventDeviceStatus, registry.EventDeviceAlarm, registry.EventArtifactAdded, registry.EventArtifactDeleted,
		registry.EventPublishersChanged,
	}
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

func (s *server) events(_ context.Context, c *call, in *eventsInput) (*huma.StreamResponse, error) {
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
		s.stream(w, r, c, &sub)
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

// tooManyStreams is the answer when no place is left.
func tooManyStreams() error {
	return later(v1.ProblemBusy, "as many streams are open on this node, or for this operator, as may be: close one or ask another node")
}

// stream answers with events until the client or the node goes, the client does not keep up, or the operator's token ends.
func (s *server) stream(w http.ResponseWriter, r *http.Request, c *call, want *subscription) {
	if !s.streams.take(c.who.ID) {
		writeProblem(w, tooManyStreams())
		return
	}
	defer s.streams.free(c.who.ID)
	sub := s.Events.Subscribe(want.after)
	defer sub.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := &sse{slowWriter: slowWriter{w: w, rc: http.NewResponseController(w)}, server: s, call: c}
	err := out.flush()
	if err == nil {
		err = out.run(r.Context(), sub, want)
	}
	s.Log.Debug("event stream ended", "request", c.id, "err", err)
}

// sse writes server-sent events to one client.
type sse struct {
	slowWriter
	server *server
	call   *call
	index  uint64 // of the newest event
	n      int    // its position among those of its index
}

// run passes events on until it cannot; the error says why. Whatever wakes it, the operator's permission is asked for first:
// each revocation is itself an event, and an end that was foreseen is waited for.
func (o *sse) run(ctx context.Context, sub *events.Sub, want *subscription) error {
	for {
		e, err := o.next(ctx, sub)
		if ctx.Err() == nil {
			if denied := o.server.still(o.call, demand{registry.ActSee, registry.ScopeOwn()}); denied != nil {
				return errors.Join(denied, o.end())
			}
		}
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

// end tells the client that its operator's token has ended.
func (o *sse) end() error {
	b, err := json.Marshal(newProblem(http.StatusUnauthorized, v1.ProblemUnauthorized, "", registry.ErrUnauthenticated.Error()))
	if err != nil {
		return fmt.Errorf("problem: %w", err)
	}
	return o.send(fmt.Sprintf("event: error\ndata: %s\n\n", b))
}

// next waits for an event, at most until it is time for a sign of life, or the operator's token ends.
func (o *sse) next(ctx context.Context, sub *events.Sub) (registry.Event, error) {
	wait := keepAlive
	if end := o.call.who.ExpiresMS; end != 0 {
		wait = max(0, min(wait, time.UnixMilli(end).Sub(o.server.Wall())))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return sub.Next(ctx)
}

// event sends an event, if it is wanted.
func (o *sse) event(e *registry.Event, want *subscription) error {
	if o.n++; e.Index != o.index {
		o.index, o.n = e.Index, 0
	}
	if e.Index == want.after+1 && o.n < want.skip || !want.wants(e) || !o.hears(e) {
		return nil
	}
	b, err := json.Marshal(event(e))
	if err != nil {
		return fmt.Errorf("event of index %d: %w", e.Index, err)
	}
	return o.send(fmt.Sprintf("id: %d.%d\nevent: %s\ndata: %s\n\n", o.index, o.n, e.Type, b))
}

// hears tells whether the operator may know of an event.
func (o *sse) hears(e *registry.Event) bool { return o.server.still(o.call, seeEvent(e)) == nil }

func (want *subscription) wants(e *registry.Event) bool {
	return (want.device == "" || e.Device == want.device) && (want.site == "" || e.Site == want.site) && (want.kind == "" || e.Type == want.kind)
}

// send writes a text.
func (o *sse) send(text string) error {
	return o.write(func(b *bufio.Writer) error {
		_, err := b.WriteString(text)
		return err
	})
}

// A slowWriter writes pieces of an answer to a client that may take streamWrite to receive each.
type slowWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// write sends what piece writes.
func (o *slowWriter) write(piece func(*bufio.Writer) error) error {
	if err := o.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound the write: %w", err)
	}
	b := bufio.NewWriter(o.w)
	if err := piece(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	return o.flush()
}

// flush sends what is written and lifts the deadline for it: HTTP/2 would reset a stream whose deadline passes in silence.
func (o *slowWriter) flush() error {
	if err := o.rc.Flush(); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	if err := o.rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("lift the write's bound: %w", err)
	}
	return nil
}
