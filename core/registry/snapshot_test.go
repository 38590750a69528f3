package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// busy is a log that has met every command.
func busy(t tester) (*log, *machine) {
	t.Helper()
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(gatewayToken(2, "plant-7"))
	gw := newMachine(t)
	l.ok(gw.enrollGateway(2, "gw-a"))
	r := seal.Register{AgentVersion: "1", Tags: map[string]string{"line": "3", "rack": "9"}}
	r.Profile.Accelerators, r.Profile.OS = wire.Known([]string{"nvidia-gpu"}), wire.Unknown[string]("no os-release")
	l.ok(m.submit(m.register(r)))
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	l.ok(&command.SetSite{Site: "plant-8", IntervalMS: 1000})
	l.ok(&command.SetTags{Device: m.id, Set: map[string]string{"zone": "z"}, Remove: []string{"rack"}})
	l.ok(&command.SetInterval{Device: m.id, IntervalMS: 2000})
	l.ok(&command.SiteReach{Site: "plant-7", AtMS: start.UnixMilli()})
	l.ok(&command.Renewed{Device: m.id, Key: m.kid, NotAfter: start.Add(9e3 * time.Hour).UnixMilli()})
	l.ok(token(3, 3))
	l.ok(&command.RevokeToken{ID: seal.TokenID{3}})
	l.ok(firstPublishers(t))
	app := l.added("app", 1)
	l.ok(assign(m, "app", app))
	l.ok(m.submit(m.status(seal.Status{Slot: "app", Artifact: app, Order: 1, State: seal.SlotHealthy, Running: app})))
	l.ok(&command.SetSite{Site: "plant-8", ContentRate: new(uint64(1 << 20)), ContentWindow: new("22:00-05:00")})
	return l, m
}

func TestSnapshotRestores(t *testing.T) {
	l, m := busy(t)
	l.state.view.sites.put(&Site{Name: "plant-9", KeyGeneration: 3})
	b := l.snapshot()
	s := restore(t, b)
	if p, ok := s.View().Site("plant-9"); !ok || p.KeyGeneration != 3 {
		t.Errorf("restored site %+v", p)
	}
	if got := persist(t, s.View()); !bytes.Equal(got, b) {
		t.Error("the snapshot of a restored state differs")
	}
	if d, ok := s.View().DeviceByKey(m.kid); !ok || !reflect.DeepEqual(d, l.record(m)) {
		t.Errorf("restored %+v\nwant %+v", d, l.record(m))
	}
	if !s.View().Time().Equal(l.state.View().Time()) || s.View().Index() != l.state.View().Index() {
		t.Errorf("index %d at %v", s.View().Index(), s.View().Time())
	}
}

// A restored state acts as the one that was saved: same results, same events, same history, same snapshot.
func TestRestoredStateActsTheSame(t *testing.T) {
	l, m := busy(t)
	l.now = start.Add(1500 * time.Microsecond) // a snapshot holds milliseconds
	l.ok(token(9, 9))
	r := &log{t: t, state: restore(t, l.snapshot()), index: l.index, now: l.now}
	if !r.state.View().Time().Equal(l.state.View().Time()) {
		t.Errorf("log time %v, want %v", r.state.View().Time(), l.state.View().Time())
	}
	other := newMachine(t)
	gw := newMachine(t)
	for i, c := range []command.Command{
		m.enroll(1), other.enroll(9), other.enroll(9), gw.enrollGateway(2, "gw-a"), token(1, 1), m.submit(m.register(version("7")), []byte{1}),
		m.online(gwB, start.Add(time.Minute), m.attach(1, 1, 2)), m.offline(gwB, start.Add(time.Hour), start), m.online(gwA, start, m.attach(1, 9, 9)),
		&command.SetTags{Device: m.id, Set: map[string]string{"rack": "op"}}, &command.SetSite{Site: "plant-7", IntervalMS: 9000},
		&command.SiteReach{Site: "plant-7", Reachable: true, AtMS: l.now.UnixMilli()}, &command.RevokeToken{ID: seal.TokenID{9}}, fleet(),
		assign(m, "app", release("app", 1).Manifest), retry(m, "app"), addArtifact(t, release("app", 2), ada), firstPublishers(t),
		&command.DeleteArtifact{Digest: release("app", 1).Manifest}, unassign(m, "app"), m.submit(m.status(seal.Status{Slot: "app", State: seal.SlotRemoved})),
		&command.DeleteArtifact{Digest: release("app", 1).Manifest}, setPublishers(t, publisherSet(2, nil), rootA, rootB),
	} {
		want, got := l.apply(c), r.apply(c)
		if fmt.Sprint(want.Results...) != fmt.Sprint(got.Results...) && !reflect.DeepEqual(want.Results, got.Results) {
			t.Errorf("command %d, %T: result %+v, want %+v", i, c, got.Results, want.Results)
		}
		if !reflect.DeepEqual(want.Events, got.Events) || !reflect.DeepEqual(want.Records, got.Records) {
			t.Errorf("command %d, %T: effects %+v, want %+v", i, c, got, want)
		}
		if !bytes.Equal(l.snapshot(), r.snapshot()) {
			t.Fatalf("after command %d, %T, the snapshots differ", i, c)
		}
	}
}

