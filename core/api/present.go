package api

import (
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

// latestMS is the last millisecond of year 9999, the latest that RFC 3339 can write.
const latestMS = 253402300799999

// at is a time of the registry as the API writes it. Devices and gateways may claim any number, so it is clamped to what can
// be written.
func at(ms int64) time.Time { return time.UnixMilli(min(max(ms, 0), latestMS)).UTC() }

// atOrNull is at, with null for "never".
func atOrNull(ms int64) *time.Time {
	if ms <= 0 {
		return nil
	}
	t := at(ms)
	return &t
}

// stamp is a time as the API writes it, with null for the zero time.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return atOrNull(t.UnixMilli())
}

const (
	online  = "online"
	offline = "offline"
)

func presence(isOnline bool) string {
	if isOnline {
		return online
	}
	return offline
}

// device is a record as the API writes it.
func device(v registry.View, d *registry.Device, p liveness.Verdict) v1.Device {
	stated := d.Registered()
	return v1.Device{
		ID: d.ID.String(), Site: d.Site, State: d.State.String(), StateReason: d.Reason,
		Presence: presence(p.Online), PresenceReason: p.Reason, PresenceSince: stamp(p.Since), LastHeartbeatAt: stamp(p.Last),
		HeartbeatIntervalS: max(v.Interval(d), p.Least).Seconds(), Gateway: d.Presence.Gateway, Profile: profile(&stated.Profile),
		AgentVersion: stated.AgentVersion, Tags: tagsOf(d, stated.Tags), EnrolledAt: at(d.EnrolledMS), RegisteredAt: atOrNull(d.RegisteredMS),
		Desired: desired(v, d.Desired), Reported: reported(v, d.Reported), Keys: keys(d.Keys),
	}
}

// tagsOf is d.Tags for a caller that has decoded the device's own tags already: decoding is most of the cost of a list.
func tagsOf(d *registry.Device, own map[string]string) map[string]string {
	bare := *d
	bare.Facts = nil
	tags := bare.Tags()
	for k, v := range own {
		_, above := tags[k]
		_, removed := d.OperatorTags[k]
		if !above && !removed {
			tags[k] = v
		}
	}
	return tags
}

func keys(in []registry.Key) []v1.Key {
	out := make([]v1.Key, len(in))
	for i, k := range in {
		out[i] = v1.Key{ID: k.ID.String(), State: k.State.String(), Since: at(k.SinceMS), ExpiresAt: at(k.NotAfterMS)}
	}
	return out
}

// profile is a hardware profile as the API writes it.
func profile(p *wire.Profile) v1.Profile {
	unknown := make(map[string]string)
	out := v1.Profile{
		Model: fact(p.Model, "model", unknown), SoC: fact(p.SoC, "soc", unknown), Arch: fact(p.Arch, "arch", unknown),
		RAMBytes: fact(p.RAMBytes, "ram_bytes", unknown), CPUCores: fact(p.CPUCores, "cpu_cores", unknown),
		OS: fact(p.OS, "os", unknown), Kernel: fact(p.Kernel, "kernel", unknown),
	}
	fact(p.Accelerators, "accelerators", unknown)
	out.Accelerators = append([]string{}, p.Accelerators.Value...) // of an unknown one: what the probes that worked found
	if len(unknown) > 0 {
		out.Unknown = unknown
	}
	if h := p.Hints; h.Serial != "" || h.MachineID != "" || len(h.MACs) > 0 {
		out.Hints = &v1.Hints{Serial: h.Serial, MachineID: h.MachineID, MACs: h.MACs}
	}
	return out
}

// fact is the value of a fact, or nil; the reason of an unknown one is put into unknown.
func fact[T any](f wire.Fact[T], name string, unknown map[string]string) *T {
	if v, ok := f.Get(); ok {
		return &v
	}
	if f.State == wire.FactUnknown {
		unknown[name] = f.Reason
	}
	return nil
}

// token is a record as the API writes it at the given time.
func token(t *registry.Token, now time.Time) v1.Token {
	return v1.Token{
		ID: t.ID.String(), Kind: string(t.Kind), Site: t.Site, Tags: t.Tags, Uses: t.Uses, Used: t.Used, CreatedAt: at(t.CreatedMS),
		CreatedBy: t.By, ExpiresAt: at(t.ExpiresMS), State: tokenState(t, now), Comment: t.Comment,
	}
}

func tokenState(t *registry.Token, now time.Time) string {
	switch {
	case t.RevokedMS != 0:
		return "revoked"
	case t.Used >= t.Uses:
		return "used_up"
	case !t.Open(now):
		return "expired"
	}
	return "open"
}

// event is an event as the API writes it.
func event(e *registry.Event) v1.Event {
	return v1.Event{
		Index: e.Index, Time: at(e.Time.UnixMilli()), Type: e.Type, Device: e.Device, Site: e.Site, Gateway: e.Gateway,
		Token: e.Token, Operator: e.Operator, Node: e.Node, Data: e.Data,
	}
}

// siteOf is the site in a gateway's site/name.
func siteOf(gateway string) string {
	site, _, _ := strings.Cut(gateway, "/")
	return site
}
