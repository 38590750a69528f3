package sim

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// begun is how much of the start of a release a device has, staged or installed, in bytes.
func (p *plant) begun(a *Agent, r *release) (n int) {
	p.t.Helper()
	if p.runs(a, r) {
		return len(r.file)
	}
	b, err := os.ReadFile(filepath.Join(a.Dir(), "slots", "app", "staging", r.Digest.String(), "tree", "app"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	for n < len(b) && b[n] == r.file[n] {
		n++
	}
	return n
}

// TestWANCutInADownload cuts the WAN of both gateways of a site while two devices, one at each, download. Whatever the site has by then goes on to
// where it is wanted, also to a device that comes when the WAN is down. When it is back all finish, and one copy has crossed it.
func TestWANCutInADownload(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 5*time.Second, func(p *plant) {
		const chunks, size, rate = 40, 64 << 10, 128 << 10
		limit := uint64(rate)
		p.must(p.Call(p.ctx, nil, http.MethodPut, "/v1/sites/plant-7", v1.SetSite{ContentRate: &limit}))
		sibling, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		run, err := sibling.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		gws := []*Gateway{p.gw, sibling}
		token, err := p.Token(p.ctx, "device", "plant-7", 3)
		p.must(err)
		for i, name := range []string{"agent-1", "agent-2", "late"} {
			a := p.NewAgent(name, gws[i%2])
			p.must(a.Enroll(p.ctx, token))
			p.devices = append(p.devices, a)
		}
		p.sleep(20 * time.Second) // until the gateways know one another
		p.trust()
		r := p.publish(1, chunks, size)
		for _, a := range p.devices {
			p.assign(a, r)
		}
		for _, a := range p.devices[:2] {
			p.startAgent(a)
		}
		wan := func() uint64 { return p.gw.OverWAN() + sibling.OverWAN() }
		for wan() < chunks*size/3 {
			p.sleep(100 * time.Millisecond)
		}
		for _, g := range gws {
			p.wan(g, false)
		}
		p.sleep(5 * time.Second)
		had := wan()
		if had > chunks*size*2/3 {
			t.Fatalf("%d bytes of %d came before the WAN was cut", had, len(r.file))
		}
		p.startAgent(p.devices[2])
		p.sleep(10 * time.Minute)
		if n := wan(); n != had {
			t.Errorf("%d bytes crossed a WAN that is cut", n-had)
		}
		for _, a := range p.devices {
			n := p.begun(a, r)
			t.Logf("without the WAN %s has %d of the %d bytes that the site had", a.Name, n, had)
			if n < int(had)*3/4 || p.runs(a, r) {
				t.Errorf("%s has %d bytes of it", a.Name, n)
			}
		}
		for _, g := range gws {
			p.wan(g, true)
		}
		p.sleep(15 * time.Minute) // the longest that a device waits between two tries, and what is left of the download
		for _, a := range p.devices {
			if !p.runs(a, r) || p.slot(a) != "healthy" {
				t.Errorf("%s is %q", a.Name, p.slot(a))
			}
		}
		if n := wan(); n < chunks*size || n >= (chunks+1)*size {
			t.Errorf("%d bytes crossed the WAN for %d: a chunk crossed it twice", n, len(r.file))
		}
		t.Logf("%d bytes crossed the WAN for a release of %d and its manifest of %d", wan(), len(r.file), len(r.Bytes))
	})
}
