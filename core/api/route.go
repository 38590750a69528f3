package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// A route is an operation with all that the gate must know of it.
type route struct {
	huma.Operation
	access access
	time   time.Duration // deadline of a request; 0: it is a stream, which has none as a whole
	local  bool          // answered from what this node knows, without asking the majority
	tagged bool          // its subject has an ETag
	body   bool          // it takes one
	most   int64         // bytes of it
}

// changes tells whether the route is for changes.
func (rt *route) changes() bool { return rt.Method != http.MethodGet }

// pattern is the route as the mux knows it.
func (rt *route) pattern() string { return rt.Method + " " + rt.Path }

// on begins a route.
func on(method, path, id, summary string) *route {
	rt := &route{time: requestTime, most: maxBody}
	rt.Operation = huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		Errors: []int{
			http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge,
			http.StatusServiceUnavailable,
		},
		// The gate has read the body and bounded it. The value below clears the deadline that it had set for that.
		MaxBodyBytes: maxBody + 1, BodyReadTimeout: -1,
	}
	if rt.changes() {
		rt.Errors = append(rt.Errors, http.StatusConflict, http.StatusGatewayTimeout)
		rt.Parameters = append(rt.Parameters, headerParam("Idempotency-Key",
			"1 to 128 printable ASCII characters: within a day the same request with the same key takes effect once and gets the same reply", maxKey))
	}
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		rt.Errors = append(rt.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	return rt
}

func headerParam(name, doc string, most int) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: huma.TypeString, MaxLength: &most}}
}

// says gives the route a description.
func (rt *route) says(text string) *route {
	rt.Description = text
	return rt
}

// missable marks a route that answers 404 when its subject does not exist, or must not be known to the operator.
func (rt *route) missable() *route {
	rt.Errors = append(rt.Errors, http.StatusNotFound)
	return rt
}

// makes marks a route that answers 201.
func (rt *route) makes() *route {
	rt.DefaultStatus = http.StatusCreated
	return rt
}

// has marks a route whose subject has an ETag.
func (rt *route) has() *route {
	rt.tagged = true
	if rt.changes() {
		rt.Errors = append(rt.Errors, http.StatusPreconditionFailed)
		rt.Parameters = append(rt.Parameters, headerParam("If-Match", `the ETag that the subject must have, or *`, maxTag))
	}
	return rt
}

// here marks a route that is answered from what this node knows.
func (rt *route) here() *route {
	rt.local = true
	return rt
}

// within gives the route another deadline.
func (rt *route) within(d time.Duration) *route {
	rt.time = d
	return rt
}

// upload marks a route that takes a body of up to most bytes, and time for it. Few such requests are served at a time.
func (rt *route) upload(most int64) *route {
	rt.most, rt.MaxBodyBytes = most, most+1
	return rt.within(uploadTime)
}

// full marks a route that answers 507 when there is no room.
func (rt *route) full() *route {
	rt.Errors = append(rt.Errors, http.StatusInsufficientStorage)
	return rt
}

// large tells whether the route takes bodies of which only few have room.
func (rt *route) large() bool { return rt.most > maxBody }

// bodyTime is how long a request's body may take to arrive.
func (rt *route) bodyTime() time.Duration {
	if rt.large() {
		return uploadTime
	}
	return requestTime
}

// endless marks a stream, whose answer is text of the content type in which each part is a model.
func (rt *route) endless() *route { return rt.within(0) }

// answers replaces the description of the answer.
func (rt *route) answers(contentType, text string, schema *huma.Schema) *route {
	rt.Responses = map[string]*huma.Response{"200": {Description: text, Content: map[string]*huma.MediaType{contentType: {Schema: schema}}}}
	return rt
}

// A call is one request that is permitted: who asks, and on which view it is answered.
type call struct {
	*ticket
	view registry.View
	now  time.Time
}

// add registers a route, so that nothing is handled that is not permitted, and every error leaves as a problem.
func add[I, O any](s *server, rt *route, a access, handle func(context.Context, *call, *I) (*O, error)) {
	rt.access = a
	_, rt.body = reflect.TypeFor[I]().FieldByName("Body")
	_, raw := reflect.TypeFor[I]().FieldByName("RawBody")
	rt.body = rt.body || raw
	if a.public {
		rt.Security, rt.Errors = []map[string][]string{}, []int{http.StatusServiceUnavailable}
	}
	s.table[rt.pattern()] = rt
	huma.Register(s.api, rt.Operation, func(ctx context.Context, in *I) (*O, error) {
		t := ticketOf(ctx)
		c, err := s.admit(ctx, t, rt, in)
		if err != nil {
			return nil, s.problem(ctx, t, rt, err)
		}
		out, err := handle(ctx, c, in)
		if err != nil {
			return nil, s.problem(ctx, t, rt, err)
		}
		return out, nil
	})
}

// admit decides on the view that answers the request whether it is served.
func (s *server) admit(ctx context.Context, t *ticket, rt *route, in any) (*call, error) {
	if rt.access.public {
		return &call{ticket: t}, nil
	}
	if t == nil || t.who == nil { // it came past the gate
		return nil, registry.ErrUnauthenticated
	}
	if !rt.local && !localRead(in) {
		if err := s.barrier(ctx); err != nil {
			return nil, err
		}
	}
	v := s.Registry.View()
	now := s.now(v)
	who, _ := v.OperatorByID(t.who.ID)
	if err := rt.access.permit(v, who, in, now); err != nil {
		return nil, err
	}
	s.Tally.Used(who.ID, t.source)
	t.who = who
	return &call{ticket: t, view: v, now: now}, nil
}

// localRead tells whether the query of a request says that this node's own knowledge will do.
func localRead(in any) bool {
	read, ok := in.(interface{ local() bool })
	return ok && read.local()
}

// barrier waits for the newest state. Its time is bounded even where the request's is not.
func (s *server) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return s.Registry.Barrier(ctx)
}

// sees tells whether the operator may know of what belongs to a site.
func (c *call) sees(site string) bool {
	return c.maySee(demand{registry.ActSee, registry.ScopeSite(site)})
}

func (c *call) maySee(d demand) bool { return d.permit(c.who, c.now) == nil }

// actor is who asks, as commands carry it.
func (c *call) actor() command.Actor {
	return command.Actor{Operator: c.who.ID, Request: c.id, Source: c.source, Once: c.once, Revision: c.revision}
}

// propose commits a command of the call's operator. Its result is a T.
func propose[T any](ctx context.Context, s *server, c *call, cmd command.Operated) (T, error) {
	*cmd.Actor() = c.actor()
	res, err := s.Registry.Propose(ctx, cmd)
	if err != nil {
		var none T
		return none, err
	}
	out, ok := res.(T)
	if !ok {
		return out, fmt.Errorf("%T was answered with a %T", cmd, res)
	}
	c.tell(res)
	return out, nil
}
