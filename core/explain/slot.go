package explain

import (
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// slots explains each slot that something is assigned to, or of which the device stated something.
func (e *explainer) slots() {
	var assigned []registry.Assignment
	if d := e.Device.Desired; d != nil {
		assigned = d.Assignments
	}
	var reports []registry.SlotReport
	if r := e.Device.Reported; r != nil {
		reports = r.Slots
	}
	for i, j := 0, 0; i < len(assigned) || j < len(reports); { // both are in order of slot
		switch {
		case j == len(reports) || i < len(assigned) && assigned[i].Slot < reports[j].Slot:
			e.slot(&assigned[i], nil)
			i++
		case i == len(assigned) || reports[j].Slot < assigned[i].Slot:
			e.add(Fact{Slot: reports[j].Slot, Topic: TopicAssignment, Text: "Nothing is assigned; what runs is left as it is."})
			e.reported(&reports[j], true)
			j++
		default:
			e.slot(&assigned[i], &reports[j])
			i, j = i+1, j+1
		}
	}
}

// name is an artifact as people know it.
func (e *explainer) name(d wire.Digest) string {
	if d.IsZero() {
		return "nothing"
	}
	if x, ok := e.View.Artifact(d); ok {
		return fmt.Sprintf("%s (%s)", x.Title(), d.Short())
	}
	return fmt.Sprintf("artifact %s, which the core does not have,", d.Short())
}

// slot explains one slot with what is assigned to it. r is nil when the device stated nothing of it.
func (e *explainer) slot(x *registry.Assignment, r *registry.SlotReport) {
	text := fmt.Sprintf("%s is assigned since order %d, by %s", e.name(x.Artifact), x.Order, x.By)
	if x.Artifact.IsZero() {
		text = fmt.Sprintf("It is to run nothing since order %d, by %s", x.Order, x.By)
	}
	if x.Attempt > 0 {
		text += fmt.Sprintf(", as attempt %d", x.Attempt)
	}
	if x.Downgrade {
		text += ", also if that is a lower release than before"
	}
	e.add(Fact{Slot: x.Slot, Topic: TopicAssignment, Text: text + ".", Since: ms(x.SinceMS)})
	// An order that is older than the assignment, with another artifact or attempt, is of what was assigned before.
	of := r != nil && r.Artifact == x.Artifact && r.Attempt == x.Attempt
	if r == nil {
		e.add(Fact{Slot: x.Slot, Topic: TopicReported, Text: "The device stated nothing of this slot."})
	} else {
		e.reported(r, of)
	}
	if !of || !r.State.Final() {
		e.waits(x, r, of)
	}
	e.next(x, r, of)
}

// reported says what the device stated last, and whether it is of what is assigned now.
func (e *explainer) reported(r *registry.SlotReport, of bool) {
	text := "It stated " + r.State.String()
	if !of {
		text += " of " + e.name(r.Artifact) + ", which is not what is assigned now"
	}
	if r.State == seal.SlotDownloading && r.Total > 0 {
		text += fmt.Sprintf(": %s of %s are there, of which %s came over the link", bytesOf(min(r.Fetched+r.Saved, r.Total)), bytesOf(r.Total), bytesOf(r.Fetched))
	}
	if r.Reason != "" {
		text += ", for the reason " + r.Reason
	}
	if r.Detail != "" {
		text += " (" + r.Detail + ")"
	}
	if r.Running != r.Artifact || r.State != seal.SlotHealthy {
		text += "; " + e.name(r.Running) + " runs"
	}
	e.add(Fact{Slot: r.Slot, Topic: TopicReported, Text: text + ". The core heard it last at " + stamp(ms(r.AtMS)) + ".", Since: ms(r.SinceMS)})
}

func bytesOf(n uint64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// waits says what holds a slot up that is not done.
func (e *explainer) waits(x *registry.Assignment, r *registry.SlotReport, of bool) {
	f := Fact{Slot: x.Slot, Topic: TopicWaits}
	switch d := e.Device; {
	case d.State == wire.DeviceQuarantined:
		f.Text = "It waits for the end of the quarantine."
	case d.State == wire.DeviceDecommissioned:
		f.Text = "It waits for nothing: the device is decommissioned."
	case !e.Verdict.Online && e.Verdict.Reason == liveness.ReasonSiteUnreachable:
		f.Text, f.Since = "It waits for the site to be reachable, or for news of it: the device goes on by itself with what its site has.", e.Verdict.Since
	case !e.Verdict.Online:
		f.Text, f.Since = "It waits for the device to connect.", e.Verdict.Since
	case !of:
		f.Text = "It waits for the device to act on the order, which comes with the answer to a heartbeat."
		f.Since = ms(x.SinceMS)
	case r.State == seal.SlotDownloading:
		f.Text, f.Since = "It waits for content.", ms(r.SinceMS)
		if opens := e.windowOpens(); !opens.IsZero() {
			f.Text, f.Until = "It waits for the window in which the site fetches content; what the site has already comes at once.", opens
		}
	case r.State == seal.SlotDrifted:
		f.Text, f.Since = "What was healthy was changed on the device's disk.", ms(r.SinceMS)
	default:
		f.Text, f.Since = "It waits for the device, which is at work on it.", ms(r.SinceMS)
	}
	e.add(f)
	e.refusal(x)
}

// refusal says that every device refuses an artifact, if its signer may not publish any more.
func (e *explainer) refusal(x *registry.Assignment) {
	of, ok := e.View.Artifact(x.Artifact)
	if !ok {
		return
	}
	if _, _, err := e.View.OpenRelease(of.Release); err != nil {
		e.add(Fact{Slot: x.Slot, Topic: TopicWaits, Text: "Devices refuse its release: " + err.Error() + "."})
	}
}

// windowOpens is when the site's gateways may fetch again; zero: they may now.
func (e *explainer) windowOpens() time.Time {
	s, ok := e.View.Site(e.Device.Site)
	if !ok || s.Content == nil {
		return time.Time{}
	}
	opens, closes, err := wire.ParseWindow(s.Content.Window)
	if err != nil {
		return time.Time{}
	}
	midnight := e.Now.UTC().Truncate(24 * time.Hour)
	at := e.Now.Sub(midnight)
	open := at >= opens && at < closes
	if closes < opens {
		open = at >= opens || at < closes
	}
	switch {
	case open:
		return time.Time{}
	case at < opens:
		return midnight.Add(opens)
	}
	return midnight.Add(24*time.Hour + opens)
}

// next says what happens then, and what an operator can do.
func (e *explainer) next(x *registry.Assignment, r *registry.SlotReport, of bool) {
	retry := fmt.Sprintf("`holdfast devices retry %v --slot %s`", e.Device.ID, x.Slot)
	text := "Once the device has the order, it fetches, verifies and switches, and states each step."
	switch {
	case x.Artifact.IsZero() && (!of || r.State != seal.SlotRemoved):
		text = "Once the device has the order, it removes what runs, and states that it did."
	case !of:
	case r.State == seal.SlotDownloading:
		text = "Once all of it is there and verified, the device switches to it."
	case r.State == seal.SlotVerifying:
		text = "Once it is verified, the device switches to it."
	case r.State == seal.SlotApplying:
		text = "If its checks pass for the whole soak, it is healthy; if one fails, the device goes back by itself, with or without the core."
	case r.State == seal.SlotHealthy, r.State == seal.SlotRemoved:
		text = "Nothing is to be done."
	case r.State == seal.SlotRolledBack, r.State == seal.SlotFailed:
		text = "The device remembers that it failed and does not try it again by itself: assign another artifact, or " + retry + "."
	case r.State == seal.SlotDrifted:
		text = "The device puts back what was installed, by itself; to have it installed anew: " + retry + "."
	}
	e.add(Fact{Slot: x.Slot, Topic: TopicNext, Text: text})
}
