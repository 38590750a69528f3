// Package client speaks the operators' HTTP API of a core node: requests with limits, pages, problems as typed errors, and
// the event stream.
//
// A Client starts no goroutine that outlives a call. It keeps to the one address it was given: no proxy, no redirect, no
// certificate authority but the fleet's.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// requestTime bounds one request with its answer: a core that cannot answer for so long has no quorum or no network.
	requestTime = 15 * time.Second
	// dialTime leaves some of requestTime for an answer.
	dialTime = 8 * time.Second
	// maxAnswer bounds an answer's body, in bytes. A page of 1000 devices with long profiles stays under 4 MiB.
	maxAnswer = 16 << 20
	// maxProblem bounds the body of a refusal, in bytes.
	maxProblem = 64 << 10
)

// Config says whom to talk to, and as whom.
type Config struct {
	URL   *url.URL       // scheme https, host and port; the path is not used
	Roots *x509.CertPool // the only authorities that may vouch for the server
	Token string         // bearer token
	Agent string         // User-Agent

	// Transport replaces the network. Nil: TLS 1.3 to URL.
	Transport http.RoundTripper
}

// A Client talks to one core node. It may be used by several goroutines.
type Client struct {
	base  url.URL
	token string
	agent string
	http  *http.Client

	date atomic.Int64 // Unix seconds of the newest answer's Date header; 0: none yet
}

// New makes a client. It sends nothing yet.
func New(c Config) *Client {
	t := c.Transport
	if t == nil {
		t = transport(c.Roots)
	}
	return &Client{
		base:  url.URL{Scheme: c.URL.Scheme, Host: c.URL.Host},
		token: c.Token,
		agent: c.Agent,
		http: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
		TLSHandshakeTimeout:    dialTime,
		ResponseHeaderTimeout:  requestTime,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        requestTime,
	}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Now is the core's time as its newest answer told it, to the second, so that ages do not depend on the local clock. Before
// the first answer, and when a server sends no date, it is local time.
func (c *Client) Now() time.Time {
	if s := c.date.Load(); s != 0 {
		return time.Unix(s, 0).UTC()
	}
	return time.Now().UTC()
}

// Get reads path into a T, again while the core asks to wait a little. Errors: as Send.
func Get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var v T
	b, err := c.retry(ctx, func(ctx context.Context) ([]byte, error) { return c.exchange(ctx, http.MethodGet, path, query, nil) })
	if err != nil {
		return v, err
	}
	return v, decode(b, &v)
}

// Send sends body (nil: none) and reads the answer into a T; an answer without a body leaves the zero T. It is tried once,
// since the core may have done what was asked though its answer was lost. Errors: *Problem where the core refused, ErrOutcome
// where no answer came though the request may have arrived, ErrUnreachable, ErrUntrusted, ErrAnswer, or ctx's.
func Send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return v, fmt.Errorf("encode the request: %w", err)
		}
	}
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}
	b, err := c.exchange(httptrace.WithClientTrace(ctx, trace), method, path, nil, data)
	if errors.Is(err, ErrUnreachable) && sent.Load() {
		return v, fmt.Errorf("%w: %w", ErrOutcome, err)
	}
	if err != nil || len(b) == 0 {
		return v, err
	}
	return v, decode(b, &v)
}

func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// exchange sends one request and reads its whole answer.
func (c *Client) exchange(ctx context.Context, method, path string, query url.Values, body []byte) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := c.do(bounded, method, path, query, body)
	if err != nil {
		return nil, cause(ctx, err)
	}
	b, err := readAll(resp.Body, maxAnswer)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, cause(ctx, err)
	}
	return b, nil
}

// do sends one request. The caller closes the body of the answer, whose status is 2xx.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	u := c.base.String() + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", c.agent)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.date.Store(at.Unix())
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	problem, err := readProblem(resp, c.Now())
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	return nil, problem
}

// readAll reads at most limit bytes; more is ErrAnswer.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: longer than %d bytes", ErrAnswer, limit)
	}
	return b, err
}

// Path joins segments to a path of the API, each escaped.
func Path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}
