package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

type listDevicesInput struct {
	Reading
	Paging
	Site     string `query:"site" maxLength:"63" doc:"only this home site's"`
	State    string `query:"state" enum:"active,quarantined,decommissioned"`
	Presence string `query:"presence" enum:"online,offline"`
}

func (s *server) listDevices(ctx context.Context, c *call, in *listDevicesInput) (*reply[v1.List[v1.Device]], error) {
	if in.Site != "" {
		if err := ident.CheckName("site", in.Site); err != nil {
			return nil, invalid("query.site", "%v", err)
		}
	}
	l := listOf("devices", in.Site, in.State, in.Presence)
	after, err := l.devicePosition(in.Cursor)
	if err != nil {
		return nil, err
	}
	v := c.view
	keep := func(d *registry.Device) bool {
		return c.sees(d.Site) && (in.Site == "" || d.Site == in.Site) && (in.State == "" || d.State.String() == in.State) &&
			(in.Presence == "" || presence(s.verdict(v, d).Online) == in.Presence)
	}
	recs, more, err := gather(ctx, in.Limit, func(f func(*registry.Device) bool) { v.Devices(after, f) }, keep)
	if err != nil {
		return nil, err
	}
	out := v1.List[v1.Device]{Items: make([]v1.Device, len(recs))}
	for i, d := range recs {
		out.Items[i] = device(v, d, s.verdict(v, d))
	}
	if more {
		out.NextCursor = l.deviceCursor(recs[len(recs)-1].ID)
	}
	return answer(out), nil
}

// verdict is the presence of a device now. The tracker compares with times of the machine's clock, not of Wall.
func (s *server) verdict(v registry.View, d *registry.Device) liveness.Verdict {
	return s.Tracker.Verdict(v, d, time.Now())
}

// DevicePath is the part of a path that names a device.
type DevicePath struct {
	ID string `path:"id" maxLength:"64" doc:"the device's id"`
}

func (p DevicePath) device() (ident.DeviceID, error) {
	id, err := ident.ParseDeviceID(p.ID)
	if err != nil {
		return id, invalid("path.id", "%v", err)
	}
	return id, nil
}

// find is the device of a path.
func (p DevicePath) find(v registry.View) (*registry.Device, error) {
	id, err := p.device()
	if err != nil {
		return nil, err
	}
	d, ok := v.Device(id)
	if !ok {
		return nil, missingDevice(id)
	}
	return d, nil
}

func missingDevice(id ident.DeviceID) error {
	return fmt.Errorf("device %v: %w", id, registry.ErrNotFound)
}

type getDeviceInput struct {
	Reading
	DevicePath
}

func (s *server) getDevice(_ context.Context, c *call, in *getDeviceInput) (*reply[v1.Device], error) {
	d, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	return s.deviceReply(c, c.view, d), nil
}

func (s *server) deviceReply(c *call, v registry.View, d *registry.Device) *reply[v1.Device] {
	c.tag(d.Revision)
	return answer(device(v, d, s.verdict(v, d)))
}

// changeDevice commits a command about the device d and answers with the record after it.
func (s *server) changeDevice(ctx context.Context, c *call, d *registry.Device, cmd command.Operated) (*reply[v1.Device], error) {
	if err := c.matches(d.Revision); err != nil {
		return nil, err
	}
	d, err := propose[*registry.Device](ctx, s, c, cmd)
	if err != nil {
		return nil, err
	}
	return s.deviceReply(c, s.Registry.View(), d), nil
}

// unchanged answers a change that is none.
func (s *server) unchanged(c *call, d *registry.Device) (*reply[v1.Device], error) {
	if c.revision != 0 && c.revision != d.Revision {
		return nil, registry.ErrRevision
	}
	return s.deviceReply(c, c.view, d), nil
}

type releaseInput struct{ DevicePath }

func (s *server) releaseDevice(ctx context.Context, c *call, in *releaseInput) (*reply[v1.Device], error) {
	d, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	return s.changeDevice(ctx, c, d, &command.Release{Device: d.ID})
}

type setDeviceInput struct {
	DevicePath
	Body v1.SetDevice
}

func (s *server) setDevice(ctx context.Context, c *call, in *setDeviceInput) (*reply[v1.Device], error) {
	cmd := new(command.SetInterval)
	if text := in.Body.HeartbeatInterval; text != nil && *text != "" {
		var err error
		if cmd.IntervalMS, err = interval(*text); err != nil {
			return nil, err
		}
	}
	d, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	if in.Body.HeartbeatInterval == nil {
		return s.unchanged(c, d)
	}
	cmd.Device = d.ID
	return s.changeDevice(ctx, c, d, cmd)
}

// interval reads body.heartbeat_interval, in ms.
func interval(text string) (uint32, error) {
	d, err := duration("body.heartbeat_interval", text, time.Second, time.Hour)
	return uint32(d.Milliseconds()), err //nolint:gosec // at most an hour
}

// duration reads a field that is a duration within bounds, in whole milliseconds.
func duration(location, text string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most || d%time.Millisecond != 0 {
		return 0, invalid(location, "%.40q is not a duration from %v to %v in whole milliseconds, such as 90s or 1h30m", text, least, most)
	}
	return d, nil
}

type setTagsInput struct {
	DevicePath
	Body v1.SetTags
}

func (s *server) setTags(ctx context.Context, c *call, in *setTagsInput) (*reply[v1.Device], error) {
	if err := checkTags("body.set", in.Body.Set); err != nil {
		return nil, err
	}
	for i, k := range in.Body.Remove {
		location := fmt.Sprintf("body.remove[%d]", i)
		if err := wire.CheckTag(k, ""); err != nil {
			return nil, invalid(location, "%v", err)
		}
		if _, both := in.Body.Set[k]; both {
			return nil, invalid(location, "tag %q is in set as well", k)
		}
	}
	d, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	if len(in.Body.Set) == 0 && len(in.Body.Remove) == 0 {
		return s.unchanged(c, d)
	}
	remove := slices.Compact(slices.Sorted(slices.Values(in.Body.Remove)))
	return s.changeDevice(ctx, c, d, &command.SetTags{Device: d.ID, Set: in.Body.Set, Remove: remove})
}

// checkTags holds tags of a request against the rules; the error names the tag.
func checkTags(location string, tags map[string]string) error {
	if len(tags) > wire.MaxTags {
		return invalid(location, "has %d tags, at most %d are kept", len(tags), wire.MaxTags)
	}
	for k, v := range tags {
		if err := wire.CheckTag(k, v); err != nil {
			return invalid(fmt.Sprintf("%s.%.80s", location, k), "%v", err)
		}
	}
	return nil
}
