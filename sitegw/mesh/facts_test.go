package mesh

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A gateway without an uplink has from its sibling what the core told that one meanwhile, entries of many pages and the list, and
// goes on to tell the core that it knows nothing of it.
func TestFactsComeFromSiblings(t *testing.T) {
	inSite(t, 2, func(t *testing.T, s *site) {
		a, b := s.gateways[0], s.gateways[1]
		b.set(Direct, Load{})
		var all [][]byte
		for range 3*wire.MaxPage + 7 {
			all = append(all, s.entry())
		}
		a.Mirror.Apply(&wire.Site{Entries: all[:10], UptoEpoch: 1, Upto: s.number - uint64(len(all)) + 10})
		known := a.Mirror.Known()
		s.relist()
		b.Mirror.Apply(&wire.Site{Entries: all, List: s.list, UptoEpoch: 1, Upto: s.number})
		s.until(time.Minute, "gw-0 has all", func() bool { return a.Mirror.Status().Devices == len(all) })
		if got := a.Mirror.Newer(seal.Stamp{}); !slices.EqualFunc(got, all, func(x mirror.Signed, y []byte) bool { return bytes.Equal(x.Sealed, y) }) {
			t.Errorf("%d entries differ", len(got))
		}
		if list, _ := a.Mirror.List(); !bytes.Equal(list, s.list) {
			t.Error("it has another list")
		}
		if now := a.Mirror.Known(); now != known || len(a.heard()) != len(all)-10 || a.Status().Taken != uint64(len(all)-10+1) {
			t.Errorf("known %v and then %v; told of %d devices, status %+v", known, now, len(a.heard()), a.Status())
		}
		asks := b.asked()
		time.Sleep(time.Hour)
		if n := b.asked() - asks; n < 3 || n > 8 || len(b.heard()) != 0 { // now and then, as others could say that it has nothing
			t.Errorf("asked %d times more; gw-1 was told %d", b.asked()-asks, len(b.heard()))
		}
		one := s.entry()
		b.Mirror.Apply(&wire.Site{Entries: [][]byte{one}, Orders: [][]byte{s.order(one)}})
		s.until(30*time.Second, "gw-0 has one more, and its order", func() bool { return a.Mirror.Status().Devices == len(all)+1 && a.Mirror.Status().Orders == 1 })
		a.set(Relayed, Load{})
		b.Mirror.Apply(&wire.Site{Entries: [][]byte{s.entry()}})
		time.Sleep(time.Hour)
		if a.Mirror.Status().Devices != len(all)+1 {
			t.Error("a gateway with a way to the core asks its sibling")
		}
	})
}

