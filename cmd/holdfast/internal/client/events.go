package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// maxLine bounds one line of the stream, in bytes; an event's data is one line.
	maxLine = 256 << 10
	// maxData bounds the data of one message, which may span lines.
	maxData = 1 << 20
)

// ErrLagged says that the core ended a stream which was not read quickly enough: events are lost.
var ErrLagged = errors.New("events were lost because the stream was not read quickly enough")

// A Stream is an open event stream. One goroutine reads it.
type Stream struct {
	flow
	sse messages
}

// Events opens the event stream at the first node that serves it. It ends when ctx does. The caller closes it. After a stream
// that a node ended, the next one is opened at another node. Errors: as Get.
func (c *Client) Events(ctx context.Context, params url.Values) (*Stream, error) {
	f, err := c.open(ctx, Path("v1", "events"), params)
	if err != nil {
		return nil, err
	}
	return &Stream{flow: f, sse: messages{r: bufio.NewReaderSize(f, maxLine)}}, nil
}

// Next waits for the next event. The id is what to name as "after" to go on behind it; it may be empty. Messages that hold
// no event are skipped. Errors: io.EOF when the core ended the stream, ErrLagged, ErrAnswer, ErrUnreachable when the
// connection broke or fell silent, or the context's.
func (s *Stream) Next() (id string, e v1.Event, err error) {
	for {
		m, err := s.sse.next()
		if err != nil {
			return "", v1.Event{}, s.broken(err)
		}
		if m.event == "lagged" {
			return "", v1.Event{}, ErrLagged
		}
		var e v1.Event
		if err := json.Unmarshal(m.data, &e); err != nil {
			return "", v1.Event{}, fmt.Errorf("%w: event: %w", ErrAnswer, err)
		}
		if e.Type != "" {
			return m.id, e, nil
		}
	}
}

// messages cuts a text/event-stream into messages.
type messages struct{ r *bufio.Reader }

type message struct {
	id, event string
	data      []byte
}

// next is the next message that has data. A message that the end of the stream cuts off is dropped, as the format wants.
func (s *messages) next() (message, error) {
	var m message
	has := false
	for {
		line, err := s.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return m, fmt.Errorf("%w: line over %d bytes in the event stream", ErrAnswer, maxLine)
		}
		if err != nil {
			return m, err
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			if has {
				return m, nil
			}
			m = message{}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			m.id = string(value)
		case "event":
			m.event = string(value)
		case "data":
			if has {
				m.data = append(m.data, '\n')
			}
			m.data, has = append(m.data, value...), true
		}
		if len(m.data) > maxData {
			return m, fmt.Errorf("%w: message over %d bytes in the event stream", ErrAnswer, maxData)
		}
	}
}