// Devices of one token share its tags and names in memory, after a restart as before it.
func TestRestoredDevicesShare(t *testing.T) {
	l := newLog(t)
	c := token(1, 3)
	c.Tags = map[string]string{"line": "3"}
	l.ok(c)
	other := token(2, 1)
	other.Tags = map[string]string{"line": "4"}
	l.ok(other)
	a, b, d := newMachine(t), newMachine(t), newMachine(t)
	for _, e := range []command.Command{a.enroll(1), b.enroll(1), d.enroll(2)} {
		l.ok(e)
	}
	v := restore(t, l.snapshot()).View()
	tags := func(m *machine) (map[string]string, uintptr) {
		r, ok := v.Device(m.id)
		if !ok {
			t.Fatal("no record")
		}
		return r.TokenTags, reflect.ValueOf(r.TokenTags).Pointer()
	}
	ofA, inA := tags(a)
	_, inB := tags(b)
	ofD, inD := tags(d)
	if inA != inB || inA == inD || ofA["line"] != "3" || ofD["line"] != "4" {
		t.Errorf("tags %v and %v; two devices of one token share: %v", ofA, ofD, inA == inB)
	}
}

func TestSnapshotOfNothing(t *testing.T) {
	b := persist(t, New().View())
	if s := restore(t, b); s.View().Fleet() != nil || !bytes.Equal(persist(t, s.View()), b) {
		t.Error("the empty state does not restore")
	}
}

func TestTruncatedSnapshot(t *testing.T) {
	l, _ := busy(t)
	b := l.snapshot()
	for n := range b {
		if _, err := Restore(bytes.NewReader(b[:n])); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func snapRecord(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body))), body...)
}

func TestDamagedSnapshot(t *testing.T) {
	enc := func(kind byte, v any) []byte {
		b, err := wire.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return snapRecord(kind, b)
	}
	header := enc(snapHeader, snapshotHeader{Version: snapVersion, Index: 1})
	tests := map[string][]byte{
		"nothing":              nil,
		"no header":            enc(snapEnd, snapshotEnd{}),
		"later version":        append(enc(snapHeader, snapshotHeader{Version: snapVersion + 1}), enc(snapEnd, snapshotEnd{Records: 1})...),
		"records missing":      append(slices.Clip(header), enc(snapEnd, snapshotEnd{Records: 2})...),
		"unknown kind":         append(slices.Clip(header), enc(99, 0)...),
		"record far too large": append(slices.Clip(header), snapDevice, 0xff, 0xff, 0xff, 0xff),
		"no CBOR":              append(slices.Clip(header), snapRecord(snapDevice, []byte{0xff})...),
		"end does not read":    append(slices.Clip(header), snapRecord(snapEnd, []byte{0xff})...),
	}
	for name, b := range tests {
		if _, err := Restore(bytes.NewReader(b)); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A flipped bit is found by the store's checksum at the snapshot's end; until then it must do no harm here: it is refused as
// ErrSnapshot or gives a state that works.
func TestFlippedSnapshot(t *testing.T) {
	l, m := busy(t)
	b := l.snapshot()
	refused := 0
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		if !usable(t, bad, m) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// usable tells whether b restores. If it does, the state must work; if not, the error must be ErrSnapshot.
func usable(t *testing.T, b []byte, m *machine) bool {
	t.Helper()
	s, err := Restore(bytes.NewReader(b))
	if err != nil {
		if !errors.Is(err, ErrSnapshot) {
			t.Errorf("error %v", err)
		}
		return false
	}
	r := &log{t: t, state: s, index: s.View().Index(), now: start}
	r.apply(m.online(gwA, start, m.attach(2, 2, 1)), m.offline(gwA, start, start), &command.SetTags{Device: m.id, Remove: []string{"a"}}, token(8, 1))
	if err := s.View().Persist(io.Discard); err != nil {
		t.Errorf("what was restored does not persist: %v", err)
	}
	return true
}

func FuzzRestore(f *testing.F) {
	l, m := busy(f)
	f.Add(l.snapshot())
	f.Add(persist(f, New().View()))
	d := Device{ID: m.id, Attach: &Attach{Attach: command.Attach{Start: 1, Run: 1, Session: 1}}} // no runs
	s := New()
	s.putDevice(&d)
	s.view.fleet = &Fleet{}
	f.Add(persist(f, s.View()))
	f.Fuzz(func(t *testing.T, b []byte) { usable(t, b, m) })
}

var errDisk = errors.New("disk full")

// A failing writer takes n bytes.
type failing struct{ n int }

func (w *failing) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, errDisk
	}
	return len(b), nil
}

func TestPersistReportsTheWriter(t *testing.T) {
	l := newLog(t)
	var cmds []command.Command
	for i := range 4000 { // more than the writer's buffer
		c := token(0, 1)
		c.ID = seal.TokenID{1, byte(i), byte(i >> 8)}
		c.Comment = string(bytes.Repeat([]byte("x"), 100))
		cmds = append(cmds, c)
	}
	l.apply(cmds...)
	size := len(l.snapshot())
	for _, n := range []int{0, size / 2, size - 1} {
		if err := l.state.View().Persist(&failing{n}); !errors.Is(err, errDisk) {
			t.Errorf("after %d of %d bytes: %v", n, size, err)
		}
	}
	if err := l.state.View().Persist(&failing{size}); err != nil {
		t.Error(err)
	}
}

func TestSnapshotHasGatewayKeys(t *testing.T) {
	l := newLog(t)
	l.ok(gatewayToken(1, "plant-7"))
	g := newMachine(t)
	l.ok(g.enrollGateway(1, "gw-a"))
	l.state = restore(t, l.snapshot())
	l.ok(token(2, 1))
	l.refused(g.enroll(2), ErrRefused) // its key is known as a gateway's
	if _, ok := l.state.View().DeviceByKey(g.kid); ok {
		t.Error("a gateway's key names a device")
	}
	if gw := gatewayAt("plant-7/gw-a"); gw.ID() != "plant-7/gw-a" || gw.Site != "plant-7" {
		t.Errorf("gateway %+v", gw)
	}
	if _, ok := l.state.View().UseOf(seal.TokenID{1}, ident.KeyID{}); ok {
		t.Error("a use that nobody made")
	}
}
