package explain

import (
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

var (
	now      = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	authKey  = ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize))
	ada      = ed25519.NewKeyFromSeed(slices.Repeat([]byte{2}, ed25519.SeedSize))
	app, old = wire.DigestOf([]byte("app")), wire.DigestOf([]byte("old"))
)

// must is for what cannot fail here.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) } //nolint:forcetypeassert // an ed25519 key's

// view is a fleet with artifact app@1.0 and a site that fetches by night; more are applied to it.
func view(t *testing.T, more ...command.Command) registry.View {
	t.Helper()
	root := must(ident.NewRoot("acme", must(ident.NewKey()), now))
	cert := must(root.Issue(ident.Leaf{ID: ident.Authority("acme"), Public: authKey.Public(), Now: now}))
	by := command.Actor{Operator: "op-1"}
	cmds := append([]command.Command{
		&command.Init{
			Fleet: "acme", IntervalMS: 30_000, Operator: command.Operator{ID: "op-1", Role: "admin"}, Authority: command.WrappedCA{Cert: cert},
		},
		&command.SetPublishers{By: by, Sealed: sealed(1, public(ada), authKey)},
		&command.AddArtifact{
			By: by, Parts: []wire.Digest{{1}}, Kind: 1, Size: 200 << 20,
			Release: must(seal.SealRelease(&seal.Release{Format: 1, Name: "app", Version: "1.0", Number: 1, Manifest: app, Size: 9}, ada)),
		},
	}, more...)
	s := registry.New()
	for i, c := range cmds {
		eff, err := s.Apply(uint64(i)+1, now, [][]byte{must(command.Encode(c))})
		if err != nil {
			t.Fatal(err)
		}
		if err, refused := eff.Results[0].(error); refused {
			t.Fatalf("%T: %v", c, err)
		}
	}
	return s.View()
}

// sealed is set n, in which one key may publish, and ada's is the root key.
func sealed(n uint64, publisher ed25519.PublicKey, by ed25519.PrivateKey) []byte {
	set := &seal.PublisherSet{
		Format: 1, Fleet: "acme", Number: n, Roots: [][]byte{public(ada)}, Threshold: 1, Publishers: []seal.Publisher{{Name: "p", Key: publisher}},
	}
	return must(seal.JoinPublisherSet(must(seal.SignPublisherSet(set, by))))
}

// input is a device that is online and has app assigned, with what it stated.
func input(t *testing.T, reports ...registry.SlotReport) Input {
	t.Helper()
	d := &registry.Device{
		ID: ident.DeviceID{0x11}, Site: "plant-7", State: wire.DeviceActive, Presence: registry.Presence{Online: true, Gateway: "plant-7/gw-a"},
		Desired: &registry.Desired{Number: 3, LoggedMS: now.Add(-time.Hour).UnixMilli(), Assignments: []registry.Assignment{
			{Slot: "app", Artifact: app, Attempt: 1, Order: 3, SinceMS: now.Add(-time.Hour).UnixMilli(), By: "op-1"},
		}},
	}
	if len(reports) > 0 {
		d.Reported = &registry.Reported{Slots: reports}
	}
	return Input{
		View: view(t), Device: d, Now: now, Uplink: liveness.Uplink{Connected: true, Heard: now},
		Verdict: liveness.Verdict{Online: true, Since: now.Add(-2 * time.Hour), Last: now.Add(-10 * time.Second)},
	}
}

// report is what the device stated of what is assigned.
func report(state seal.SlotState) registry.SlotReport {
	return registry.SlotReport{
		Slot: "app", State: state, Artifact: app, Order: 3, Attempt: 1, Running: app, AtMS: now.Add(-time.Minute).UnixMilli(), SinceMS: now.Add(-5 * time.Minute).UnixMilli(),
	}
}

func with(r registry.SlotReport, f func(*registry.SlotReport)) registry.SlotReport {
	f(&r)
	return r
}

// of are the facts of a topic, of the slot if it is of one.
func of(facts []Fact, topic string) (out []Fact) {
	for _, f := range facts {
		if f.Topic == topic {
			out = append(out, f)
		}
	}
	return out
}

