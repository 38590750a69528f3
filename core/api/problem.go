package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
)

const (
	maxDetails = 8   // problems of single fields that one answer lists
	maxText    = 300 // bytes of each text in a problem
)

// newProblem makes a problem with one field, location, and what is wrong with it.
func newProblem(status int, kind, location, message string) *huma.ErrorModel {
	p := &huma.ErrorModel{Type: kind, Title: http.StatusText(status), Status: status, Detail: clip(message)}
	if location != "" {
		p.Detail = clip(location + ": " + message)
		p.Errors = []*huma.ErrorDetail{{Location: clip(location), Message: clip(message)}}
	}
	return p
}

// problemf is newProblem with a format.
func problemf(status int, kind, location, format string, args ...any) error {
	return newProblem(status, kind, location, fmt.Sprintf(format, args...))
}

// invalid refuses one field of a request.
func invalid(location, format string, args ...any) error {
	return problemf(http.StatusUnprocessableEntity, v1.ProblemInvalid, location, format, args...)
}

func notFound(location, message string) error {
	return newProblem(http.StatusNotFound, v1.ProblemNotFound, location, message)
}

func internal() *huma.ErrorModel {
	return newProblem(http.StatusInternalServerError, v1.ProblemInternal, "", "a fault of this node; its log says more")
}

// later is a problem that goes away: nothing was done, and the same request may be sent again.
func later(kind, message string) error {
	return huma.ErrorWithHeaders(newProblem(http.StatusServiceUnavailable, kind, "", message), http.Header{"Retry-After": {"1"}})
}

// tooMany refuses what goes beyond a limit of frequency; after so many seconds there is room for one more.
func tooMany(location, message string, seconds int) error {
	return huma.ErrorWithHeaders(
		newProblem(http.StatusTooManyRequests, v1.ProblemLimited, location, message+": wait as long as Retry-After says"),
		http.Header{"Retry-After": {strconv.Itoa(max(1, seconds))}})
}

// problem is what the sender of a request is told of an error. rt is nil when no route takes the request, t when it came past
// the gate. Refusals of operators are counted on the way.
func (s *server) problem(ctx context.Context, t *ticket, rt *route, err error) error {
	if t != nil && t.who != nil {
		s.countDenial(t, rt, err)
	}
	if _, ok := errors.AsType[huma.StatusError](err); ok {
		return err
	}
	switch {
	case errors.Is(err, raftstore.ErrUnknownOutcome):
		// Beside it may be the error of the context or of the store, so this comes first.
		return unknownOutcome()
	case errors.Is(err, content.ErrNoMajority), errors.Is(err, content.ErrUnreached): // with the reasons of single nodes beside it
		return contentProblem(err)
	case errors.Is(err, raftstore.ErrUnreachable) && rt != nil && rt.changes():
		return unknownOutcome()
	case errors.Is(err, registry.ErrUnauthenticated):
		return unauthorized(registry.ErrUnauthenticated.Error())
	}
	if p := contentProblem(err); p != nil {
		return p
	}
	if p := refused(err); p != nil {
		return p
	}
	if p := unavailable(err); p != nil {
		return p
	}
	id, request := "", ""
	if rt != nil {
		id = rt.OperationID
	}
	if t != nil {
		request = t.id
	}
	s.Log.ErrorContext(ctx, "request not answered", "operation", id, "request", request, "err", err)
	return internal()
}

// refused is the problem of what cannot be done however often it is asked for, or nil.
func refused(err error) error {
	switch {
	case errors.Is(err, registry.ErrForbidden):
		return newProblem(http.StatusForbidden, v1.ProblemForbidden, "", err.Error())
	case errors.Is(err, registry.ErrNotFound):
		return notFound("", err.Error())
	case errors.Is(err, raftstore.ErrNotMember):
		return notFound("", "the core has no such node")
	case errors.Is(err, registry.ErrReused):
		return newProblem(http.StatusConflict, v1.ProblemReused, "header."+keyHeader, "was used for another request within the last day: take another")
	case errors.Is(err, registry.ErrRevision):
		return newProblem(http.StatusPreconditionFailed, v1.ProblemPrecondition, "header.If-Match",
			"names a state of the record that is not its newest: nothing was done; read it again")
	case errors.Is(err, raftstore.ErrLastVoter):
		return newProblem(http.StatusUnprocessableEntity, v1.ProblemInvalid, "", "the core would be left without a node that can lead")
	case errors.Is(err, registry.ErrInvalid), errors.Is(err, raftstore.ErrTooLarge):
		return newProblem(http.StatusUnprocessableEntity, v1.ProblemInvalid, "", err.Error())
	case errors.Is(err, registry.ErrExists), errors.Is(err, registry.ErrRetry), errors.Is(err, registry.ErrInUse):
		return newProblem(http.StatusConflict, v1.ProblemConflict, "", err.Error())
	}
	return nil
}

