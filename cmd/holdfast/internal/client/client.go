// Package client speaks the operators' HTTP API of a core of one or several nodes: requests with limits, pages, problems as
// typed errors, and answers that last, such as the event stream.
//
// A request goes to the node that worked last and, when that one cannot serve it, to the next. A change carries a key of its
// own, by which the core knows a repetition: it is sent again until its outcome is known.
//
// A Client starts no goroutine that outlives a call. It keeps to the addresses that it was given: no proxy, no redirect, no
// certificate authority but the fleet's.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// requestTime bounds one request with its answer, on however many nodes it is tried: a core that cannot answer for so long
	// has no quorum or no network.
	requestTime = 15 * time.Second
	// dialTime leaves some of requestTime for an answer.
	dialTime = 8 * time.Second
	// dialOneOf is dialTime where there are other nodes to try.
	dialOneOf = 2 * time.Second
	// answerOneOf is how long one of several nodes may take to begin its answer before the next one is asked.
	answerOneOf = 5 * time.Second
	// slowTime is requestTime for what a core may take a minute to do.
	slowTime = 75 * time.Second
	// slowOneOf is answerOneOf for that. A core gives up after a minute and says so.
	slowOneOf = 65 * time.Second
	// maxAnswer bounds an answer's body, in bytes. A page of 1000 devices with long profiles stays under 4 MiB.
	maxAnswer = 16 << 20
	// maxProblem bounds the body of a refusal, in bytes.
	maxProblem = 64 << 10
)

// Config says whom to talk to, and as whom.
type Config struct {
	// URLs are the core's nodes, the one to ask first in front; at least one. Of each: scheme https, host and port.
	URLs  []*url.URL
	Roots *x509.CertPool // the only authorities that may vouch for a server
	Token string         // bearer token
	Agent string         // User-Agent
	// Transport replaces the network. Nil: TLS 1.3 to the URLs.
	Transport http.RoundTripper
}

// A Client talks to the nodes of one core. It may be used by several goroutines.
type Client struct {
	nodes []string // scheme://host:port of each; never empty
	token string
	agent string
	http  *http.Client

	at     atomic.Int64 // index of the node that worked last
	failed atomic.Bool  // a node could not be used
	date   atomic.Int64 // Unix seconds of the newest answer's Date header; 0: none yet
}

// New makes a client. It sends nothing yet.
func New(c Config) *Client {
	t := c.Transport
	if t == nil {
		t = transport(c.Roots, len(c.URLs) > 1)
	}
	nodes := make([]string, len(c.URLs))
	for i, u := range c.URLs {
		nodes[i] = (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
	}
	return &Client{
		nodes: nodes,
		token: c.Token,
		agent: c.Agent,
		http: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func transport(roots *x509.CertPool, several bool) *http.Transport {
	dial := dialTime
	if several {
		dial = dialOneOf
	}
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dial}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
		TLSHandshakeTimeout:    dial,
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

// Get reads path into a T. Errors: as Send, but for ErrOutcome.
func Get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	v, _, err := GetTagged[T](ctx, c, path, query)
	return v, err
}

// GetTagged is Get that gives the answer's ETag too, as it stands in the header; empty: it has none.
func GetTagged[T any](ctx context.Context, c *Client, path string, query url.Values) (v T, etag string, err error) {
	a, err := c.exchange(ctx, &call{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return v, "", err
	}
	return v, a.etag, decode(a.body, &v)
}

// Send sends body (nil: none) and reads the answer into a T; an answer without a body leaves the zero T. While the outcome is
// unknown it is sent again, under the same key, to the next node. Errors: *Problem where the core refused, ErrOutcome where
// time ran out before the outcome was known, ErrUnreachable, ErrUntrusted, ErrAnswer, or ctx's.
func Send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	return SendIf[T](ctx, c, "", method, path, body)
}

// SendIf is Send on the condition that what path names still has the given ETag (empty: no condition). If it has another one,
// nothing is done, and the error is ErrConflict.
func SendIf[T any](ctx context.Context, c *Client, etag, method, path string, body any) (T, error) {
	return change[T](ctx, c, &call{method: method, path: path, match: etag}, body)
}

// SendSlow is Send for what a core may take a minute to do, such as changing its own members: every node is given the time.
func SendSlow[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	return change[T](ctx, c, &call{method: method, path: path, slow: true}, body)
}

// SendBytes is SendSlow of a body that is no JSON.
func SendBytes[T any](ctx context.Context, c *Client, path, contentType string, body []byte) (T, error) {
	return change[T](ctx, c, &call{method: http.MethodPost, path: path, slow: true, body: body, contentType: contentType}, nil)
}

func change[T any](ctx context.Context, c *Client, r *call, body any) (T, error) {
	var v T
	r.key = rand.Text()
	if body != nil {
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			return v, fmt.Errorf("encode the request: %w", err)
		}
	}
	a, err := c.exchange(ctx, r)
	if err != nil || len(a.body) == 0 {
		return v, err
	}
	return v, decode(a.body, &v)
}

func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
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
