package registry

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// BenchmarkMemory reports the live heap per device of a fleet of 100,000 that enrolled, registered and attached: just after, when every
// enrollment can still be repeated, and later.
func BenchmarkMemory(b *testing.B) {
	const devices = 100_000
	for b.Loop() {
		before := liveHeap()
		l := newLog(b)
		c := token(1, devices)
		c.Tags = map[string]string{"line": "3"}
		l.ok(c)
		for i := range devices {
			l.entries = nil
			joinFleet(l, i)
		}
		l.entries = nil
		after := liveHeap()
		if n := l.state.View().DeviceCount(); n != devices {
			b.Fatalf("%d devices", n)
		}
		b.ReportMetric(float64(after-before)/devices, "B/device-just-enrolled")
		l.now = l.now.Add(72 * time.Hour) // nobody's retry of an enrollment is answered any more
		l.ok(token(2, 1))
		l.entries = nil
		b.ReportMetric(float64(liveHeap()-before)/devices, "B/device")
		runtime.KeepAlive(l)
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// joinFleet brings device i into the fleet as a plant's device would come. Its statement's effect is made in place: signing
// 100,000 of them would take most of the time and leave nothing in the state.
func joinFleet(l *log, i int) {
	var spki [91]byte
	binary.BigEndian.PutUint64(spki[10:], uint64(i)+1)
	id := ident.DeviceID(spki[2:18])
	m := &machine{t: l.t, id: id, epoch: 1}
	l.apply(&command.Enroll{
		Token: seal.TokenID{1}, Kind: seal.KindDevice, Device: id, SPKI: spki[:], Cert: make([]byte, 520),
		NotAfter: start.Add(ident.LeafLifetime).UnixMilli(), Via: "spiffe://acme/gateway/plant-7/gw-a",
	})
	l.apply(m.online(gwA, start, m.attach(1, uint64(i), 1)))
	old, _ := l.state.view.devices.get(id)
	d := *old
	d.RegisteredMS = start.UnixMilli()
	r := seal.Register{AgentVersion: "0.1.0", Tags: map[string]string{"rack": fmt.Sprint(i)}}
	text := func(s string) wire.Fact[string] { return wire.Known(s + fmt.Sprint(i%7)) }
	r.Profile = wire.Profile{
		Model: text("NVIDIA Jetson Xavier NX Developer Kit "), SoC: text("nvidia-jetson-xavier-nx"), Arch: text("arm64"),
		RAMBytes: wire.Known(uint64(8 << 30)), CPUCores: wire.Known(uint32(6)), Accelerators: wire.Known([]string{"nvidia-gpu"}),
		OS: text("Ubuntu 20.04.6 LTS "), Kernel: text("5.10.104-tegra"),
		Hints: wire.Hints{Serial: fmt.Sprintf("1421221%06d", i), MachineID: fmt.Sprintf("%032d", i), MACs: []string{"48:b0:2d:00:00:01"}},
	}
	d.Facts = facts(&r)
	d.Epoch = Epoch{N: 1, Seq: 1}
	l.state.view.devices.put(&d)
}

func BenchmarkPersist(b *testing.B) {
	l := newLog(b)
	l.ok(token(1, 10_000))
	for i := range 10_000 {
		joinFleet(l, i)
	}
	v := l.state.View()
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Persist(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
