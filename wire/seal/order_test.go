package seal

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func sampleDesired() *Desired {
	return &Desired{Assignments: []Assignment{
		{Slot: "app", Artifact: wire.Digest{0xa1}, Attempt: 2, Downgrade: true},
		{Slot: "model", Artifact: wire.Digest{0xa2}},
		{Slot: "old"},
	}}
}

func sampleOrder(tb testing.TB) *Order {
	tb.Helper()
	body, err := wire.Marshal(sampleDesired())
	fatal(tb, err)
	return &Order{
		Version: OrderVersion, Fleet: "plant", Device: device, Keys: []ident.KeyID{deviceKID, {9}}, ClusterEpoch: 1, Number: 12, Kind: OrderDesired,
		Body: body, LogTimeMS: 1795464001000,
	}
}

func sampleStatus() *Status {
	return &Status{
		Slot: "app", Artifact: wire.Digest{0xa1}, Order: 12, State: SlotRolledBack, Reason: "health", Detail: "http 8080: 503", Total: 1 << 28,
		Fetched: 1 << 20, Saved: 1 << 27, Running: wire.Digest{0xa0}, Attempt: 2,
	}
}

func sampleAlarm() *Alarm {
	return &Alarm{Reason: "publishers", Detail: "set 3: signature does not verify"}
}

func sampleSlots() []Installed {
	return []Installed{{Slot: "app", Artifact: wire.Digest{0xa1}, Name: "camera", Version: "1.4"}, {Slot: "model", Artifact: wire.Digest{0xa2}}}
}

// sampleBodies are the bodies of orders and statements that have no signature of their own. A registration with slots has a golden of its own,
// as the older one is older than slots.
func sampleBodies() map[string]any {
	r := sampleRegister()
	r.Slots = sampleSlots()
	return map[string]any{"desired": sampleDesired(), "status": sampleStatus(), "alarm": sampleAlarm(), "register_slots": r}
}

