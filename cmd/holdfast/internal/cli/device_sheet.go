package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// absent is how a fact shows that the device is known not to have.
const absent = "absent"

// deviceSheet lays a device out for people, with ages as of now. revision is empty where the core does not tell it.
func deviceSheet(d v1.Device, revision string, now time.Time) *output.Sheet {
	s := &output.Sheet{}
	s.Fact("ID", d.ID)
	s.Fact("Site", d.Site)
	s.Fact("State", because(d.State, d.StateReason))
	presence := because(d.Presence, d.PresenceReason)
	if d.PresenceSince != nil {
		presence += ", since " + output.Both(now, d.PresenceSince)
	}
	s.Fact("Presence", presence)
	s.Fact("Last heartbeat", output.Both(now, d.LastHeartbeatAt))
	s.Fact("Heartbeat interval", output.Seconds(d.HeartbeatIntervalS))
	s.Fact("Gateway", d.Gateway)
	s.Fact("Agent", d.AgentVersion)
	s.Fact("Enrolled", output.Both(now, &d.EnrolledAt))
	s.Fact("Registered", output.Both(now, d.RegisteredAt))
	s.Fact("Revision", revision)
	s.Fact("Tags", output.Pairs(d.Tags))
	if d.RegisteredAt == nil {
		s.Heading("Hardware", "not known before the device registers")
	} else {
		profileFacts(s, d.Profile)
	}
	softwareFacts(s, d)
	s.Heading("Keys", strconv.Itoa(len(d.Keys)))
	for _, k := range d.Keys {
		id := k.ID[:min(len(k.ID), 16)]
		s.Sub(id, fmt.Sprintf("%s since %s, certificate expires %s", k.State, output.Stamp(&k.Since), output.Both(now, &k.ExpiresAt)))
	}
	return s
}

func because(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + " (" + reason + ")"
}

// profileFacts shows each fact as its value, absent, or unknown with the reason.
func profileFacts(s *output.Sheet, p v1.Profile) {
	s.Heading("Hardware", "")
	fact := func(label, name string, known bool, value func() string) {
		reason, unknown := p.Unknown[name]
		switch {
		case known && unknown: // a list that was only partly read
			s.Sub(label, value()+" (and perhaps more: "+reason+")")
		case known:
			s.Sub(label, value())
		case unknown:
			s.Sub(label, "unknown: "+reason)
		default:
			s.Sub(label, absent)
		}
	}
	word := func(label, name string, v *string) { fact(label, name, v != nil, func() string { return *v }) }
	word("Model", "model", p.Model)
	word("SoC", "soc", p.SoC)
	word("Architecture", "arch", p.Arch)
	fact("Memory", "ram_bytes", p.RAMBytes != nil, func() string { return output.Bytes(*p.RAMBytes) })
	fact("CPU cores", "cpu_cores", p.CPUCores != nil, func() string { return strconv.FormatUint(uint64(*p.CPUCores), 10) })
	fact("Accelerators", "accelerators", len(p.Accelerators) > 0, func() string { return strings.Join(p.Accelerators, ", ") })
	word("OS", "os", p.OS)
	word("Kernel", "kernel", p.Kernel)
	if h := p.Hints; h != nil {
		s.Heading("Hints", "these help to recognise the machine; they identify nothing")
		s.Sub("Serial", h.Serial)
		s.Sub("Machine id", h.MachineID)
		s.Sub("MAC addresses", strings.Join(h.MACs, ", "))
	}
}

func softwareFacts(s *output.Sheet, d v1.Device) {
	s.Heading("Desired", "version "+strconv.FormatUint(d.Desired.Version, 10))
	for _, as := range d.Desired.Assignments {
		text := artifactLabel(as.Artifact, as.Name, as.Version)
		if as.Attempt > 0 {
			text += ", attempt " + strconv.FormatUint(uint64(as.Attempt), 10)
		}
		s.Sub(as.Slot, text)
	}
	s.Heading("Reported", "version "+strconv.FormatUint(d.Reported.Version, 10))
	for i := range d.Reported.Slots {
		s.Sub(d.Reported.Slots[i].Slot, slotWords(&d.Reported.Slots[i].Status))
	}
}

// slotWords is what a device stated of a slot, without the slot's name.
func slotWords(st *v1.Status) string {
	_, text, _ := strings.Cut(statusWords(st), ": ")
	return text
}
