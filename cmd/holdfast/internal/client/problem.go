package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What can go wrong with the connection or the answer.
var (
	// ErrUnreachable: no answer came: no route, no listener, a name that does not resolve, or a timeout.
	ErrUnreachable = errors.New("the core cannot be reached")
	// ErrUntrusted: the server's certificate is not the fleet's, not for this address, or out of date.
	ErrUntrusted = errors.New("the server's certificate is not trusted")
	// ErrAnswer: an answer that no core gives.
	ErrAnswer = errors.New("the answer is not one of a core")
)

// The classes of a Problem.
var (
	ErrInvalid      = errors.New("invalid request")
	ErrUnauthorised = errors.New("unknown bearer token")
	ErrForbidden    = errors.New("not permitted")
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("conflict")
	ErrUnavailable  = errors.New("unavailable")
	ErrFull         = errors.New("no room")
	ErrRefused      = errors.New("the core failed")
)

// ErrOutcome says that nobody knows whether a change was made. The core's answer says so, or it did not come.
var ErrOutcome = errors.New("the outcome is unknown")

// A Problem is the core's refusal (RFC 9457). It unwraps to its class.
type Problem struct { //nolint:errname // RFC 9457 calls it so
	Type   string       `json:"type"`
	Status int          `json:"status"`
	Title  string       `json:"title"`
	Detail string       `json:"detail"`
	Errors []FieldError `json:"errors"`

	// RetryAfter is how long the core asks to wait; 0: it does not say.
	RetryAfter time.Duration `json:"-"`
}

// A FieldError says what is wrong with one value of a request.
type FieldError struct {
	Message  string `json:"message"`
	Location string `json:"location"` // such as body.site
}

// Error is the detail, or the title, and what is wrong with which field. It is one line as long as the core's words are.
func (p *Problem) Error() string {
	parts := []string{p.Detail}
	if p.Detail == "" {
		parts[0] = p.Title
	}
	if parts[0] == "" {
		parts[0] = strings.TrimSpace(strconv.Itoa(p.Status) + " " + http.StatusText(p.Status))
	}
	for _, e := range p.Errors {
		s := e.Message
		if e.Location != "" {
			s = e.Location + ": " + s
		}
		if s != parts[0] { // the detail of a core names the first field itself
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ", ")
}

// Unwrap is the class, by the HTTP status.
func (p *Problem) Unwrap() error {
	switch p.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return ErrInvalid
	case http.StatusUnauthorized:
		return ErrUnauthorised
	case http.StatusForbidden:
		return ErrForbidden
	case http.StatusNotFound, http.StatusGone:
		return ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return ErrConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		return ErrUnavailable
	case http.StatusInsufficientStorage:
		return ErrFull
	case http.StatusGatewayTimeout:
		return ErrOutcome
	default:
		return ErrRefused
	}
}

// readProblem reads a refusal. A body that is no problem document (a proxy's page, say) is not quoted.
func readProblem(resp *http.Response, now time.Time) (*Problem, error) {
	b, err := readAll(resp.Body, maxProblem)
	if err != nil && !errors.Is(err, ErrAnswer) {
		return nil, err
	}
	p := &Problem{}
	if err != nil || json.Unmarshal(b, p) != nil {
		p = &Problem{}
	}
	p.Status = resp.StatusCode
	p.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), now)
	return p, nil
}

// retryAfter reads the header's two forms, seconds and a date. What it cannot read is 0.
func retryAfter(v string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// cause classifies an error of a request whose caller's context is ctx and that could take the given time. Problems and answers pass unchanged.
func cause(ctx context.Context, err error, within time.Duration) error {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // its text repeats the method and the whole address
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("%w: no answer within %v: %w", ErrUnreachable, within, err)
	}
	if errors.Is(err, ErrAnswer) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
