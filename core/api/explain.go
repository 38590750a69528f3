package api

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/explain"
)

const explainText = "Facts about the device and each of its slots at the moment of reading, in order: what it is, whether it is there and was told, what is " +
	"assigned, what it stated, what it waits for, and what happens next. Programs decide by the topic, never by the text."

type explainInput struct {
	Reading
	DevicePath
}

func (s *server) explainDevice(_ context.Context, c *call, in *explainInput) (*reply[v1.Explanation], error) {
	d, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	facts := explain.Device(explain.Input{
		View: c.view, Device: d, Verdict: s.verdict(c.view, d), Uplink: s.Tracker.Uplink(d.Presence.Gateway, time.Now()), Now: s.Wall(),
	})
	out := v1.Explanation{Device: d.ID.String(), At: at(s.Wall().UnixMilli()), Facts: make([]v1.Fact, len(facts))}
	for i, f := range facts {
		out.Facts[i] = v1.Fact{Slot: f.Slot, Topic: f.Topic, Text: f.Text, Since: stamp(f.Since), Until: stamp(f.Until)}
	}
	return answer(out), nil
}