// unavailable is the problem of what another node can do, or this one later, or nil.
func unavailable(err error) error {
	switch {
	case errors.Is(err, raftstore.ErrNotLeader):
		return notLeader(err)
	case errors.Is(err, history.ErrIncomplete):
		return later(v1.ProblemUnavailable, "this node fetches history that it lacks: ask another node")
	case errors.Is(err, registry.ErrNoFleet), errors.Is(err, raftstore.ErrClosed), errors.Is(err, history.ErrClosed):
		return later(v1.ProblemUnavailable, "this node is starting or stopping: nothing was done, try again or ask another node")
	case errors.Is(err, raftstore.ErrUnreachable), errors.Is(err, raftstore.ErrRemoved):
		return later(v1.ProblemUnavailable, "this node does not reach the core: nothing was done, ask another node")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return later(v1.ProblemUnavailable, "the core did not answer in time: nothing was done, try again")
	}
	return nil
}

func unknownOutcome() error {
	return newProblem(http.StatusGatewayTimeout, v1.ProblemOutcomeUnknown, "",
		"nobody can tell yet whether the change was made: repeat it with the same idempotency key, or read the state before you try again")
}

// countDenial counts the refusal of an operator for the audit trail. Failed authentications have been counted already.
func (s *server) countDenial(t *ticket, rt *route, err error) {
	reason := ""
	if d, ok := errors.AsType[*denial](err); ok {
		reason = d.reason
	} else if errors.Is(err, registry.ErrForbidden) {
		reason = "forbidden"
	} else if errors.Is(err, registry.ErrUnauthenticated) {
		reason = reasonRevoked
	}
	if reason == "" {
		return
	}
	action := "none"
	if rt != nil {
		action = rt.OperationID
	}
	s.refuse(action, "operator:"+t.who.ID, t.source, reason)
}

// refuse counts a refusal, for the audit trail and the metrics. It is not logged: whoever sends much would write our log.
func (s *server) refuse(action, actor, source, reason string) {
	s.Tally.Note(action, actor, source, reason)
	s.metrics.refusals.WithLabelValues(reason).Inc()
}

func notLeader(err error) error {
	hint, ok := errors.AsType[*raftstore.NotLeaderError](err)
	if !ok || hint.LeaderID == "" {
		return later(v1.ProblemNotLeader, "the core has no leader at present: nothing was done, try again")
	}
	return later(v1.ProblemNotLeader, fmt.Sprintf("node %s leads the core, this one does not: nothing was done, ask that node", hint.LeaderID))
}

// tidy is a huma.Transformer for the problems that huma makes: it gives them a type and a detail that names the field, and
// takes out what they repeat of the request, which for many bad fields can be a thousand times the request's size.
func tidy(_ huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*huma.ErrorModel)
	if !ok || p.Type != "" {
		return v, nil
	}
	out := &huma.ErrorModel{Type: v1.ProblemInvalid, Title: http.StatusText(p.Status), Status: p.Status, Detail: clip(p.Detail)}
	if p.Status >= http.StatusInternalServerError {
		out.Type = v1.ProblemInternal
	}
	for _, d := range p.Errors {
		if len(out.Errors) == maxDetails {
			break
		}
		if d != nil {
			out.Errors = append(out.Errors, &huma.ErrorDetail{Location: clip(d.Location), Message: clip(d.Message)})
		}
	}
	if len(out.Errors) > 0 {
		out.Detail = clip(out.Errors[0].Location + ": " + out.Errors[0].Message)
	} else if out.Status == http.StatusBadRequest {
		out.Detail = clip("body: " + p.Detail) // of the problems without a field, all that are left are about the body
	}
	return out, nil
}

// clip bounds a text and keeps it UTF-8.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "")
	}
	return s
}

// writeProblem answers with an error that no operation made.
func writeProblem(w http.ResponseWriter, err error) {
	p, ok := errors.AsType[*huma.ErrorModel](err)
	if !ok {
		p = internal()
	}
	if with, ok := errors.AsType[huma.HeadersError](err); ok {
		maps.Copy(w.Header(), with.GetHeaders())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	b, err := json.Marshal(p)
	if err != nil {
		b = nil // strings and numbers encode
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // when the client is gone there is nobody else to tell
}
