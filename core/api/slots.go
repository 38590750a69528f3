package api

import (
	"context"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// desired is what a device is to run, as the API writes it. d may be nil.
func desired(v registry.View, d *registry.Desired) v1.Desired {
	if d == nil {
		return v1.Desired{Assignments: []v1.Assignment{}}
	}
	out := v1.Desired{Version: d.Number, Assignments: make([]v1.Assignment, len(d.Assignments))}
	for i := range d.Assignments {
		x := &d.Assignments[i]
		a := v1.Assignment{
			Slot: x.Slot, Artifact: digest(x.Artifact), Attempt: x.Attempt, Downgrade: x.Downgrade, Order: x.Order, Since: atOrNull(x.SinceMS), By: x.By,
		}
		a.Name, a.Version = title(v, x.Artifact)
		out.Assignments[i] = a
	}
	return out
}

// reported is what a device stated of its slots, as the API writes it. r may be nil.
func reported(v registry.View, r *registry.Reported) v1.Reported {
	if r == nil {
		return v1.Reported{Slots: []v1.Slot{}}
	}
	out := v1.Reported{Slots: make([]v1.Slot, len(r.Slots))}
	for i := range r.Slots {
		x := &r.Slots[i]
		out.Version = max(out.Version, x.Order)
		out.Slots[i] = v1.Slot{
			Status: statusOf(v, x.Status()), Epoch: x.At.Epoch, Seq: x.At.Seq, StatedAt: at(x.StatedMS), At: at(x.AtMS), Since: at(x.SinceMS),
		}
	}
	return out
}

// statusOf is a status as the API writes it.
func statusOf(v registry.View, s *seal.Status) v1.Status {
	out := v1.Status{
		Slot: s.Slot, State: s.State.String(), Artifact: digest(s.Artifact), Order: s.Order, Attempt: s.Attempt, Reason: s.Reason, Detail: s.Detail,
		TotalBytes: s.Total, FetchedBytes: s.Fetched, SavedBytes: s.Saved, Running: digest(s.Running),
	}
	out.Name, out.Version = title(v, s.Artifact)
	out.RunningName, out.RunningVersion = title(v, s.Running)
	return out
}

// digest is a digest as the API writes it: empty for the one that names nothing.
func digest(d wire.Digest) string {
	if d.IsZero() {
		return ""
	}
	return d.String()
}

// title is the name and version of an artifact, empty for one that the core does not have.
func title(v registry.View, d wire.Digest) (name, version string) {
	if x, ok := v.Artifact(d); ok {
		return x.Name, x.Version
	}
	return "", ""
}

// SlotPath is the part of a path that names a slot of a device.
type SlotPath struct {
	DevicePath
	Slot string `path:"slot" maxLength:"32" doc:"lower-case letters, digits and inner hyphens"`
}

type setSlotInput struct {
	SlotPath
	Body v1.SetSlot
}

type slotInput struct{ SlotPath }

func (s *server) setSlot(ctx context.Context, c *call, in *setSlotInput) (*reply[v1.Device], error) {
	x, err := findArtifact(c.view, "body.artifact", in.Body.Artifact)
	if err != nil {
		return nil, err
	}
	return s.assign(ctx, c, in.SlotPath, &command.Assign{Verb: command.VerbSet, Artifact: x.Digest, Downgrade: in.Body.Downgrade})
}

func (s *server) unsetSlot(ctx context.Context, c *call, in *slotInput) (*reply[v1.Device], error) {
	return s.assign(ctx, c, in.SlotPath, &command.Assign{Verb: command.VerbUnset})
}

func (s *server) retrySlot(ctx context.Context, c *call, in *slotInput) (*reply[v1.Device], error) {
	return s.assign(ctx, c, in.SlotPath, &command.Assign{Verb: command.VerbRetry})
}

func (s *server) assign(ctx context.Context, c *call, p SlotPath, cmd *command.Assign) (*reply[v1.Device], error) {
	if err := seal.CheckSlot(p.Slot); err != nil {
		return nil, invalid("path.slot", "%v", err)
	}
	d, err := p.find(c.view)
	if err != nil {
		return nil, err
	}
	if _, assigned := d.Desired.Slot(p.Slot); !assigned && cmd.Verb != command.VerbSet {
		return nil, fmt.Errorf("slot %s of device %v: nothing is assigned: %w", p.Slot, d.ID, registry.ErrNotFound)
	}
	cmd.Device, cmd.Slot = d.ID, p.Slot
	return s.changeDevice(ctx, c, d, cmd)
}
