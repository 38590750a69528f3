// Package explain says in facts what a device is to run, where that is, and what it waits for. It is pure.
package explain

import (
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

// The topics of facts.
const (
	TopicDevice     = "device"     // its state
	TopicPresence   = "presence"   // whether it is there
	TopicOrder      = "order"      // whether it was told
	TopicAssignment = "assignment" // what a slot is to run
	TopicReported   = "reported"   // what the device stated of a slot
	TopicWaits      = "waits"      // what holds a slot up
	TopicNext       = "next"       // what happens then
)

// Topics are all of them, in the order in which they come.
var Topics = []string{TopicDevice, TopicPresence, TopicOrder, TopicAssignment, TopicReported, TopicWaits, TopicNext}

// A Fact is one thing that is known, or that it is not known.
type Fact struct {
	Slot  string // "": of the device
	Topic string
	Text  string
	Since time.Time // zero: no matter, or not known
	Until time.Time // deadline, or when it goes on; zero: none
}

// An Input is what is known of a device at one moment.
type Input struct {
	View    registry.View
	Device  *registry.Device
	Verdict liveness.Verdict
	Uplink  liveness.Uplink // of the gateway of the device's newest attach
	Now     time.Time       // wall clock
}

// An explainer collects facts.
type explainer struct {
	Input
	out []Fact
}

func (e *explainer) add(f Fact) { e.out = append(e.out, f) }

// Device explains a device: first what is of the whole device, then each slot in order of name.
func Device(in Input) []Fact {
	e := &explainer{Input: in}
	e.state()
	e.presence()
	e.order()
	e.slots()
	return e.out
}

func (e *explainer) state() {
	d := e.Device
	f := Fact{Topic: TopicDevice, Text: fmt.Sprintf("It belongs to site %s and is %v.", d.Site, d.State)}
	switch d.State {
	case wire.DeviceActive, wire.DeviceUnknown:
	case wire.DeviceQuarantined:
		f.Text = fmt.Sprintf("It is quarantined: %s. It gets nothing until `holdfast devices release %v`.", d.Reason, d.ID)
	case wire.DeviceDecommissioned:
		f.Text = "It is decommissioned and gets nothing any more."
	}
	e.add(f)
}

// offlineAfter is when a device that is online counts as offline if it is not heard.
func (e *explainer) offlineAfter() time.Time {
	return e.Verdict.Last.Add(liveness.Silent * max(e.View.Interval(e.Device), e.Verdict.Least))
}

func (e *explainer) presence() {
	v, p := e.Verdict, e.Device.Presence
	f := Fact{Topic: TopicPresence, Since: v.Since}
	switch {
	case v.Online && v.Reason == liveness.ReasonNone:
		f.Text, f.Until = fmt.Sprintf("It is online through gateway %s. Without a heartbeat it counts as offline.", p.Gateway), e.offlineAfter()
	case v.Online:
		f.Text = fmt.Sprintf("It shows online through gateway %s (%s).", p.Gateway, v.Reason)
	case v.Reason == liveness.ReasonNeverConnected:
		f.Text = "It has never connected."
	case v.Reason == liveness.ReasonSiteUnreachable:
		f.Text = "Its site is unreachable: what it does there is not known, and it may well be running."
	default:
		f.Text = "It is offline."
	}
	if !v.Last.IsZero() && !v.Online {
		f.Text += " It was heard last at " + stamp(v.Last) + "."
	}
	e.add(f)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func ms(t int64) time.Time {
	if t <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(t).UTC()
}

// heard is the highest order that the device stated anything of.
func (e *explainer) heard() (n uint64) {
	if e.Device.Reported == nil {
		return 0
	}
	for i := range e.Device.Reported.Slots {
		n = max(n, e.Device.Reported.Slots[i].Order)
	}
	return n
}

// order says whether the device was told. The core knows what it sends to a gateway that is connected, and what the device states; what
// a gateway passed on it does not know.
func (e *explainer) order() {
	d := e.Device
	if d.Desired == nil {
		e.add(Fact{Topic: TopicOrder, Text: "Nothing was ever assigned to it."})
		return
	}
	f := Fact{Topic: TopicOrder, Since: ms(d.Desired.LoggedMS)}
	n, gw := d.Desired.Number, d.Presence.Gateway
	switch {
	case e.heard() >= n:
		f.Text = fmt.Sprintf("It has order %d, the newest: it stated something of it.", n)
	case gw == "":
		f.Text = fmt.Sprintf("Order %d is for it. Whichever gateway it connects to is asked for it.", n)
	case e.Uplink.Connected:
		f.Text = fmt.Sprintf("Order %d was sent to gateway %s, which is connected. Whether the device has it is not known: it stated nothing of it yet.", n, gw)
	case e.Uplink.Heard.IsZero():
		f.Text = fmt.Sprintf("Whether gateway %s has order %d is not known: it is not connected.", gw, n)
	default:
		f.Text = fmt.Sprintf("Whether gateway %s has order %d is not known: it is not connected, and was heard last at %s.", gw, n, stamp(e.Uplink.Heard))
	}
	e.add(f)
}
