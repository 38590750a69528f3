package registry

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Kept spans are history: no record of a device changes, and no time is later than the log's.
func TestKeptSpans(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	l.now = start.Add(time.Hour)
	l.apply()
	before := l.record(m)
	at := func(minutes int) int64 { return start.Add(time.Duration(minutes) * time.Minute).UnixMilli() }
	c := &command.Spans{Gateway: gwB, Items: []command.Span{
		{Device: m.id, FromMS: at(1), LastMS: at(2), ToMS: at(3), Beats: 4, Missed: 1},
		{Device: ident.DeviceID{9}, FromMS: at(1), LastMS: at(2), ToMS: at(3)},
		{Device: m.id, FromMS: at(30), LastMS: at(90), ToMS: at(100), Beats: 7},
		{Device: m.id, FromMS: at(5), LastMS: at(4), ToMS: at(3), Beats: 1},
		{Device: m.id, FromMS: at(70), LastMS: at(71), ToMS: at(72)},
	}}
	eff := l.apply(c)
	taken, ok := eff.Results[0].([]bool)
	if !ok || len(taken) != 5 || !taken[0] || taken[1] || !taken[2] || len(eff.Events) != 0 {
		t.Fatalf("result %+v, events %v", eff.Results[0], eventTypes(eff))
	}
	want := []Span{
		{FromMS: at(1), LastMS: at(2), ToMS: at(3), Beats: 4, Missed: 1},
		{FromMS: at(30), LastMS: at(60), ToMS: at(60), Beats: 7},
		{FromMS: at(5), LastMS: at(5), ToMS: at(5), Beats: 1},
		{FromMS: at(60), LastMS: at(60), ToMS: at(60)},
	}
	if len(eff.Records) != len(want) {
		t.Fatalf("%d records", len(eff.Records))
	}
	for i, w := range want {
		w.Online, w.Gateway, w.Counted, w.Kept = true, gwB, true, true
		if got := decodeRecord[Span](t, eff.Records[i]); got != w || eff.Records[i].Kind != KindSpan || eff.Records[i].Stream != DeviceStream(m.id) {
			t.Errorf("record %d: %+v, want %+v", i, got, w)
		}
	}
	if after := l.record(m); after.Presence != before.Presence || after.State != before.State {
		t.Errorf("the record changed: %+v", after.Presence)
	}
	again := l.apply(c)
	for i := range again.Records {
		if !bytes.Equal(again.Records[i].Data, eff.Records[i].Data) {
			t.Errorf("applied again, record %d is another", i)
		}
	}
}

// What a device signed with a key counts after another has taken the key's place, and no longer once it is retired.
func TestSigningKey(t *testing.T) {
	d := Device{Keys: []Key{{ID: ident.KeyID{1}, State: KeyActive}, {ID: ident.KeyID{2}, State: KeySuperseded}, {ID: ident.KeyID{3}, State: KeyRetired}}}
	for id, want := range map[byte]bool{1: true, 2: true, 3: false, 4: false} {
		if k, ok := d.SigningKey(ident.KeyID{id}); ok != want || ok && k.ID != (ident.KeyID{id}) {
			t.Errorf("key %d: %v, want %v", id, ok, want)
		}
	}
}