func TestDevice(t *testing.T) {
	night := []command.Command{&command.SetSite{By: command.Actor{Operator: "op-1"}, Site: "plant-7", ContentWindow: new("22:00-05:00")}}
	day := []command.Command{&command.SetSite{By: command.Actor{Operator: "op-1"}, Site: "plant-7", ContentWindow: new("09:00-11:00")}}
	downloading := with(report(seal.SlotDownloading), func(r *registry.SlotReport) {
		r.Total, r.Fetched, r.Saved, r.Running = 200<<20, 2<<20, 150<<20, old
	})
	for name, tc := range map[string]struct {
		reports []registry.SlotReport
		change  func(*Input)
		want    map[string]string // by topic: what its facts say, together; "-": there is none
		until   map[string]time.Time
	}{
		"nothing was ever assigned": {
			change: func(in *Input) { in.Device.Desired = nil },
			want:   map[string]string{TopicOrder: "Nothing was ever", TopicAssignment: "-", TopicWaits: "-", TopicNext: "-"},
		},
		"told, and not heard of": {
			want: map[string]string{
				TopicDevice: "active", TopicPresence: "online through gateway plant-7/gw-a", TopicOrder: "Order 3 was sent to gateway plant-7/gw-a", TopicAssignment: "app@1.0",
				TopicReported: "stated nothing", TopicWaits: "for the device to act", TopicNext: "Once the device has the order",
			},
			until: map[string]time.Time{TopicPresence: now.Add(80 * time.Second)},
		},
		"its gateway is away": {
			change: func(in *Input) { in.Uplink = liveness.Uplink{Heard: now.Add(-time.Hour)} },
			want:   map[string]string{TopicOrder: "is not known: it is not connected, and was heard last at 2026-05-01T09:00:00Z"},
		},
		"nobody knows of its gateway": {
			change: func(in *Input) { in.Uplink = liveness.Uplink{} }, want: map[string]string{TopicOrder: "not known: it is not connected."},
		},
		"it never connected": {
			change: func(in *Input) {
				in.Device.Presence, in.Verdict = registry.Presence{}, liveness.Verdict{Reason: liveness.ReasonNeverConnected}
			},
			want: map[string]string{TopicPresence: "never connected", TopicOrder: "Whichever gateway", TopicWaits: "for the device to connect"},
		},
		"offline": {
			change: func(in *Input) { in.Verdict.Online, in.Verdict.Reason = false, liveness.ReasonHeartbeatMissed },
			want:   map[string]string{TopicPresence: "offline. It was heard last at 2026-05-01T09:59:50Z", TopicWaits: "for the device to connect"},
		},
		"the site is unreachable": {
			reports: []registry.SlotReport{downloading},
			change:  func(in *Input) { in.Verdict.Online, in.Verdict.Reason = false, liveness.ReasonSiteUnreachable },
			want:    map[string]string{TopicPresence: "site is unreachable", TopicWaits: "goes on by itself"},
		},
		"quarantined": {
			change: func(in *Input) { in.Device.State, in.Device.Reason = wire.DeviceQuarantined, "clone" },
			want:   map[string]string{TopicDevice: "devices release", TopicWaits: "the end of the quarantine"},
		},
		"decommissioned": {
			change: func(in *Input) { in.Device.State = wire.DeviceDecommissioned },
			want:   map[string]string{TopicDevice: "decommissioned", TopicWaits: "is decommissioned"},
		},
		"downloading": {
			reports: []registry.SlotReport{downloading},
			want: map[string]string{
				TopicOrder: "has order 3", TopicReported: "152.0 MiB of 200.0 MiB are there, of which 2.0 MiB came over the link; artifact", TopicWaits: "for content", TopicNext: "all of it is there",
			},
		},
		"outside the window": {
			reports: []registry.SlotReport{downloading}, change: func(in *Input) { in.View = view(t, night...) },
			want: map[string]string{TopicWaits: "for the window"}, until: map[string]time.Time{TopicWaits: now.Add(12 * time.Hour)},
		},
		"in the window": {
			reports: []registry.SlotReport{downloading}, change: func(in *Input) { in.View = view(t, day...) },
			want: map[string]string{TopicWaits: "for content"}, until: map[string]time.Time{TopicWaits: {}},
		},
		"verifying": {
			reports: []registry.SlotReport{report(seal.SlotVerifying)}, want: map[string]string{TopicWaits: "is at work", TopicNext: "verified"},
		},
		"applying": {
			reports: []registry.SlotReport{report(seal.SlotApplying)}, want: map[string]string{TopicWaits: "is at work", TopicNext: "with or without the core"},
		},
		"healthy": {
			reports: []registry.SlotReport{report(seal.SlotHealthy)},
			want:    map[string]string{TopicReported: "stated healthy. The core heard it last at 2026-05-01T09:59:00Z", TopicWaits: "-", TopicNext: "Nothing is to be done"},
		},
		"failed": {
			reports: []registry.SlotReport{with(report(seal.SlotFailed), func(r *registry.SlotReport) {
				r.Reason, r.Detail, r.Running = "signature", "it does not verify", wire.Digest{}
			})},
			want: map[string]string{
				TopicReported: "failed, for the reason signature (it does not verify); nothing runs", TopicWaits: "-", TopicNext: "`holdfast devices retry 11000000-0000-0000-0000-000000000000 --slot app`",
			},
		},
		"rolled back, and then another attempt was ordered": {
			reports: []registry.SlotReport{with(report(seal.SlotRolledBack), func(r *registry.SlotReport) { r.Attempt = 0 })},
			want:    map[string]string{TopicReported: "which is not what is assigned now", TopicWaits: "for the device to act", TopicNext: "Once the device has the order"},
		},
		"drifted": {
			reports: []registry.SlotReport{report(seal.SlotDrifted)}, want: map[string]string{TopicWaits: "changed on the device's disk", TopicNext: "puts back"},
		},
		"to run nothing": {
			reports: []registry.SlotReport{report(seal.SlotHealthy)}, change: func(in *Input) { in.Device.Desired.Assignments[0].Artifact = wire.Digest{} },
			want: map[string]string{TopicAssignment: "to run nothing", TopicNext: "removes what runs"},
		},
		"removed": {
			reports: []registry.SlotReport{with(report(seal.SlotRemoved), func(r *registry.SlotReport) { r.Artifact, r.Running = wire.Digest{}, wire.Digest{} })},
			change:  func(in *Input) { in.Device.Desired.Assignments[0].Artifact = wire.Digest{} },
			want:    map[string]string{TopicReported: "stated removed; nothing runs", TopicWaits: "-", TopicNext: "Nothing is to be done"},
		},
		"another slot is reported alone": {
			reports: []registry.SlotReport{with(report(seal.SlotHealthy), func(r *registry.SlotReport) { r.Slot = "a" })},
			want:    map[string]string{TopicAssignment: "Nothing is assigned; what runs is left"},
		},
		"its publisher is gone": {
			change: func(in *Input) {
				in.View = view(t, &command.SetPublishers{By: command.Actor{Operator: "op-1"}, Sealed: sealed(2, public(authKey), ada)})
			},
			want: map[string]string{TopicWaits: "Devices refuse its release"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, tc.reports...)
			if tc.change != nil {
				tc.change(&in)
			}
			facts := Device(in)
			for topic, want := range tc.want {
				var said []string
				for _, f := range of(facts, topic) {
					said = append(said, f.Text)
				}
				if text := strings.Join(said, " | "); want == "-" && text != "" || want != "-" && !strings.Contains(text, want) {
					t.Errorf("%s: %q, want %q", topic, text, want)
				}
			}
			for topic, want := range tc.until {
				if f := of(facts, topic); len(f) == 0 || !f[0].Until.Equal(want) {
					t.Errorf("%s: %+v, want until %v", topic, f, want)
				}
			}
			for _, f := range facts {
				if !slices.Contains(Topics, f.Topic) || !strings.HasSuffix(f.Text, ".") || strings.Contains(f.Text, "%!") {
					t.Errorf("fact %+v", f)
				}
			}
		})
	}
}

// Slots come in order of name, whatever is known of each.
func TestSlotsAreInOrder(t *testing.T) {
	in := input(t)
	in.Device.Desired.Assignments = []registry.Assignment{{Slot: "b", Artifact: app}, {Slot: "c", Artifact: app}, {Slot: "e", Artifact: app}}
	in.Device.Reported = &registry.Reported{Slots: []registry.SlotReport{{Slot: "a", State: seal.SlotHealthy}, {Slot: "c", State: seal.SlotHealthy}, {Slot: "d", State: seal.SlotHealthy}, {Slot: "f", State: seal.SlotHealthy}}}
	var slots []string
	for _, f := range Device(in) {
		if f.Slot != "" {
			slots = append(slots, f.Slot)
		}
	}
	if got := slices.Compact(slots); !slices.Equal(got, []string{"a", "b", "c", "d", "e", "f"}) {
		t.Errorf("slots %v", got)
	}
}
