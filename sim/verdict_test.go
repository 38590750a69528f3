package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// ends are the ends that a device stated of a release, in the order of its history.
func (p *plant) ends(i int, r *release) string {
	p.t.Helper()
	var all []string
	for _, it := range p.history(i) {
		if s := it.Status; s != nil && s.Artifact == r.Digest.String() && s.State != "downloading" && s.State != "verifying" && s.State != "applying" {
			all = append(all, strings.TrimSpace(s.State+" "+s.Reason))
		}
	}
	return strings.Join(all, ", ")
}

// TestVerdictsWithoutTheWAN cuts the WAN, or the device from its gateway, in the moment in which two devices have switched, one to a release that is
// healthy and one to a release that is not. They decide as they do when nothing is cut, and tell it when they can.
func TestVerdictsWithoutTheWAN(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(p *plant, off bool){
		"nothing is cut": func(*plant, bool) {},
		"the WAN":        func(p *plant, off bool) { p.wan(p.gw, !off) },
		"the plant's network": func(p *plant, off bool) {
			for _, a := range p.devices {
				p.Net.Cut(a.Host, p.gw.Addr.Addr(), off)
				p.Net.Cut(p.gw.Addr.Addr(), a.Host, off)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inPlant(t, 2, 5*time.Second, func(p *plant) {
				p.trust()
				one, well := p.publish(1, 4, 4096), p.publish(2, 4, 4096)
				ill := p.publish(3, 4, 4096, func(m *artifact.Manifest) { m.Health[0].Path = "gone" })
				next := []*release{well, ill}
				for _, a := range p.devices {
					p.assign(a, one)
				}
				p.sleep(30 * time.Second)
				for i, a := range p.devices {
					if p.ends(i, one) != "healthy" {
						t.Fatalf("%s is %q", a.Name, p.slot(a))
					}
					p.assign(a, next[i])
				}
				for !p.runs(p.devices[0], well) || !p.runs(p.devices[1], ill) {
					p.sleep(10 * time.Millisecond)
				}
				cut(p, true)
				p.sleep(10 * time.Minute)
				if !p.runs(p.devices[0], well) || !p.runs(p.devices[1], one) {
					t.Error("what runs is not what was healthy")
				}
				if name != "nothing is cut" && p.ends(0, well)+p.ends(1, ill) != "" {
					t.Errorf("told already: %q, %q", p.ends(0, well), p.ends(1, ill))
				}
				cut(p, false)
				p.sleep(5 * time.Minute)
				if got := []string{p.ends(0, well), p.ends(1, ill)}; got[0] != "healthy" || got[1] != "rolled_back health" {
					t.Errorf("the core knows %q", got)
				}
			})
		})
	}
}
