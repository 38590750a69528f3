package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// silence is how long a lasting answer may bring nothing. On an event stream a core sends a comment every 15 s.
const silence = 45 * time.Second

// errSilent ends an answer of a core that is gone without a word.
var errSilent = fmt.Errorf("%w: nothing came for %v", ErrUnreachable, silence)

// A flow is an answer that may last for as long as something comes. One goroutine reads it.
type flow struct {
	c      *Client
	node   int64
	ctx    context.Context //nolint:containedctx // the body is read under the context that the request was made with
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	timer  *time.Timer // ends ctx after silence
}

// open asks each node once for an answer that lasts, and takes the first.
func (c *Client) open(ctx context.Context, path string, params url.Values) (flow, error) {
	var s setbacks
	first := c.at.Load()
	for i := range int64(len(c.nodes)) {
		f := flow{c: c, node: (first + i) % int64(len(c.nodes))}
		err := f.start(ctx, &call{method: http.MethodGet, path: path, query: params})
		if err == nil {
			c.at.Store(f.node)
			return f, nil
		}
		if !s.passing(err, false) {
			return flow{}, err
		}
		if !errors.Is(err, ErrUnavailable) {
			c.failed.Store(true)
		}
	}
	return flow{}, s.verdict(len(c.nodes), silence)
}

func (f *flow) start(ctx context.Context, r *call) error {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	resp, err := f.c.do(ctx, f.node, r) //nolint:bodyclose // Close of the flow does
	if err != nil {
		err = cause(ctx, err, silence)
		timer.Stop()
		cancel(nil)
		return err
	}
	f.ctx, f.cancel, f.timer, f.body = ctx, cancel, timer, resp.Body
	return nil
}

// Read reads the answer and notes that something came.
func (f flow) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	if n > 0 {
		f.timer.Reset(silence)
	}
	return n, err
}

// broken is the error of reading that ended the answer. A node that ended it, or is gone, is not the one to ask next.
func (f flow) broken(err error) error {
	if !errors.Is(err, io.EOF) || f.ctx.Err() != nil {
		err = cause(f.ctx, err, silence)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, ErrUnreachable) {
		f.c.leave(f.node)
	}
	if errors.Is(err, ErrUnreachable) {
		f.c.failed.Store(true)
	}
	return err
}

// Close ends the answer.
func (f flow) Close() error {
	f.timer.Stop()
	f.cancel(nil)
	return f.body.Close()
}

// maxRecord bounds one line of an answer of lines, in bytes: far above any record.
const maxRecord = 1 << 20

// Lines is an answer of lines (application/x-ndjson). One goroutine reads it.
type Lines struct {
	flow
	r *bufio.Reader
}

// Lines opens an answer of lines at the first node that serves it. It ends when ctx does. The caller closes it. Errors: as Get.
func (c *Client) Lines(ctx context.Context, path string, params url.Values) (*Lines, error) {
	f, err := c.open(ctx, path, params)
	if err != nil {
		return nil, err
	}
	return &Lines{flow: f, r: bufio.NewReaderSize(f, maxRecord)}, nil
}

// Next is the next line without its end, good until Next is called again. Errors: io.EOF after the last, ErrAnswer for a line
// over 1 MiB, ErrUnreachable when the answer was cut, or the context's.
func (l *Lines) Next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%w: a line over %d bytes", ErrAnswer, maxRecord)
	case errors.Is(err, io.EOF) && len(line) == 0 && l.ctx.Err() == nil:
		return nil, io.EOF // the whole answer came: the node did nothing wrong
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return nil, l.broken(err)
}
