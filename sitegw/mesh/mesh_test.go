package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Gateways that know the list and the key find one another, and order those that have an uplink by their load.
func TestGatewaysFindOneAnother(t *testing.T) {
	inSite(t, 6, func(t *testing.T, s *site) {
		for i, g := range s.gateways {
			g.set([]Uplink{Direct, None, Relayed}[i%3], Load{Sessions: 1000 - 300*i, Busy: 0.1})
		}
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		time.Sleep(10 * time.Second)                                           // what changed since the start is told
		s.divide(func(a, b string) bool { return a == "gw-5" || b == "gw-5" }) // of which nothing is known then
		time.Sleep(30 * time.Second)
		for range 20 {
			var order []string
			for _, sib := range s.gateways[1].Siblings() {
				order = append(order, sib.Name)
			}
			slices.Sort(order[3:])
			if !slices.Equal(order, []string{"gw-3", "gw-0", "gw-5", "gw-2", "gw-4"}) {
				t.Fatalf("order %v", order)
			}
		}
		if st := s.gateways[0].Status(); st.Alive != 4 || st.Listed != 5 || st.Generation != 1 || !st.Keyed || st.Sieved != 0 {
			t.Errorf("status %+v", st)
		}
		if l := s.gateways[0].log.String(); !strings.Contains(l, "sibling is there") {
			t.Errorf("nobody came, by the log:\n%s", l)
		}
	})
}

// A gateway that says goodbye is gone at once; one that dies, when it is noticed. Both come back.
func TestWhoLeavesAndWhoDies(t *testing.T) {
	inSite(t, 5, func(t *testing.T, s *site) {
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		start := time.Now()
		s.gateways[4].stop()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the stop took %v", took)
		}
		s.until(20*time.Second, "gw-4 has left", s.whole(s.others("gw-4")...))
		s.gateways[4].start()
		s.until(time.Minute, "gw-4 is back", s.whole(s.listed...))
		s.divide(func(a, b string) bool { return a == "gw-3" || b == "gw-3" })
		s.until(time.Minute, "gw-3 is dead", s.whole(s.others("gw-3")...))
		time.Sleep(2 * lookEvery)
		if l := s.gateways[0].log.String(); !strings.Contains(l, "sibling is gone") {
			t.Errorf("nobody went, by the log:\n%s", l)
		}
		s.divide(nil)
		s.until(2*time.Minute, "gw-3 is back", s.whole(s.listed...))
	})
}

// The halves of a site that is split see themselves, and one another again when it is whole.
func TestASplitHeals(t *testing.T) {
	inSite(t, 8, func(t *testing.T, s *site) {
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		half := func(n string) bool { return n < "gw-4" }
		s.divide(func(a, b string) bool { return half(a) != half(b) })
		s.until(2*time.Minute, "each half sees itself", func() bool { return s.whole(s.listed[:4]...)() && s.whole(s.listed[4:]...)() })
		time.Sleep(10 * time.Minute)
		s.divide(nil)
		s.until(2*time.Minute, "all see all again", s.whole(s.listed...))
	})
}

// With a new key the one before counts no more: who has only that is no member, and who left the list is no sibling at all.
func TestTheKeyChanges(t *testing.T) {
	inSite(t, 5, func(t *testing.T, s *site) {
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		s.listed = s.listed[:4]
		s.relist()
		for _, g := range s.gateways[:3] { // gw-3 has no uplink, gw-4 is shut out
			g.Mirror.Apply(&wire.Site{List: s.list})
			g.ListChanged()
			if names := g.alive(); slices.Contains(names, "gw-4") {
				t.Errorf("%s has %v", g.name, names)
			}
			g.Keys.Told(siteKey(2, 'b'))
		}
		s.until(time.Minute, "three have the new key", s.whole(s.listed[:3]...))
		time.Sleep(5 * time.Minute)
		s.until(0, "and no others", s.whole(s.listed[:3]...))
		if st := s.gateways[0].Status(); st.Generation != 2 || st.Listed != 3 {
			t.Errorf("status %+v", st)
		}
		s.gateways[3].Keys.Told(siteKey(2, 'b'))
		s.until(time.Minute, "gw-3 has it, too", s.whole(s.listed...))
	})
}

// Without a key there is no mesh: nothing is sent, nobody is served. It begins with the key.
func TestNoMeshWithoutAKey(t *testing.T) {
	inSite(t, 0, func(t *testing.T, s *site) {
		s.listed = []string{"gw-a", "gw-b"}
		s.relist()
		a, b := s.add("gw-a"), s.add("gw-b")
		b.Keys.Told(siteKey(1, 'a'))
		a.start()
		b.start()
		time.Sleep(time.Minute)
		if n := s.packets.Load(); n != 0 || len(a.alive()) != 0 || a.Status().Keyed || len(a.Siblings()) != 1 {
			t.Errorf("%d packets, %v is there, status %+v", n, a.alive(), a.Status())
		}
		a.Keys.Told(siteKey(1, 'a'))
		s.until(time.Minute, "they found one another", s.whole(s.listed...))
	})
}

// A site at rest is quiet.
func TestIdleTraffic(t *testing.T) {
	for _, n := range []int{2, 5, 8} {
		inSite(t, n, func(t *testing.T, s *site) {
			s.until(time.Minute, "all see all", s.whole(s.listed...))
			time.Sleep(time.Minute)
			before := s.packets.Load()
			const span = 10 * time.Minute
			time.Sleep(span)
			perSecond := float64(s.packets.Load()-before) / span.Seconds() / float64(n)
			t.Logf("%d gateways: each sends %.2f packets a second", n, perSecond)
			if perSecond > 1.5 {
				t.Errorf("%d gateways: each sends %.2f packets a second", n, perSecond)
			}
		})
	}
}

// A gateway that is alone on its list runs nothing; it begins when the list has another one, and ends when that has left.
func TestAloneThereIsNoMesh(t *testing.T) {
	inSite(t, 1, func(t *testing.T, s *site) {
		g := s.gateways[0]
		relist := func(names ...string) {
			s.listed = names
			s.relist()
			g.Mirror.Apply(&wire.Site{List: s.list})
			g.ListChanged()
			time.Sleep(10 * time.Second)
		}
		time.Sleep(time.Minute)
		if g.round() != nil {
			t.Error("a gateway that is alone gossips")
		}
		relist("gw-0", "gw-1")
		if g.round() == nil || len(g.Siblings()) != 1 {
			t.Errorf("with a sibling it does not, and has %v", g.Siblings())
		}
		relist("gw-0")
		if g.round() != nil || len(g.Siblings()) != 0 {
			t.Errorf("alone again it does, and has %v", g.Siblings())
		}
	})
}