func openOrder(b []byte) (any, error) {
	o, err := OpenOrder(b, "plant", authority.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return *o, nil
}

func TestGoldenBodiesRead(t *testing.T) {
	s, err := (&Statement{Type: StatementStatus, Body: golden(t, "status.body", nil)}).Status()
	if err != nil || !reflect.DeepEqual(s, sampleStatus()) {
		t.Errorf("status reads as %+v, %v", s, err)
	}
	a, err := (&Statement{Type: StatementAlarm, Body: golden(t, "alarm.body", nil)}).Alarm()
	if err != nil || !reflect.DeepEqual(a, sampleAlarm()) {
		t.Errorf("alarm reads as %+v, %v", a, err)
	}
	r, err := (&Statement{Type: StatementRegister, Body: golden(t, "register_slots.body", nil)}).Register()
	if err != nil || !reflect.DeepEqual(r.Slots, sampleSlots()) {
		t.Errorf("registration reads as %+v, %v", r, err)
	}
	o, err := OpenOrder(golden(t, "order.sealed", nil), "plant", authority.Public().(ed25519.PublicKey))
	fatal(t, err)
	d, err := o.Desired()
	if err != nil || !reflect.DeepEqual(d, sampleDesired()) || !bytes.Equal(o.Body, golden(t, "desired.body", nil)) {
		t.Errorf("desired state reads as %+v, %v", d, err)
	}
	if got, ok := d.Slot("model"); !ok || got.Artifact != (wire.Digest{0xa2}) {
		t.Errorf("slot model: %+v", got)
	}
	if _, ok := d.Slot("mode"); ok {
		t.Error("a slot that is not there")
	}
}

// An order holds in one fleet, for a device, by one key. Whether it is for this device its reader must see.
func TestOrdersBindTheirFleet(t *testing.T) {
	pub := authority.Public().(ed25519.PublicKey)
	b := golden(t, "order.sealed", nil)
	if _, err := OpenOrder(b, "other", pub); !errors.Is(err, ErrSignature) {
		t.Errorf("in another fleet: %v", err)
	}
	for name, key := range map[string]ed25519.PublicKey{"other": token.Public(), "nil": nil, "short": pub[:31]} {
		if _, err := OpenOrder(b, "plant", key); !errors.Is(err, ErrSignature) {
			t.Errorf("by %s key: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Order){
		"no device": func(o *Order) { o.Device = ident.DeviceID{} },
		"no fleet":  func(o *Order) { o.Fleet = "" },
		"no number": func(o *Order) { o.Number = 0 },
	} {
		o := sampleOrder(t)
		change(o)
		sealed, err := SealOrder(o, authority)
		fatal(t, err)
		if _, err := OpenOrder(sealed, "plant", pub); !errors.Is(err, ErrSignature) {
			t.Errorf("with %s: %v", name, err)
		}
	}
	// An entry of the device, which the same key signs, is no order, and the other way round.
	if _, err := OpenOrder(golden(t, "device_entry.sealed", nil), "plant", pub); err == nil {
		t.Error("an entry passes as an order")
	}
	long := sampleOrder(t)
	long.Keys = nil
	for range MaxSlots {
		long.Keys = append(long.Keys, ident.KeyID{1})
	}
	d := new(Desired)
	for i := range MaxSlots {
		d.Assignments = append(d.Assignments, Assignment{Slot: strings.Repeat("s", 31) + string(rune('a'+i)), Artifact: wire.Digest{1}, Attempt: 1 << 31, Downgrade: true})
	}
	var err error
	long.Body, err = wire.Marshal(d)
	fatal(t, err)
	sealed, err := SealOrder(long, authority)
	fatal(t, err)
	if _, err := OpenOrder(sealed, "plant", pub); err != nil {
		t.Errorf("an order with all slots, of %d bytes: %v", len(sealed), err)
	}
}

// body is the CBOR of v.
func body(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Marshal(v)
	fatal(t, err)
	return b
}

func TestDesiredRefuses(t *testing.T) {
	many := &Desired{Assignments: make([]Assignment, MaxSlots+1)}
	for i := range many.Assignments {
		many.Assignments[i].Slot = string(rune('a' + i))
	}
	for name, o := range map[string]*Order{
		"another kind":    {Kind: 2, Body: body(t, sampleDesired())},
		"no body":         {Kind: OrderDesired},
		"truncated":       {Kind: OrderDesired, Body: body(t, sampleDesired())[:10]},
		"many slots":      {Kind: OrderDesired, Body: body(t, many)},
		"not in order":    {Kind: OrderDesired, Body: body(t, &Desired{[]Assignment{{Slot: "b"}, {Slot: "a"}}})},
		"a slot twice":    {Kind: OrderDesired, Body: body(t, &Desired{[]Assignment{{Slot: "a"}, {Slot: "a"}}})},
		"a slot's name":   {Kind: OrderDesired, Body: body(t, &Desired{[]Assignment{{Slot: "../a"}}})},
		"short digest":    {Kind: OrderDesired, Body: body(t, map[int]any{1: []any{map[int]any{1: "a", 2: []byte{1}}}})},
		"digest as text":  {Kind: OrderDesired, Body: body(t, map[int]any{1: []any{map[int]any{1: "a", 2: strings.Repeat("a", 32)}}})},
		"negative number": {Kind: OrderDesired, Body: body(t, map[int]any{1: []any{map[int]any{1: "a", 3: -1}}})},
	} {
		if _, err := o.Desired(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

func TestSlotNames(t *testing.T) {
	for _, name := range []string{"a", "0", "app", "a-b", strings.Repeat("a", 32)} {
		if err := CheckSlot(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a\x00", "ä", strings.Repeat("a", 33)} {
		if err := CheckSlot(name); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("slot %q: %v, want ErrMalformed", name, err)
		}
	}
}

func TestStatusAndAlarmRefuse(t *testing.T) {
	for name, change := range map[string]func(*Status){
		"no slot":     func(s *Status) { s.Slot = "" },
		"no state":    func(s *Status) { s.State = 0 },
		"long reason": func(s *Status) { s.Reason = strings.Repeat("r", maxReason+1) },
		"long detail": func(s *Status) { s.Detail = strings.Repeat("d", maxDetail+1) },
	} {
		s := sampleStatus()
		change(s)
		if _, err := (&Statement{Type: StatementStatus, Body: body(t, s)}).Status(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("status with %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Alarm){
		"no reason":   func(a *Alarm) { a.Reason = "" },
		"long reason": func(a *Alarm) { a.Reason = strings.Repeat("r", maxReason+1) },
		"long detail": func(a *Alarm) { a.Detail = strings.Repeat("d", maxDetail+1) },
	} {
		a := sampleAlarm()
		change(a)
		if _, err := (&Statement{Type: StatementAlarm, Body: body(t, a)}).Alarm(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("alarm with %s: %v", name, err)
		}
	}
	for _, kind := range []StatementType{StatementRegister, StatementStatus, StatementAlarm, 9} {
		_, serr := (&Statement{Type: kind, Body: body(t, sampleStatus())}).Status()
		_, aerr := (&Statement{Type: kind, Body: body(t, sampleAlarm())}).Alarm()
		if (serr == nil) != (kind == StatementStatus) || (aerr == nil) != (kind == StatementAlarm) {
			t.Errorf("of type %v: status %v, alarm %v", kind, serr, aerr)
		}
	}
	slots := sampleRegister()
	slots.Slots = slices.Repeat(sampleSlots(), MaxSlots)
	if _, err := (&Statement{Type: StatementRegister, Body: body(t, slots)}).Register(); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a registration with %d slots: %v", len(slots.Slots), err)
	}
}

func TestSlotStates(t *testing.T) {
	final := map[SlotState]bool{SlotHealthy: true, SlotRolledBack: true, SlotFailed: true, SlotRemoved: true}
	for s := range SlotState(12) {
		if s.Final() != final[s] || s.String() == "" {
			t.Errorf("state %v: final %v", s, s.Final())
		}
	}
	if got := SlotState(9).String(); got != "state_9" {
		t.Errorf("a state of a newer device is %q", got)
	}
	var order Order
	if order.Stamp() != (Stamp{}) || !sampleOrder(t).LogTime().Equal(sampleReceipt().LogTime()) {
		t.Error("stamp or log time")
	}
}