// offers makes a gateway one that hands out what a test says.
func (g *gateway) offers(answer func(q wire.MirrorAsk, send func(wire.Type, any) error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx := g.ctx
	g.handler = func(from string, p wire.Purpose, c net.Conn) {
		switch p {
		case wire.PurposeGossip:
			g.Gossip(ctx, from, c)
		case wire.PurposePackets:
			g.Packets(ctx, from, c)
		case wire.PurposeMirror:
			_, body, err := wire.NewFrameReader(c, 512).Next()
			if err != nil {
				return
			}
			var q wire.MirrorAsk
			g.site.ok(wire.Unmarshal(body, &q))
			answer(q, func(t wire.Type, m any) error {
				b, err := wire.AppendFrame(nil, t, m)
				if err != nil {
					return err
				}
				_, err = c.Write(b)
				return err
			})
		case wire.PurposeRelay:
		}
	}
}

// What is damaged, forged, old, of elsewhere or no page at all is refused, counted and logged with the sibling's name; what was right
// before it is taken.
func TestWhatIsOffered(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(s *site, send func(wire.Type, any) error) error
		why   error
		taken uint64
	}{
		{"damaged", func(s *site, send func(wire.Type, any) error) error {
			good, bad := s.entry(), s.entry()
			bad[len(bad)-1] ^= 1
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{good, bad, s.entry()}})
		}, seal.ErrSignature, 1},
		{"forged", func(s *site, send func(wire.Type, any) error) error {
			other := &site{t: s.t, authority: s.other(), number: 1000}
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{other.entry()}})
		}, seal.ErrSignature, 0},
		{"of another site", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{s.entry(func(e *seal.DeviceEntry) { e.Site = "plant-8" })}})
		}, mirror.ErrForeign, 0},
		{"unknown to the core", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{s.entry(func(e *seal.DeviceEntry) { e.Site, e.Number = "", 0 })}})
		}, mirror.ErrForeign, 0},
		{"of another fleet", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{s.entry(func(e *seal.DeviceEntry) { e.Fleet = "other" })}})
		}, seal.ErrSignature, 0},
		{"old", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{s.entry(func(e *seal.DeviceEntry) { e.Number = 1 })}})
		}, mirror.ErrOld, 0},
		{"twice", func(s *site, send func(wire.Type, any) error) error {
			b := s.entry()
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: [][]byte{b, b}})
		}, mirror.ErrOld, 1},
		{"old list", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{List: s.list, Entries: [][]byte{s.entry()}})
		}, mirror.ErrOld, 0},
		{"list of another site", func(s *site, send func(wire.Type, any) error) error {
			b, err := seal.SealGatewayList(&seal.GatewayList{Version: 1, Fleet: "acme", Site: "plant-8", ClusterEpoch: 1, Number: 900}, s.authority)
			s.ok(err)
			return send(wire.TypeMirrorPage, wire.MirrorPage{List: b})
		}, seal.ErrSignature, 0},
		{"forged list", func(s *site, send func(wire.Type, any) error) error {
			other := &site{t: s.t, authority: s.other(), number: 1000}
			other.relist()
			return send(wire.TypeMirrorPage, wire.MirrorPage{List: other.list})
		}, seal.ErrSignature, 0},
		{"no page", func(_ *site, send func(wire.Type, any) error) error { return send(wire.TypeAsk, wire.Ask{}) }, wire.ErrMalformed, 0},
		{"no CBOR", func(_ *site, send func(wire.Type, any) error) error { return send(wire.TypeMirrorPage, "page") }, wire.ErrMalformed, 0},
		{"too many", func(s *site, send func(wire.Type, any) error) error {
			return send(wire.TypeMirrorPage, wire.MirrorPage{Entries: make([][]byte, wire.MaxPage+1)})
		}, wire.ErrMalformed, 0},
		{"endless", func(_ *site, send func(wire.Type, any) error) error {
			for {
				if err := send(wire.TypeMirrorPage, wire.MirrorPage{More: true}); err != nil {
					return nil //nolint:nilerr // it hung up
				}
			}
		}, wire.ErrMalformed, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inSite(t, 2, func(t *testing.T, s *site) {
				a, b := s.gateways[0], s.gateways[1]
				s.number = 100
				first := s.entry()
				for _, g := range s.gateways {
					g.Mirror.Apply(&wire.Site{Entries: [][]byte{first}, UptoEpoch: 1, Upto: s.number})
				}
				b.set(Direct, Load{})
				s.until(time.Minute, "both see both", s.whole(s.listed...))
				b.offers(func(_ wire.MirrorAsk, send func(wire.Type, any) error) { s.ok(c.make(s, send)) })
				asked := a.asking.sibling("gw-1")
				err := a.exchange(t.Context(), "gw-1", asked)
				if !errors.Is(err, errOffer) || !errors.Is(err, c.why) || a.Status().Taken != c.taken {
					t.Errorf("error %v, status %+v", err, a.Status())
				}
				known := a.Mirror.Known() // a session with the core begins
				a.Mirror.Apply(&wire.Site{UptoEpoch: 1, Upto: known.Number + 5})
				if now := a.Mirror.Known(); now.Number != known.Number+5 {
					t.Errorf("known %v stays after an offer that was not believed", now)
				}
			})
		})
	}
}

// A sibling that claims the newest facts there can be, and has none, is asked ever more seldom, and keeps nobody from having those of
// another one.
func TestWhoClaimsAndHasNothing(t *testing.T) {
	inSite(t, 3, func(t *testing.T, s *site) {
		a, liar, b := s.gateways[0], s.gateways[1], s.gateways[2]
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		b.set(Direct, Load{})
		asks := 0
		liar.offers(func(wire.MirrorAsk, func(wire.Type, any) error) { asks++; time.Sleep(20 * time.Second) })
		// Its claims are the highest that there are.
		liar.Mirror.Apply(&wire.Site{Entries: [][]byte{s.entry(func(e *seal.DeviceEntry) { e.ClusterEpoch, e.Number = 1<<63, 1<<63 })}})
		time.Sleep(10 * time.Second)
		b.Mirror.Apply(&wire.Site{Entries: [][]byte{s.entry()}})
		s.until(time.Minute, "gw-0 has it from the other one", func() bool { return a.Mirror.Status().Devices == 1 })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if a.Mirror.Status().Devices != 1 || asks < 10 || asks > 60 { // by gw-0 alone: the liar says that it has no uplink, and asks nobody
			t.Errorf("asked %d times in two hours, %d devices", asks, a.Mirror.Status().Devices)
		}
		if l := a.log.String(); strings.Contains(l, "not believed") {
			t.Errorf("silence is no offer:\n%s", l)
		}
	})
}

// A sibling can make a gateway work for it a few times a minute, and no more; who is not listed not at all.
func TestAnswersAreBounded(t *testing.T) {
	inSite(t, 2, func(t *testing.T, s *site) {
		b := s.gateways[1]
		b.Mirror.Apply(&wire.Site{Entries: [][]byte{s.entry()}})
		ask := func(from string) bool {
			c := s.connect(from, b, wire.PurposeMirror)
			defer c.Close()
			f, err := wire.AppendFrame(nil, wire.TypeMirrorAsk, wire.MirrorAsk{})
			s.ok(err)
			if _, err := c.Write(f); err != nil {
				return false
			}
			p, err := nextPage(wire.NewFrameReader(c, wire.MaxFrame))
			return err == nil && len(p.Entries) == 1 && !p.More && len(p.List) > 0
		}
		answered := 0
		for range 100 {
			if ask("gw-0") {
				answered++
			}
		}
		if answered != answersAtOnce || ask("gw-9") {
			t.Errorf("%d answers", answered)
		}
		time.Sleep(10 * time.Second)
		if !ask("gw-0") {
			t.Error("no answer after a while")
		}
	})
}
